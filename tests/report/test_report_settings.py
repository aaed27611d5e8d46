"""Sweeps, oracles and seeds in reports."""

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lightning_unlearn.errors import InputError
from lightning_unlearn.report import (
    csv,
    markdown,
    recency,
    render,
    save_figures,
    scores,
    short_names,
    short_value,
    summarize,
)
from lightning_unlearn.report.arrangement import arrange, cells_of, oracles_of, same_for_all
from lightning_unlearn.report.looks import looks_of_paths
from lightning_unlearn.report.oracles import Oracles
from lightning_unlearn.report.reading import read_records

LR, BETA = "data.unlearn.lr", "trainer.callbacks.beta"
FIRST, LAST = ("f-a-b", 1), ("a-b-f", 3)


def run(method, path, values, setting=None, seed=0, steps=(0, 10), stage="unlearn"):
    """Records of one run; `values` maps a measure to its values at `steps`."""
    return [
        {
            "study": "s",
            "path": path[0],
            "position": path[1],
            "method": method,
            "seed": seed,
            **(setting or {}),
            "stage": stage,
            "step": step,
            "metric": measure,
            "value": value,
        }
        for measure, series in values.items()
        for step, value in zip(steps, series, strict=True)
    ]


def oracle(path, values, setting=None, seed=0):
    """Records of the oracle of a path; `values` maps a measure to its value."""
    series = {measure: (value,) for measure, value in values.items()}
    return run("oracle", path, series, setting, seed, (0,), "oracle")


def drop(method, path, by, setting=None, seed=0):
    return run(method, path, {"forget/mean": (-1.0, -1.0 - by)}, setting, seed)


def swept():
    """GA at two learning rates, NPO at two betas: last slowest but for one setting."""
    rows = []
    for setting, last in (({LR: 1e-4, BETA: None}, 0.5), ({LR: 3e-5, BETA: None}, 3.0)):
        rows += drop("GA", FIRST, 2.0, setting) + drop("GA", LAST, last, setting)
    for beta in (0.5, 1):
        setting = {LR: 1e-4, BETA: beta}
        rows += drop("NPO", FIRST, 1.0, setting) + drop("NPO", LAST, 0.25, setting)
    return pd.DataFrame(rows)


def test_names_are_the_shortest_that_differ():
    keys = ["data.unlearn.lr", "data.recipe.lr", "model.lora.r", "lr", "data.unlearn.schedule"]
    assert short_names(keys) == {
        "data.unlearn.lr": "unlearn.lr",
        "data.recipe.lr": "recipe.lr",
        "model.lora.r": "r",
        "lr": "lr",
        "data.unlearn.schedule": "schedule",
    }
    assert short_names(["data.unlearn.lr"] * 2) == {"data.unlearn.lr": "lr"}
    assert short_names([]) == {}


def test_no_two_short_names_are_alike():
    parts = ["a", "b", "lr"]
    every = [".".join(p) for n in (1, 2, 3) for p in itertools.product(parts, repeat=n)]
    draw = np.random.default_rng(0)
    for _ in range(200):
        keys = [str(key) for key in draw.choice(every, size=6, replace=False)]
        names = short_names(keys)
        assert len(set(names.values())) == len(keys)
        for key, name in names.items():
            assert key == name or key.endswith("." + name)
            shorter = name.partition(".")[2]
            if shorter:
                sharing = [k for k in keys if k == shorter or k.endswith("." + shorter)]
                assert len(sharing) > 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3e-4, "0.0003"),
        (3e-5, "3e-5"),
        (1.5e-10, "1.5e-10"),
        (1e16, "1e16"),
        (16.0, "16"),
        (-0.5, "-0.5"),
        (16, "16"),
        (True, "true"),
        ("cosine", "cosine"),
        (None, "null"),
    ],
)
def test_values_are_written_as_in_yaml(value, text):
    assert short_value(value) == text


