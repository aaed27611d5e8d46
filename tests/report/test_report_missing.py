"""Summaries of studies that lack seeds, steps, oracles or examples."""

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from study_tables import FOUR, Tables, drawn

from lightning_unlearn.errors import InputError
from lightning_unlearn.report.formatting import short_number, short_range
from lightning_unlearn.report.sections.depth import depth_findings
from lightning_unlearn.report.summary import summarize


def changed(records, examples, drop=None, **keys):
    """The tables without rows, or with NaN in place of their values."""
    tables = []
    for table in (records, examples):
        hit = np.full(len(table), True)
        for name, value in keys.items():
            kind = table[name].astype(str).str.startswith
            hit &= kind(value) if isinstance(value, str) else table[name] == value
        tables.append(table[~hit] if drop else table.assign(value=table["value"].mask(hit)))
    return tables


def part_of(found, title):
    (section,) = [section for section in found.sections if section.title == title]
    return section


def test_a_seed_without_an_oracle_is_named():
    tables = changed(*drawn(methods=("GA",)), drop=True, seed=2, stage="oracle")
    tables = changed(*tables, drop=True, seed=2, metric="distance/", path=FOUR[1][0])
    found = summarize(*tables)
    (line,) = part_of(found, "Distribution over models").findings
    assert "N = 3 unlearned models and 2 oracles" in line
    assert line.endswith("; there is no oracle of seed 2.")
    section = part_of(found, "Distance to the oracle")
    assert section.findings[0].endswith(
        "; left out because the oracle or any distance to it is missing: seed 2 on p = 2."
    )
    table = pd.read_csv(io.StringIO(section.tables["oracle_distance"]))
    rows = table[table["group"] == "forget"].groupby("position")[["seeds", "seeds_excluded"]]
    assert rows.first().to_numpy().tolist() == [[3, 0], [2, 1], [3, 0], [3, 0]]
    assert f"inst-**safety**-tofu-math | {2} |" in section.markdown


def test_means_are_over_the_seeds_with_every_step():
    records, examples = drawn(methods=("GA",))
    tables = changed(records, examples, seed=1, step=25, metric="distance/", path=FOUR[0][0])
    section = part_of(summarize(*tables), "Distance to the oracle")
    assert section.findings[0].endswith(
        "; left out because some step has no finite distance: seed 1 on p = 1."
    )
    without = changed(records, examples, drop=True, seed=1, path=FOUR[0][0], stage="unlearn")
    other = part_of(summarize(*without), "Distance to the oracle")
    one, two = (
        pd.read_csv(io.StringIO(s.tables["oracle_distance"])).drop(columns="seeds_excluded")
        for s in (section, other)
    )
    pd.testing.assert_frame_equal(one, two)


def test_a_best_step_at_the_end_is_marked():
    records, examples = drawn(methods=("GA",))
    section = part_of(summarize(records, examples), "Distance to the oracle")
    table = pd.read_csv(io.StringIO(section.tables["oracle_distance"]))
    best = table[(table["point"] == "best") & (table["group"] == "forget")]
    assert (best["still_falling"] == (best["step"] == 25)).all()
    falling = best[best["step"] == 25]["position"].tolist()
    assert 0 < len(falling) < 4
    for position in range(1, 5):
        assert (f"(p = {position}, still falling)" in section.findings[0]) == (position in falling)
    assert section.markdown.count("(25, still falling) |") == len(falling)
    # At a single step nothing falls.
    once = [table[(table["step"] == 0)] for table in (records, examples)]
    assert "still falling)" not in part_of(summarize(*once), "Distance to the oracle").markdown


@pytest.mark.parametrize("kind", ["log_likelihood/", "margin/", "distance/"])
def test_nothing_vanishes_where_the_last_step_has_no_value(kind):
    tables = changed(*drawn(methods=("GA",)), stage="unlearn", step=25, metric=kind)
    found = summarize(*tables)
    assert "are n/a" not in found.page
    said = {
        "margin/": "Distribution over models: GA is left out on forget, because no run has a "
        "finite value at the last step, 25.",
        "log_likelihood/": "; at the last step, 25, no distance between paths is finite.",
        "distance/": "; at step 25 no distance is finite on p = 1, p = 2, p = 3 and p = 4, whose "
        "last step is an earlier one.",
    }
    assert said[kind] in found.page


