"""Sentences on the place of the forget stage."""

import math

import pytest
from score_tables import forgetting, run, table
from sweep_tables import LR, swept

from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.report.sections.recency import recency


def test_recency_when_the_last_position_is_slowest():
    found = recency(scores(table(forgetting("GA", {1: 7.89, 2: 3.5, 3: 1.25, 4: 0.18}))))
    assert found == [
        "GA: position 4 forgot slowest, with forget scores "
        "(paper's label) of 7.890 (p = 1), 3.500 (p = 2), "
        "1.250 (p = 3) and 0.180 (p = 4) nats per token; this is the last position (p = n = 4); "
        "of one seed, so chance is not excluded."
    ]


def test_recency_when_another_position_is_slowest():
    rows = forgetting("NPO", {4: 1.0, 2: -0.5}) + forgetting("GA", {1: 1, 2: 2})
    assert recency(scores(table(rows))) == [
        "NPO: position 2 forgot slowest, with forget scores "
        "(paper's label) of -0.500 (p = 2) and 1.000 (p = 4) "
        "nats per token; this is not the last position (p = n = 4); of one seed, so chance is not "
        "excluded.",
        "GA: position 1 forgot slowest, with forget scores "
        "(paper's label) of 1.000 (p = 1) and 2.000 (p = 2) "
        "nats per token; the last position (p = n = 4) has no forget score; of one seed, so chance "
        "is not excluded.",
    ]


@pytest.mark.parametrize(
    ("drops", "start", "end"),
    [
        ({1: 2, 3: 1, 4: 1.0004}, "positions 3 and 4 tie as the slowest,", "is one of them."),
        ({1: 1, 3: 1, 4: 2}, "positions 1 and 3 tie as the slowest,", "is not one of them."),
        ({1: 1, 3: 1, 4: 1}, "no position forgot slower than another,", "is no exception."),
    ],
)
def test_recency_of_ties(drops, start, end):
    (sentence,) = recency(scores(table(forgetting("GA", drops))))
    assert sentence.startswith(f"GA: {start}")
    assert sentence.endswith(f"; the last position (p = n = 4) {end}")


def test_scores_that_are_not_finite_are_left_out():
    rows = forgetting("GA", {1: math.inf, 4: 1}) + forgetting("GA", {1: 2, 4: math.inf}, seed=1)
    (sentence, *_) = recency(scores(table(rows)))
    assert "forget scores (paper's label) of 2.000 (p = 1) and 1.000 (p = 4)" in sentence
    assert sentence.endswith("2 runs without a forget score are left out.")


def test_recency_over_seeds_counts_the_seeds_that_agree():
    rows = [
        *forgetting("GA", {1: 2, 4: 1}, seed=0),
        *forgetting("GA", {1: 4, 4: 5}, seed=1),
        *forgetting("GA", {1: 6, 4: 1.5}, seed=2),
        *forgetting("GA", {1: math.nan}, seed=3),
    ]
    assert recency(scores(table(rows))) == [
        "GA: position 4 forgot slowest, with forget scores "
        "(paper's label) of 4.000 (p = 1) and 2.500 (p = 4) nats "
        "per token; this is the last position (p = n = 4); it is the slowest in 2 of 3 seeds; the "
        "last less the mean of the others is -1.500 (95 % -8.416 to +5.416 over 3 seeds); scores "
        "are means over 3 seeds per path; 1 run without a forget score is left out.",
        "In all, the last position is the slowest in 2 of 3 trials, each of one method, setting "
        "and seed.",
    ]


def test_recency_over_seeds_without_two_that_are_complete():
    rows = [*forgetting("GA", {1: 2, 4: 1}, seed=0), *forgetting("GA", {1: 4}, seed=1)]
    (sentence, *_) = recency(scores(table(rows)))
    assert "; no two seeds have a score at every position, so chance is not excluded" in sentence


def test_recency_averages_paths_that_share_a_position():
    rows = []
    drops = [("f-a-b", 1, 1), ("f-b-a", 1, 2), ("a-b-f", 3, 4), ("b-a-f", 3, 1)]
    for path, position, drop in drops:
        rows += run("GA", path, position, {"forget/mean": (0, 0, -drop)})
    assert recency(scores(table(rows))) == [
        "GA: position 1 forgot slowest, with forget scores "
        "(paper's label) of 1.500 (p = 1) and 2.500 (p = 3) nats "
        "per token; this is not the last position (p = n = 3); of one seed, so chance is not "
        "excluded; scores are means over 2 paths per position."
    ]


def test_recency_with_nothing_to_compare():
    one = table(run("GA", "a-f", 2, {"forget/mean": (0, 0, -1.5)}))
    assert recency(scores(one)) == [
        "GA: only the path a-f has a forget score "
        "(paper's label), 1.500 nats per token at p = 2, so positions "
        "cannot be compared."
    ]
    two = [*one.to_dict("records"), *run("GA", "b-f", 2, {"forget/mean": (0, 0, -0.5)})]
    assert recency(scores(table(two))) == [
        "GA: only position 2 has a forget score "
        "(paper's label), 1.000 nats per token, so positions cannot be "
        "compared; scores are means over 2 paths per position."
    ]
    three = [*two, *run("GA", "a-b-f", 3, {"forget/mean": (0, 0, 0)})]
    assert (
        "; the paths have 2 to 3 stages, so no one position is the last;"
        in (recency(scores(table(three)))[0])
    )


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
