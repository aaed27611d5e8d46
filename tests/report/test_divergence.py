"""Distances between paths against loops, and their growth."""

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from study_tables import FOUR, STEPS, Tables, part_of, values

from lightning_unlearn.report.summary import summarize
from lightning_unlearn.statistics import mean_interval


def test_divergence_equals_that_of_loops(study):
    table = study.tables["divergence.csv"]
    paths, seeds = 6 * 3 * len(STEPS), 3 * 4 * len(STEPS)
    assert table.groupby(["method", "between"]).size().tolist() == [paths, seeds] * 2
    own = study.runs[study.runs["metric"] == "log_likelihood/forget"]
    for row in table.sample(30, random_state=1).to_dict("records"):
        keys = {"method": row["method"], "step": row["step"]}
        one = values(own, path=row["path"], seed=row["seed"], **keys)
        other = values(own, path=row["other_path"], seed=row["other_seed"], **keys)
        assert row["distance"] == pytest.approx(np.mean(np.subtract(one, other) ** 2))
        same = row["path"] == row["other_path"]
        assert row["between"] == ("seeds" if same else "paths")
        assert same != (row["seed"] == row["other_seed"])
    growth = study.tables["divergence_growth.csv"]
    assert len(growth) == 2 * 6 * 3
    fitted = growth["rate"].notna()
    assert (fitted == growth["reason"].isna()).all()
    for method in ("GA", "NPO"):
        rows = growth[fitted & (growth["method"] == method)]
        each = mean_interval(rows.groupby("seed")["rate"].mean())
        (line,) = [
            line for line in study.summary.sections[2].findings if line.startswith(f"{method}:")
        ]
        if rows.empty:
            assert "neither grows nor shrinks exponentially in any of 18 pairs of paths" in line
        else:
            assert f"grows exponentially in {len(rows)} of 18 pairs of paths and seeds" in line
            assert f"is {each.mean:.3g} per step (95 % {each.low:.3g} to {each.high:.3g}" in line
        assert "seeds of one path" in line


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
    assert "which cannot be distinguished from 0" in line and "doubling in" not in line
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