def test_a_method_or_a_path_without_distances_is_named():
    tables = drawn(methods=("GA", "NPO"))
    without = changed(*tables, method="NPO", metric="distance/")
    lines = part_of(summarize(*without), "Distance to the oracle").findings
    assert (
        "Distance to the oracle: NPO left out: no seed has a finite distance at every step."
        in lines
    )
    without = changed(*tables, method="NPO", metric="distance/", path=FOUR[2][0])
    lines = part_of(summarize(*without), "Distance to the oracle").findings
    assert lines[1].endswith("; no seed has a finite distance at every step on p = 3, left out.")


def parting(gaps):
    """Two paths whose log-likelihoods are apart by the gap of each seed at each step."""
    tables = Tables()
    for seed, gap in enumerate(gaps):
        for place, (step, own) in itertools.product((0, 1), enumerate(gap)):
            row = np.full(4, -1 - place * own)
            for measure in ("log_likelihood/forget", "forget/mean"):
                tables.add(FOUR[place], "GA", seed, {}, "unlearn", 5 * step, measure, row)
    section = part_of(summarize(*tables.frames()), "Divergence between paths")
    return section, pd.read_csv(io.StringIO(section.tables["divergence_growth"]))


def test_growth_is_told_from_decay_and_from_a_parabola():
    up = np.exp(0.05 * np.arange(0, 35, 5))
    section, table = parting([up, 2 * up])
    assert table["factor"].tolist() == pytest.approx([math.exp(3)] * 2)
    assert (table["evidence"] > 1e6).all() and (table["r_squared"] > 0.999).all()
    assert (table["low"] <= 0.1 + 1e-9).all() and (table["high"] >= 0.1 - 1e-9).all()
    assert (
        "; the mean rate of the 2 fits, over steps 0 to 30 (medians), is 0.1 per step"
        in (section.findings[0])
    )
    assert ", doubling in 6.93 steps;" in section.findings[0]
    assert "| 2/2 | 0/2 | 0.1±" in section.markdown and "| 6.93 | 0-30 |" in section.markdown
    # A mean of growth and decay has no doubling time.
    section, _ = parting([up, 2 * up, 1 / up])
    (line,) = section.findings
    assert "grows exponentially in 2 and shrinks so in 1 of 3 pairs of paths and seeds" in line
    assert "which can't be told from 0" in line and "doubling in" not in line
    assert "| 2/3 | 1/3 |" in section.markdown and "| n/a | 0-30 |" in section.markdown
    # Distances are squares.
    parabola = np.sqrt(1 + (0.1 * np.arange(0, 35, 5)) ** 2)
    section, table = parting([parabola, parabola[::-1]])
    assert table["reason"].str.contains("as likely under an exponential as under ").all()
    assert table["rate"].isna().all()
    assert section.findings[0].startswith(
        "GA: the distance between paths neither grows nor shrinks exponentially in any of 2 pairs "
        "of paths and seeds; in 2 an exponential is not clearly more likely than another curve; at "
        "the last step"
    )


def test_many_paths_are_summed_up():
    stages = ("inst", "tofu", "safety")
    paths = [("-".join(p), p.index("safety") + 1) for p in itertools.permutations(stages)]
    paths += [("-".join([*p.split("-"), "x"]), position) for p, position in paths[:2]]
    records, examples = drawn(paths=paths, seeds=2, methods=("GA",))
    line = summarize(records, examples).sections[1].findings[0]
    assert (
        " by path, still falling on 3 of 8; the best common step is " in line
        and "which costs most on " in line
    )


def test_studies_of_depths_have_no_sections_on_oracles():
    records, examples = drawn(methods=("GA",), oracles=False)
    records, examples = (
        table[table["metric"].str.startswith("answers/")] for table in (records, examples)
    )
    found = summarize(records, examples)
    assert found.findings == depth_findings(records, examples)
    assert [section.title for section in found.sections] == [
        *("Divergence between paths", "Means over seeds")
    ]


def test_examples_of_something_else_are_refused():
    records, _ = drawn(seeds=1, methods=("GA",))
    with pytest.raises(InputError, match=r"examples: found the columns a, expected also path,"):
        summarize(records, pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00672831, "0.00673"),
        (2.5, "2.5"),
        (1234.5, "1234"),
        (-99950.0, "-99950"),
        (2.1e-7, "2.1e-7"),
        (1e9, "1e9"),
        (math.nan, "n/a"),
    ],
)
def test_numbers_of_any_size_are_short(value, text):
    assert short_number(value) == text
    assert short_range([value, value]) == text
