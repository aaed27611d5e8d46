"""Forget scores of several labels: which one a table, chart or sentence is of, and never a mean."""

import math

import numpy as np
import pandas as pd
import pytest
from score_tables import FOUR, forgetting, run, table

from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.analysis.scores import score_name, scores
from lightning_unlearn.errors import InputError
from lightning_unlearn.report.figures.catalogue import build_figures
from lightning_unlearn.report.sections.recency import recency
from lightning_unlearn.report.study_report import Source, StudyReport
from lightning_unlearn.report.summary import summarize
from lightning_unlearn.report.terminal import curves, ends_table
from lightning_unlearn.report.verdict import verdict_of
from lightning_unlearn.settings.forget_labels import ALL_LABELS, PARTS, ForgetLabel, label_of


def named(rows, label):
    """The same rows with the names of another label's metrics."""
    paper = ForgetLabel("paper")
    names = {paper.metric(part): label.metric(part) for part in PARTS}
    return [{**row, "metric": names.get(row["metric"], row["metric"])} for row in rows]


def of_examples(records, spread, rows=20):
    """Values per example: those of the records, with a spread over rows that sums to 0."""
    draw = np.random.default_rng(0).normal(size=rows)
    draw -= draw.mean()
    return pd.concat(
        [records.assign(example=n, value=records["value"] + spread * draw[n]) for n in range(rows)]
    )


def test_metric_names_tell_the_label():
    names = [label.metric(part) for label in ALL_LABELS for part in PARTS]
    assert len(set(names)) == len(names) and all(name.startswith("forget/") for name in names)
    assert ForgetLabel("paper").metric("mean") == "forget/mean"
    assert ForgetLabel("own", end_of_turn=True).metric("mean") == "forget/own_end_mean"
    for label in ALL_LABELS:
        assert [label_of(label.metric(part)) for part in PARTS] == [(label, p) for p in PARTS]
    assert label_of("forget/other") is None and label_of("answers/mean") is None


@pytest.mark.parametrize("label", ALL_LABELS, ids=lambda label: label.name)
def test_every_output_names_the_label(label):
    rows = [
        *forgetting("GA", {1: 3, 4: 1}),
        *forgetting("GA", {1: 3.5, 4: 1.25}, seed=1),
    ]
    rows += [{**row, "metric": "forget/label"} for row in rows]
    for position, path in FOUR.items():
        if position in (1, 4):
            for seed in (0, 1):
                rows += run("GA", path, position, {"answers/tofu": (-1, -1, -1.5)}, seed)
    records = table(named(rows, label))
    report = StudyReport(Source("s", records))
    found = report.scores
    assert found["forget_score"].tolist() == [3, 1, 3.5, 1.25]
    assert set(found["forget_label"]) == {label.name}
    assert score_name(found) == f"forget score ({label.words})"
    summary = report.summary
    assert label.sentence in summary.markdown and f"({label.words})" in summary.findings[0]
    assert label.name in summary.files["path_dependence.csv"].splitlines()[1]
    assert label.metric("mean") in summary.files["seeds.csv"]
    figures = build_figures(records)
    assert label.noun in figures["forget"].title
    panels = figures["tradeoff"].panels
    assert all(panel is None or label.noun in panel.xlabel for panel in panels)
    said = " ".join(line for own in verdict_of(report).sentences.values() for line in own)
    assert said.count("forget score") == said.count(f"forget score ({label.words})") > 0
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as caught:
        console.print(curves(records))
    assert caught.get().startswith(f"{label.metric('label')}: log-likelihood of {label.noun}")


def test_scores_of_two_labels_are_not_averaged():
    rows = [
        *forgetting("GA", {1: 3, 4: 1}),
        *named(forgetting("GA", {1: 9, 4: 7}, seed=1), ForgetLabel("own")),
    ]
    records = table(rows)
    study = read_records(records)
    assert study.sweep == ("forget_label",) and study.label_words == "the label"
    found = scores(records)
    assert list(found.columns)[-2:] == ["forget_label", "forget_score"]
    assert found["forget_score"].tolist() == [3, 1, 9, 7]
    first, *others = recency(found)
    assert first.startswith("GA: the last position is the slowest in 2 of 2 settings")
    assert others[0].startswith("GA (forget_label = paper): position 4 forgot slowest, with forget")
    assert others[1].startswith("GA (forget_label = own): position 4 forgot slowest, with forget")
    examples = records[records["metric"] == "forget/mean"].assign(metric="forget/label")
    own = records[records["metric"] == "forget/own_mean"].assign(metric="forget/own_label")
    answers = records.assign(metric="answers/safety")
    every = of_examples(pd.concat([examples, own, answers]), 0.5)
    assert summarize(records, every).findings[0].startswith("GA: the last position")
    assert len(build_figures(records, every)["divergence"].panels) == 2