def test_scores_keep_settings_apart():
    found = scores(swept())
    assert list(found.columns) == ["method", "path", "position", "seed", LR, BETA, "forget_score"]
    assert found["forget_score"].tolist() == pytest.approx([2, 0.5, 2, 3, 1, 0.25, 1, 0.25])
    assert found[LR].tolist() == [1e-4, 1e-4, 3e-5, 3e-5, 1e-4, 1e-4, 1e-4, 1e-4]
    assert found[BETA].isna().tolist() == [True] * 4 + [False] * 4
    assert csv(found).splitlines()[1] == f"GA,f-a-b,1,0,{1e-4},,2.0"


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


def test_the_table_of_a_sweep():
    assert markdown(scores(swept())).splitlines() == [
        "| method | setting | p | path | forget score |",
        "| --- | --- | ---: | --- | ---: |",
        "| GA | lr = 0.0001 | 1 | **f**-a-b | 2.000 |",
        "|  |  | 3 | a-b-**f** | **0.500** |",
        "|  | lr = 3e-5 | 1 | **f**-a-b | **2.000** |",
        "|  |  | 3 | a-b-**f** | 3.000 |",
        "| NPO | lr = 0.0001, beta = 0.5 | 1 | **f**-a-b | 1.000 |",
        "|  |  | 3 | a-b-**f** | **0.250** |",
        "|  | lr = 0.0001, beta = 1 | 1 | **f**-a-b | 1.000 |",
        "|  |  | 3 | a-b-**f** | **0.250** |",
        "",
        "Bold: the lowest forget score of a method and setting, where forgetting was slowest.",
    ]
    out = io.StringIO()
    Console(file=out, width=140).print(render(scores(swept())))
    assert "lr = 0.0001, beta = 1" in out.getvalue()


def test_a_setting_without_any_value_is_said_to_have_none():
    rows = drop("GA", FIRST, 1.0, {BETA: None}) + drop("NPO", FIRST, 1.0, {BETA: 0.5})
    lines = markdown(scores(pd.DataFrame(rows))).splitlines()
    assert lines[2].startswith("| GA | n/a | 1 |")
    assert lines[3].startswith("| NPO | beta = 0.5 | 1 |")


def test_recency_counts_settings_before_it_names_them():
    found = recency(scores(swept()))
    assert [line.partition(",")[0] for line in found] == [
        "GA: the last position is the slowest in 1 of 2 settings.",
        "GA (lr = 0.0001): position 3 forgot slowest",
        "GA (lr = 3e-5): position 1 forgot slowest",
        "NPO: the last position is the slowest in 2 of 2 settings.",
        "NPO (lr = 0.0001",
        "NPO (lr = 0.0001",
        "In all",
    ]
    assert found[-1].startswith("In all, the last position is the slowest in 3 of 4 trials,")


def test_recency_leaves_settings_out_of_the_count_that_show_nothing():
    known = swept()
    known = known[(known["method"] == "GA") & ((known[LR] < 1e-4) | (known["position"] == 3))]
    assert recency(scores(known))[0] == (
        "GA: the last position is the slowest in 0 of 1 settings; in 1 more it cannot be compared "
        "with another."
    )
    assert recency(scores(known[known["position"] == 3]))[0] == (
        "GA: in none of 2 settings can the last position be compared with another."
    )


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
        rows += run(method, path, {"forget/mean": (start, end)}, setting, seed)
    for path, seed, r in itertools.product((FIRST, LAST), (0, 1), (0.1, 1)):
        if (path, seed) != (LAST, 1):
            setting = {LR: None, "model.lora.r": r}
            rows += oracle(path, {"forget/mean": draw.normal()}, setting, seed)
    draw.shuffle(rows)
    found = scores(pd.DataFrame(rows))
    assert len(found) == len(runs) and "oracle" not in set(found["method"])
    assert found.columns.get_loc("oracle_gap") == found.columns.get_loc("forget_score") + 1
    known = 0
    for row in found.to_dict("records"):
        setting = {LR: row[LR], "model.lora.r": row["model.lora.r"]}
        path = (row["path"], row["position"])
        wanted = naive_gap(rows, row["method"], path, row["seed"], setting)
        assert row["oracle_gap"] == pytest.approx(wanted, abs=1e-12, nan_ok=True)
        known += not math.isnan(wanted)
    assert known == 2 * 2 * 2 * 3


