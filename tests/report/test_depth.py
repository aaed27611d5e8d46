"""Superficial or deep forgetting: tables and verdicts."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from depth_tables import PATHS, answers, drawn, one
from rich.console import Console

from lightning_unlearn.analysis.depth import depth
from lightning_unlearn.errors import InputError
from lightning_unlearn.report.figures.files import save_figures
from lightning_unlearn.report.sections.depth import depth_findings
from lightning_unlearn.report.summary import summarize
from lightning_unlearn.report.tables import csv
from lightning_unlearn.statistics.intervals import wilson

LR = "data.unlearn.lr"


def naive_verdict(first, last):
    """By the words of the docstring, on values by stage."""
    falls = {stage for stage in "CU" if last[stage] < first[stage]}
    below = {stage for stage in "CU" if last[stage] < last["R"]}
    if falls == below == {"C", "U"}:
        return "deep"
    if "U" in falls and below == {"U"}:
        return "superficial"
    return "neither"


@pytest.mark.parametrize(
    ("refusal", "other", "forgotten", "verdict"),
    [
        ((-2, -2), (-1, -3), (-1, -9), "deep"),
        ((-2, -2), (-1, -1.5), (-1, -9), "superficial"),
        ((-2, -2), (-1, -2), (-1, -9), "superficial"),
        ((-2, -2), (-1, -3), (-1, -1.5), "neither"),
        ((-2, -2), (-3, -2.5), (-1, -9), "neither"),
        ((-2, -1), (-1, -0.5), (-3, -3), "neither"),
        ((-2, -2), (-1, math.nan), (-1, -9), None),
    ],
)
def test_verdicts(refusal, other, forgotten, verdict):
    found = depth(one(refusal, other, forgotten))["verdict"].tolist()
    assert found == [verdict] or (verdict is None and pd.isna(found[0]))


def test_depths_equal_those_of_a_loop_over_the_rows():
    records, examples = drawn(seeds=(0, 1), methods=("GA", "NPO"))
    found = depth(records, examples)
    assert len(found) == 24
    share = ["deep_share", "deep_share_low", "deep_share_high", "prompts"]
    ends = ["before", "after", "change", "change low", "change high"]
    assert sorted(found.columns) == sorted(
        ["method", "path", "position", "seed", "forget", "verdict", *share]
        + [f"{stage} {end}" for stage in "RCU" for end in ends]
    )
    for row in found.to_dict("records"):
        mine = {}
        for each in examples.to_dict("records"):
            if all(each[key] == row[key] for key in ("method", "path", "position", "seed")):
                mine[each["example"], each["metric"][-1], each["step"]] = each["value"]
        prompts = sorted({prompt for prompt, _, _ in mine})
        first, last = {}, {}
        for stage in "RCU":
            start = [mine[prompt, stage, 0] for prompt in prompts]
            end = [mine[prompt, stage, 10] for prompt in prompts]
            changes = np.subtract(end, start)
            half = 1.959964 * changes.std(ddof=1) / math.sqrt(len(changes))
            first[stage], last[stage] = np.mean(start), np.mean(end)
            wanted = [first[stage], last[stage], changes.mean()]
            wanted += [changes.mean() - half, changes.mean() + half]
            assert [row[f"{stage} {end}"] for end in ends] == pytest.approx(wanted)
        assert row["verdict"] == naive_verdict(first, last)
        verdicts = [
            naive_verdict(*({s: mine[prompt, s, step] for s in "RCU"} for step in (0, 10)))
            for prompt in prompts
        ]
        assert row["prompts"] == 7
        assert row["deep_share"] == pytest.approx(verdicts.count("deep") / 7)
        low, high = wilson(verdicts.count("deep"), 7)
        assert (row["deep_share_low"], row["deep_share_high"]) == (low, high)
    assert {"deep", "superficial"} <= set(found["verdict"])


def test_examples_missing_at_one_end_or_in_one_stage_are_left_out():
    records, examples = drawn(PATHS[:1])
    start = (examples["example"] == 0) & (examples["step"] == 0)
    other = (examples["example"] == 1) & (examples["metric"] == "answers/C")
    found = depth(records, examples[~start & ~other]).iloc[0]
    assert found["prompts"] == 5
    wanted = depth(records, examples[~examples["example"].isin([0, 1])]).iloc[0]
    assert found["C change low"] == wanted["C change low"]
    assert found["U change low"] != wanted["U change low"]


def test_runs_without_examples_have_no_interval():
    records, examples = drawn(PATHS[:2])
    found = depth(records, examples[examples["path"] == PATHS[1][0]])
    found = found.set_index("path").loc[[PATHS[0][0], PATHS[1][0]]]
    assert found["U change low"].isna().tolist() == [True, False]
    assert found["deep_share"].isna().tolist() == [True, False]
    assert found["prompts"].tolist() == [0, 7]
    assert "±" not in summarize(records).markdown
    assert summarize(records, pd.DataFrame()).csv == csv(depth(records))
    single = examples[examples["example"] == 0]
    assert depth(records, single)["U change low"].isna().all()


def test_other_stages_have_depths_but_no_verdict(tmp_path):
    paths = [("a-b-c-f", 4), ("f-a-b-c", 1)]
    values = {name: (-1, -2, -3) for name in "abcf"}
    records = pd.DataFrame([row for path in paths for row in answers(path, values)])
    found = depth(records)
    assert "verdict" not in found
    assert (
        found[["forget", "a before", "f after", "c change"]].values.tolist()
        == [["f", -1, -3, -2]] * 2
    )
    assert depth_findings(depth(records)) == []
    assert [file.name for file in save_figures(records, tmp_path)] == ["utility.png", "answers.png"]
    judged = answers(PATHS[0], {name: (-1, -2, -3) for name in "RCU"})
    lengths = pd.DataFrame([*judged, *answers(("R-U", 2), {"U": (0, 0, 0)})])
    assert depth(lengths)["verdict"].isna().tolist() == [False, True]


def test_one_step_shows_no_change():
    records, examples = drawn(PATHS[:1])
    found = depth(records[records["step"] == 0], examples[examples["step"] == 0])
    assert found[["U before", "U change", "U change low"]].isna().all(axis=None)
    assert found["U after"].notna().all() and found["verdict"].isna().all()
    assert depth_findings(depth(records[records["step"] == 0])) == []


def test_findings_of_one_seed():
    records = pd.concat(
        [
            one((-2, -2.5), (-1, -3), (-1, -9), ("R-C-U", 3)),
            one((-1, -1), (-3, -4), (-2, -9), ("U-C-R", 1)),
            one((-2, -2), (-1, -1), (-2, -9), ("U-R-C", 1)),
        ]
    )
    assert depth_findings(depth(records)) == [
        "GA: forgetting was deep on 2 of 3 paths, superficial on 1 and neither on 0.",
        "GA, U-C-R: deep; U from -2.000 to -9.000 (-7.000), C from -3.000 to -4.000 (-1.000) and R "
        "from -1.000 to -1.000 (0.000) nats per token; C was below R already before.",
        "GA, U-R-C: superficial; U from -2.000 to -9.000 (-7.000), C from -1.000 to -1.000 (0.000) "
        "and R from -2.000 to -2.000 (0.000) nats per token.",
        "GA, R-C-U: deep; U from -1.000 to -9.000 (-8.000), C from -1.000 to -3.000 (-2.000) and R "
        "from -2.000 to -2.500 (-0.500) nats per token.",
    ]


def test_findings_with_examples_carry_their_uncertainty():
    rows = []
    for example in range(4):
        values = {"R": (-2, -2), "C": (-1, -3 + (example > 2) * 2), "U": (-1, -8 - example)}
        new = answers(PATHS[0], values, setting={LR: 3e-5}, steps=(0, 10))
        rows += [{**row, "example": example} for row in new]
    examples = pd.DataFrame(rows)
    keys = [name for name in examples.columns if name not in ("example", "value")]
    records = examples.groupby(keys, sort=False)["value"].mean().reset_index()
    half = 1.959964 * np.std([-7, -8, -9, -10], ddof=1) / 2
    assert depth_findings(depth(records, examples)) == [
        "GA (lr = 3e-5): forgetting was deep on 1 of 1 path, superficial on 0 and neither on 0.",
        f"GA (lr = 3e-5), R-C-U: deep; U from -1.000 to -9.500 (-8.500 ± {half:.3f}), C from "
        "-1.000 to -2.500 (-1.500 ± 0.980) and R from -2.000 to -2.000 (0.000 ± 0.000) nats per "
        "token; 75 % of 4 prompts are deep (95 % interval 30 to 95 %).",
    ]


def test_findings_of_several_seeds():
    records = pd.concat(
        [
            one((-2, -2), (-1, -3), (-1, -9)),
            one((-2, -2), (-1, -1), (-1, -8)).assign(seed=1),
            one((-2, -2), (-3, -5), (-1, -7)).assign(seed=2),
        ]
    )
    assert depth_findings(depth(records)) == [
        "GA: forgetting was deep on 2 of 3 runs (1 path, 3 seeds per path), superficial on 1 and "
        "neither on 0.",
        "GA, R-C-U: deep in 2 and superficial in 1 of 3 seeds; U from -1.000 to -8.000 (-7.000), C "
        "from -1.667 to -3.000 (-1.333) and R from -2.000 to -2.000 (0.000) nats per token, mean "
        "over seeds; C was below R already before in 1 of 3 seeds.",
    ]
    (line,) = [line for line in summarize(records).markdown.splitlines() if "R-C-**U**" in line]
    assert line == (
        "| GA | 3 | R-C-**U** | 3 | -2.000, -2.000 | 0.000 (0.000 to 0.000) | -1.667, -3.000 | "
        "-1.333 (-2.000 to 0.000) | -1.000, -8.000 | -7.000 (-8.000 to -6.000) | "
        "deep 2, superficial 1 |"
    )


def test_a_summary_without_forget_measures_is_one_of_depths():
    records, examples = drawn()
    found = summarize(records, examples, ["one failed"])
    assert found.findings == [*depth_findings(depth(records, examples)), "one failed"]
    assert found.csv == csv(depth(records, examples))
    assert found.markdown.startswith("| method | p | path | R before, after | R change |")
    assert found.markdown.endswith("- one failed\n") and "±: 95 % over prompts." in found.markdown
    out = io.StringIO()
    Console(file=out, width=160).print(found.renderable)
    assert "superficial" in out.getvalue()
    label = records.head(1).assign(metric="forget/mean")
    assert (
        summarize(pd.concat([records, label]))
        .csv.splitlines()[0]
        .endswith("forget_score,forget_label,R utility,C utility")
    )


def test_examples_of_another_study_are_refused():
    records, examples = drawn(PATHS[:1])
    with pytest.raises(InputError, match=r"examples: found the sweep keys \(none\), expected .*lr"):
        swept = records.copy()
        swept.insert(int(swept.columns.get_loc("stage")), LR, 1e-3)
        depth(swept, examples)
    with pytest.raises(InputError, match=r"examples: found the columns .*expected also example;"):
        depth(records, records)
    with pytest.raises(InputError, match=r"whole numbers in position, example, seed and step"):
        depth(records, examples.assign(example="first"))