def test_a_run_with_two_labels_is_refused():
    rows = forgetting("GA", {1: 3})
    with pytest.raises(InputError, match="found a run with forget scores of paper's label and of"):
        scores(table(rows + named(rows, ForgetLabel("own"))))


def learned(gain, move, seeds=(0,)):
    """Records and examples of two paths: gain over the base, and movement of the labels."""
    rows = []
    for position in (1, 4):
        for seed in seeds:
            values = {
                "forget/label": (-1, -1 - move / 2, -1 - move),
                "forget/mean": (-1, -1 - move / 2, -1 - move * position),
                "forget/base": (-1 - gain, None, None),
            }
            rows += run("GA", FOUR[position], position, values, seed)
    return table(rows)


@pytest.mark.parametrize(
    ("gain", "spread", "expected"),
    [
        (0.05, 0.001, "The forget stage was hardly learned on all 2 paths: before unlearning"),
        (-2.0, 0.1, "The forget stage was hardly learned on all 2 paths"),
        (0.2, 3.0, "Whether the forget stage was learned on all 2 paths cannot be determined"),
        (0.2, 0.001, None),
        (3.0, 1.0, None),
    ],
)
def test_a_stage_that_was_hardly_learned(gain, spread, expected):
    records = learned(gain, 1.0)
    base = records["metric"] == "forget/base"
    # The spread of the differences of rows is that of one side.
    examples = pd.concat([of_examples(records[base], spread), of_examples(records[~base], 0.0)])
    found = summarize(records, examples).cautions
    assert [line.startswith(expected) for line in found] == ([True] if expected else [])
    if expected:
        assert "nats per token (95 % " in found[0] and "over 20 rows)" in found[0]
    assert summarize(records).cautions == [], "without rows there is no interval"


def test_each_method_and_setting_is_judged_alone():
    """Records are ordered by path, then method."""
    rows = []
    for position in (1, 4):
        for method, move in (("GA", 0.001), ("NPO", 1.0)):
            for base, gain in (("small", 0.01), ("large", 2.0)):
                values = {
                    "forget/label": (-1, -1, -1 - move),
                    "forget/base": (-1 - gain, None, None),
                }
                own = run(method, FOUR[position], position, values)
                rows += [{**row, "seed": 0, "model.base": base} for row in own]
    order = ["path", "position", "method", "seed", "model.base", "stage", "step", "metric", "value"]
    records = table(rows)[order]
    learned_, small, large = summarize(records, of_examples(records, 0.0)).cautions
    assert learned_.startswith(
        "The forget stage was hardly learned on p = 1 (base = small) and p = 4 (base = small): "
    )
    assert small.startswith("Under GA (base = small) the model hardly moved on all 2 paths: ")
    assert large.startswith("Under GA (base = large) the model hardly moved on all 2 paths: ")


@pytest.mark.parametrize(("move", "moved"), [(0.001, False), (0.009, False), (0.02, True)])
def test_a_model_that_hardly_moved(move, moved):
    records = learned(3.0, move)
    found = summarize(records, of_examples(records, 0.5)).cautions
    assert [
        line.startswith("Under GA the model hardly moved on all 2 paths") for line in found
    ] == ([] if moved else [True])
    # One set of rows that moves is enough.
    answers = [row for p in (1, 4) for row in run("GA", FOUR[p], p, {"answers/tofu": (-1, -1, -2)})]
    more = pd.concat([records, table(answers)])
    assert summarize(more, of_examples(more, 0.5)).cautions == []


def test_paths_that_differ_by_less_than_rounding():
    rows = []
    for seed in (0, 1, 2):
        rows += forgetting("GA", {1: 1 + seed * 1e-6, 4: 1.0004 + seed * 1e-6}, seed)
    report = StudyReport(Source("s", table(rows)))
    verdict = verdict_of(report)
    assert verdict.headline == "Paths differ by less than rounding: their order says nothing."
    assert verdict.sentences["Caution"] == [
        "Paths differ by less than rounding: their forget score (paper's label) differs by 0.0004 "
        "nats per token under GA, less than 0.001. Their order says nothing."
    ]
    clear = StudyReport(Source("s", table(forgetting("GA", {1: 1, 4: 2}))))
    assert "Caution" not in verdict_of(clear).sentences


def test_the_value_under_the_base_model_is_no_change():
    shown, _ = ends_table({"forget/label": (-1.0, -2.0), "forget/base": (-3.0, -3.0)})
    assert shown.row_count == 1


def test_runs_without_a_label_have_none():
    rows = [
        *forgetting("GA", {1: 3}),
        *run("NPO", FOUR[1], 1, {"answers/tofu": (-1, -1, -1)}),
    ]
    found = scores(table(rows))
    assert found["forget_label"].isna().tolist() == [False, True]
    assert math.isnan(found["forget_score"][1])