def test_the_oracle_that_names_more_of_the_setting_is_taken():
    rows = [("m", "a-f", 2, 0, (None, None), 1.0), ("m", "a-f", 2, 0, (1, None), 2.0)]
    for order in (rows, rows[::-1]):
        oracles = Oracles(order)
        assert oracles.value("m", "a-f", 2, (1, 5), 0) == 2.0
        assert oracles.value("m", "a-f", 2, (3, 5), 0) == 1.0
        assert math.isnan(oracles.value("m", "a-f", 2, (1, 5), 1))
    several = Oracles([*rows, ("m", "a-f", 2, 7, (None, None), 4.0)])
    assert several.value("m", "a-f", 2, (1, 5)) == 3.0


def test_the_table_shows_gaps_where_there_are_oracles():
    rows = drop("GA", FIRST, 2.0) + drop("GA", LAST, 1.0) + oracle(FIRST, {"forget/mean": -4.0})
    found = scores(pd.DataFrame(rows))
    assert markdown(found).splitlines()[:4] == [
        "| method | p | path | forget score | oracle gap |",
        "| --- | ---: | --- | ---: | ---: |",
        "| GA | 1 | **f**-a-b | 2.000 | +1.000 |",
        "|  | 3 | a-b-**f** | **1.000** | n/a |",
    ]
    assert "less that of the model retrained" in markdown(found)
    other = drop("GA", FIRST, 2.0) + oracle(FIRST, {"answers/a": -4.0})
    assert "oracle_gap" not in scores(pd.DataFrame(other))


def test_settings_share_a_row_where_nulls_allow_it():
    study = read_records(swept())
    rows = arrange(study.runs, study)
    named = [[cell and f"{cell[0]} {study.name(cell[1])}" for cell in row] for row in rows]
    assert named == [
        ["GA lr = 0.0001", "NPO lr = 0.0001, beta = 0.5"],
        ["GA lr = 3e-5", None],
        [None, "NPO lr = 0.0001, beta = 1"],
    ]


@pytest.mark.parametrize(
    ("of_last", "same"), [((-4.0, -5.0), True), ((-4.0, -5.5), False), (None, False)]
)
def test_oracles_are_one_line_where_all_paths_have_the_same(of_last, same):
    rows = []
    for path in (FIRST, LAST):
        for seed in (0, 1):
            rows += run("GA", path, {"forget/label": (-1.0, -2.0)}, seed=seed)
    for seed, value in enumerate((-4.0, -5.0)):
        rows += oracle(FIRST, {"forget/label": value}, seed=seed)
    for seed, value in enumerate(of_last or ()):
        rows += oracle(LAST, {"forget/label": value}, seed=seed)
    study = read_records(pd.DataFrame(rows))
    (own,) = cells_of(study, "forget/label").values()
    found = oracles_of(study, "forget/label", own)
    assert found[FIRST] == -4.5
    assert same_for_all([(own, found)], looks_of_paths(study.runs)) is same


def curves(methods, paths, settings=({},), seeds=(0,), oracles=True):
    rows = []
    for method, path, setting, seed in itertools.product(methods, paths, settings, seeds):
        slope = (path[1] + seed / 4) * setting.get(LR, 1e-4) * 1e3
        values = {f"answers/{stage}": (-1.0, -1.0 - slope) for stage in path[0].split("-")}
        label = (-0.5, -0.5 - 5 * slope)
        values |= {"forget/label": label, "forget/mean": label}
        rows += run(method, path, values, setting, seed)
    if oracles:
        null = dict.fromkeys(settings[0])
        for path, seed in itertools.product(paths[1:], seeds):
            values = {"forget/mean": -3.0, "forget/label": -3.0 - path[1], "answers/a": -1.0}
            rows += oracle(path, values, null, seed)
    return pd.DataFrame(rows)


