"""Scores of runs against numbers worked out by hand, and means over seeds."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from score_tables import run, table
from study_tables import values
from sweep_tables import BETA, FIRST, LAST, LR, oracle, swept
from sweep_tables import run as run_of

from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.errors import InputError
from lightning_unlearn.report.figures.files import save_figures
from lightning_unlearn.report.sections.recency import recency
from lightning_unlearn.report.sections.scores import scores_table
from lightning_unlearn.report.tables import csv
from lightning_unlearn.statistics import mean_interval


def test_scores_equal_the_numbers_worked_out_by_hand(example):
    found = scores(example)
    assert list(found.columns) == [
        "method",
        "path",
        "position",
        "seed",
        "forget_score",
        "forget_label",
        "tofu utility",
        "math utility",
        "math accuracy change",
    ]
    assert found.iloc[0].tolist() == [
        *["NPO", "safety-tofu-math", 1, 0, 7.75],
        *["paper", 0.75, 0.5, -0.25],
    ]
    assert found.iloc[1].drop("math utility").tolist() == [
        *["NPO", "tofu-math-safety", 3, 0],
        *[0.25, "paper", -1.5, 0.125],
    ]
    assert math.isnan(found.iloc[1]["math utility"])
    assert found.iloc[2, :5].tolist() == ["GA|x", "tofu-math-safety", 3, 7, 0.0]
    assert math.copysign(1, found.iloc[2]["forget_score"]) == 1
    assert found.iloc[2, 6:].isna().all()


def test_scores_do_not_depend_on_row_order_repeats_or_foreign_rows(example):
    training = example.assign(stage="tofu", value=99.0)
    mixed = pd.concat([example, example.sample(frac=1.0, random_state=1), training])
    pd.testing.assert_frame_equal(scores(mixed), scores(example))


def test_scores_without_any_known_measure_are_empty(example):
    empty = scores(example[example["metric"] == "loss"])
    assert len(empty) == 0
    assert list(empty.columns) == ["method", "path", "position", "seed", "forget_score"]
    assert recency(empty) == []
    assert scores_table(empty).markdown().count("\n") == 2


def test_one_measured_step_shows_no_change(example):
    found = scores(example[example["step"] == 0])
    assert len(found) == 3
    assert found.drop(columns="forget_label").iloc[:, 4:].isna().all(axis=None)
    assert recency(found)[0] == (
        "NPO: no forget score was measured, so positions cannot be compared."
    )


def test_the_forget_stage_of_one_path_is_another_stage_of_the_next():
    values = {"answers/a": (0, 0, -0.25), "answers/b": (0, 0, -0.5)}
    found = scores(table(run("GA", "a-b", 1, values) + run("GA", "a-b", 2, values)))
    assert found["position"].tolist() == [1, 2]
    assert found["b utility"].isna().tolist() == [False, True]
    assert found.loc[0, "b utility"] == 0.5
    assert found.loc[1, "a utility"] == 0.75


@pytest.mark.parametrize("measure", [scores, lambda records: save_figures(records, "unused")])
def test_wrong_records_are_refused(example, measure):
    with pytest.raises(InputError, match=r"expected also path, seed; pass the records"):
        measure(example.drop(columns=["path", "seed"]))
    with pytest.raises(InputError, match=r"path 'tofu-math-safety': found position 4, .*1 to 3"):
        measure(example.assign(position=example["position"].replace(3, 4)))
    with pytest.raises(InputError, match=r"step 0: found different values of 'forget/label'"):
        measure(pd.concat([example, example.assign(study="other", value=example["value"] + 1)]))
    with pytest.raises(InputError, match=r"not a number .*expected whole numbers in position"):
        measure(example.assign(seed=math.nan))


def test_scores_keep_settings_apart():
    found = scores(swept())
    assert list(found.columns) == [
        *["method", "path", "position", "seed", LR, BETA],
        *["forget_score", "forget_label"],
    ]
    assert found["forget_score"].tolist() == pytest.approx([2, 0.5, 2, 3, 1, 0.25, 1, 0.25])
    assert found[LR].tolist() == [1e-4, 1e-4, 3e-5, 3e-5, 1e-4, 1e-4, 1e-4, 1e-4]
    assert found[BETA].isna().tolist() == [True] * 4 + [False] * 4
    assert csv(found).splitlines()[1] == f"GA,f-a-b,1,0,{1e-4},,2.0,paper"


def test_nulls_of_any_kind_are_one_setting():
    rows = swept()
    text = rows.assign(**{BETA: rows[BETA].map({0.5: "half", 1.0: "one"}).astype(object)})
    text.loc[text.index[:3], BETA] = math.nan
    text.loc[text.index[3:6], BETA] = None
    assert len(scores(text)) == 8
    assert scores(text)[BETA].dropna().tolist() == ["half", "half", "one", "one"]


def test_different_values_of_one_setting_are_refused():
    rows = swept()
    twice = pd.concat([rows, rows.head(1).assign(value=7.0)])
    with pytest.raises(InputError, match=r"method 'GA', lr = 0.0001, path 'f-a-b', seed 0, step 0"):
        scores(twice)


def naive_gap(rows, method, path, seed, setting):
    """The gap of one run, row by row."""
    last, value, oracles = -1, math.nan, []
    for row in rows:
        same = (row["path"], row["position"], row["seed"]) == (*path, seed)
        if not same or row["metric"] != "forget/mean":
            continue
        if row["stage"] == "oracle":
            if all(row[key] is None or row[key] == setting[key] for key in setting):
                oracles.append(row["value"])
        elif (row["method"], *(row[key] for key in setting)) == (method, *setting.values()):
            last, value = max((last, value), (row["step"], row["value"]))
    return value - oracles[0] if oracles else math.nan


def test_oracle_gaps_equal_those_of_a_loop_over_the_rows():
    draw = np.random.default_rng(3)
    runs = list(itertools.product(("GA", "NPO"), (FIRST, LAST), (0, 1, 2), (1e-4, 3e-5), (0.1, 1)))
    rows = []
    for method, path, seed, lr, r in runs:
        start, end = draw.normal(size=2)
        setting = {LR: lr, "model.lora.r": r}
        rows += run_of(method, path, {"forget/mean": (start, end)}, setting, seed)
    for path, seed, r in itertools.product((FIRST, LAST), (0, 1), (0.1, 1)):
        if (path, seed) != (LAST, 1):
            setting = {LR: None, "model.lora.r": r}
            rows += oracle(path, {"forget/mean": draw.normal()}, setting, seed)
    draw.shuffle(rows)
    found = scores(pd.DataFrame(rows))
    assert len(found) == len(runs) and "oracle" not in set(found["method"])
    assert found.columns.get_loc("oracle_gap") == found.columns.get_loc("forget_score") + 2
    known = 0
    for row in found.to_dict("records"):
        setting = {LR: row[LR], "model.lora.r": row["model.lora.r"]}
        path = (row["path"], row["position"])
        wanted = naive_gap(rows, row["method"], path, row["seed"], setting)
        assert row["oracle_gap"] == pytest.approx(wanted, abs=1e-12, nan_ok=True)
        known += not math.isnan(wanted)
    assert known == 2 * 2 * 2 * 3


def test_means_over_seeds_equal_those_of_a_loop(study):
    table = study.tables["seeds.csv"]
    keys = ["method", "path", "position", "stage", "step", "metric"]
    assert len(table) == len(study.records.drop_duplicates(keys))
    for row in table.sample(40, random_state=0).to_dict("records"):
        found = mean_interval(values(study.records, **{key: row[key] for key in keys}))
        ends = (row["mean"], row["low"], row["high"])
        assert ends == pytest.approx((found.mean, found.low, found.high))
        assert (row["seeds"], row["missing"]) == (3, 0)