ORDERS = [("-".join(p), p.index("f") + 1) for p in itertools.permutations("abcf")]


@pytest.mark.parametrize(
    "records",
    [
        curves(("GA", "NPO"), (FIRST, LAST), seeds=range(4)),
        curves(
            ("GA",), (FIRST, LAST), [{LR: lr} for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 1)]
        ),
        curves(("GA", "NPO"), (FIRST, LAST), [{LR: 1e-4}, {LR: 3e-4}], seeds=(0, 1)),
        pd.concat([swept().assign(metric="forget/label"), swept().assign(metric="answers/a")]),
        curves(("GA",), ORDERS, seeds=(0, 1)),
    ],
    ids=["oracles", "one method", "grid", "nulls", "24 paths"],
)
def test_figures_repeat_to_the_byte(records, tmp_path):
    first = save_figures(records, tmp_path / "first")
    second = save_figures(records, tmp_path / "second")
    assert [path.name for path in first[:2]] == ["forget.png", "utility.png"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_oracles_change_the_figures_but_no_score(tmp_path):
    records = curves(("GA",), (FIRST, LAST))
    bare = records[records["stage"] == "unlearn"]
    with_oracles = save_figures(records, tmp_path / "with")
    without = save_figures(bare, tmp_path / "without")
    assert [path.name for path in without] == ["forget.png", "utility.png", "tradeoff.png"]
    pairs = zip(with_oracles, without, strict=True)
    differ = [one.read_bytes() != two.read_bytes() for one, two in pairs]
    assert differ == [True, True, False]
    pd.testing.assert_frame_equal(scores(records).drop(columns="oracle_gap"), scores(bare))


def test_a_summary_holds_scores_and_findings():
    records = swept()
    found = summarize(records, notes=["GA a-f failed: broken"])
    table = scores(records)
    assert found.findings[: len(recency(table))] == recency(table)
    assert found.findings[len(recency(table)) :] == [
        "Path dependence is left out: with one seed the spread of paths cannot be told from that "
        "of seeds; give the study several seeds.",
        "The distance to the oracle (found no measure distance/GROUP) and KLoM (found no "
        "margin/GROUP per example of runs and their oracles) are left out; they take the "
        "monitor OracleDistance, and oracle: true in the study with its oracles made (--only may "
        "leave them out).",
        "GA a-f failed: broken",
    ]
    assert found.csv == csv(table)
    bullets = "".join(f"- {line}\n" for line in found.findings)
    assert found.markdown == f"{markdown(table)}\n{bullets}"


@pytest.mark.parametrize(
    "records",
    [pd.DataFrame(), swept().head(0), swept().assign(metric="grad_norm")],
    ids=["no columns", "no rows", "unknown measures"],
)
def test_nothing_measured_is_said(records, tmp_path):
    found = summarize(records, pd.DataFrame(), ["GA a-f failed: broken"])
    assert found.markdown == (
        "Nothing was measured, so there is no table.\n\n- GA a-f failed: broken\n"
    )
    assert found.csv == "" and str(found.renderable) == found.markdown.splitlines()[0]
    assert found.findings == ["GA a-f failed: broken"]
    assert save_figures(records, tmp_path) == []


def test_oracles_alone_are_said_to_be_alone(tmp_path):
    records = pd.DataFrame(oracle(FIRST, {"forget/mean": -4.0, "answers/a": -1.0}))
    assert summarize(records).markdown.startswith("Only oracles were measured")
    assert summarize(records).findings == []
    assert scores(records).empty and recency(scores(records)) == []
    assert save_figures(records, tmp_path) == []
