"""The distances between paths: files, a table and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from lightning_unlearn.analysis.curves import Curves, Floats
from lightning_unlearn.analysis.divergence import Divergence, compared
from lightning_unlearn.analysis.reading import StudyRecords
from lightning_unlearn.report.formatting import MISSING, join_words, short_number
from lightning_unlearn.report.sections.base import DISTANCE_UNIT, Section, with_ends, with_half
from lightning_unlearn.report.tables import Column, Row, csv, table_of_runs
from lightning_unlearn.statistics import Cause, Growth, NoGrowth
from lightning_unlearn.statistics.growth import EVIDENCE, LEAST_FACTOR

TITLE = "Divergence between paths"
NOTE = (
    "Mean squared difference between two paths' log-likelihoods of each {what}, (nats per "
    "token)^2, at the first and last step, mean over pairs; and between two seeds of one path. "
    "Grow, shrink: of how many pairs and seeds the distance does so exponentially, over the "
    "latest range of steps where its logarithm is a line, by a factor of {factor:g} or more, and "
    "where it is {evidence:g} times as likely under an exponential as under a straight line, a "
    "parabola, a power of the step or a curve that levels off. Of these alone: rate, the slope of "
    "the logarithm over the range, mean over pairs, ±: half the 95 % interval over seeds; "
    "doubling, in steps, negative for halving, n/a where some grow and others shrink or the rate "
    "cannot be distinguished from 0; range, median first and last step."
)
# What divergence_growth.csv has of a fit.
FIT = (
    *("rate", "error", "low", "high", "doubling", "first_step", "last_step"),
    *("points", "r_squared", "evidence", "other", "factor"),
)
CAUSES: dict[Cause, str] = {
    "other": "an exponential is not clearly more likely than another curve",
    "level": f"it changes by less than a factor of {LEAST_FACTOR:g}",
    "curved": "its logarithm is no line, or has no steady rate",
    "few": "there are too few distances",
}


def divergence_section(examples: StudyRecords, metric: str) -> Section:
    """RE distances between paths of the same seed over the steps, and how fast they grow.

    divergence.csv has a row per method, setting, pair of paths and seed, and pair of seeds and
    path, and step: its distance; what is not finite has no row. divergence_growth.csv has the
    exponential fit of each pair of paths and seed: `rate` over its range with its standard `error`,
    the 95 % interval `low` to `high` of the rate at the last step of the range, R^2 of log d
    (`r_squared`), how many times as likely the distances are as under the best `other` curve
    (`evidence`) and the factor by which the fit changes; or the reason why there is none.

    The metric has log-likelihoods per example, such as "log_likelihood/forget".
    """
    found, left = compared(examples, metric)
    without = [f"{TITLE}: {curves.name} is left out, {_why(curves)}." for curves in left]
    if not found:
        return Section(TITLE, findings=without)
    tables = {
        "divergence": csv([row for own in found for row in _distances(own)]),
        "divergence_growth": csv([row for own in found for row in _fits(own)]),
    }
    what = (
        "forget example" if metric.startswith("log_likelihood/") else "answer of the forget stage"
    )
    note = NOTE.format(what=what, factor=LEAST_FACTOR, evidence=EVIDENCE)
    rows = [Row(own.curves, own) for own in found]
    table = table_of_runs(COLUMNS, rows, [note], bool(examples.sweep), by_path=False)
    findings = [f"{own.curves.name}: {_finding(own)}." for own in found]
    return Section(TITLE, tables, table, [*findings, *without])


def _why(curves: Curves) -> str:
    """Why there is no distance between paths."""
    if len(curves.paths) < 2:
        return f"because it has only one path, {curves.paths[0][0]}"
    return "because no two of its paths have a finite value of one example, seed and step"


def _distances(own: Divergence) -> list[dict[str, Any]]:
    """The rows of divergence.csv."""
    curves = own.curves
    keys: list[tuple[dict[str, Any], Floats]] = []
    for pair, by_seed in zip(own.pairs, own.paths, strict=True):
        same = {"between": "paths", **_paths(own, *pair)}
        for seed, distances in zip(curves.seeds, by_seed, strict=True):
            keys.append(({**same, "seed": seed, "other_seed": seed}, distances))
    for (first, second), by_path in zip(own.seed_pairs, own.seeds, strict=True):
        seeds = {"seed": curves.seeds[first], "other_seed": curves.seeds[second]}
        for place, distances in enumerate(by_path):
            keys.append(({"between": "seeds", **_paths(own, place, place), **seeds}, distances))
    return [
        {**curves.identity, **key, "step": step, "distance": distance}
        for key, distances in keys
        for step, distance in zip(curves.steps, distances.tolist(), strict=True)
        if math.isfinite(distance)
    ]


def _paths(own: Divergence, one: int, other: int) -> dict[str, Any]:
    names = ("path", "position", "other_path", "other_position")
    return dict(zip(names, (*own.curves.paths[one], *own.curves.paths[other]), strict=True))


def _fits(own: Divergence) -> list[dict[str, Any]]:
    """The rows of divergence_growth.csv."""
    return [
        {**own.curves.identity, **_paths(own, *pair), "seed": seed, **_fit(fit)}
        for pair, by_seed in zip(own.pairs, own.growth, strict=True)
        for seed, fit in zip(own.curves.seeds, by_seed, strict=True)
    ]


def _fit(fit: Growth | NoGrowth) -> dict[str, Any]:
    if isinstance(fit, NoGrowth):
        return {**dict.fromkeys(FIT), "reason": fit.reason}
    values = {column: getattr(fit, column.removesuffix("_step")) for column in FIT}
    steps = {"first_step": int(fit.first), "last_step": int(fit.last)}
    return {**values, **steps, "reason": ""}


def _mean(distances: Floats) -> float:
    known = distances[np.isfinite(distances)]
    return float(known.mean()) if known.size else math.nan


def _median(fits: Sequence[Growth], end: str) -> str:
    return f"{median(getattr(fit, end) for fit in fits):.0f}"


def _share(count: int, own: Divergence) -> str:
    """Of how many pairs of paths and seeds."""
    return f"{count}/{own.measured}"


def _range(fits: Sequence[Growth]) -> str:
    return f"{_median(fits, 'first')}-{_median(fits, 'last')}" if fits else MISSING


COLUMNS = [
    Column("first", lambda row: short_number(_mean(row.data.paths[..., 0]))),
    Column("last", lambda row: short_number(_mean(row.data.paths[..., -1]))),
    Column("seeds last", lambda row: short_number(_mean(row.data.seeds[..., -1]))),
    Column("grow", lambda row: _share(row.data.growing, row.data)),
    Column("shrink", lambda row: _share(row.data.shrinking, row.data)),
    Column("rate per step", lambda row: with_half(row.data.rate)),
    Column("doubling", lambda row: short_number(row.data.doubling)),
    Column("range", lambda row: _range(row.data.fits)),
]


def _finding(own: Divergence) -> str:
    fits, rate = own.fits, own.rate
    clauses = [f"the distance between paths {_moves(own)}"]
    reasons = [
        f"in {own.causes[cause]} {text}" for cause, text in CAUSES.items() if own.causes[cause]
    ]
    if reasons:
        clauses.append(join_words(reasons))
    if fits:
        of = "of the only fit" if len(fits) == 1 else f"of the {len(fits)} fits"
        steps = f"over steps {_median(fits, 'first')} to {_median(fits, 'last')}"
        medians = " (medians)" * (len(fits) > 1)
        what = "mean rate" if len(fits) > 1 else "rate"
        clauses.append(f"the {what} {of}, {steps}{medians}, is {with_ends(rate, 'per step')}")
        if math.isfinite(own.doubling):
            verb = "doubling" if own.doubling > 0 else "halving"
            clauses[-1] += f", {verb} in {short_number(abs(own.doubling))} steps"
        elif rate.low <= 0 <= rate.high:
            clauses[-1] += ", which cannot be distinguished from 0"
    return "; ".join([*clauses, *_apart(own)])


def _moves(own: Divergence) -> str:
    """In how many pairs it does what."""
    measured = own.measured
    pairs = f"{measured} pair{'s' * (measured > 1)} of paths"
    pairs += " and seeds" * (len(own.curves.seeds) > 1)
    growing, shrinking = own.growing, own.shrinking
    if not own.fits:
        return f"neither grows nor shrinks exponentially in any of {pairs}"
    if growing and shrinking:
        return f"grows exponentially in {growing} and shrinks so in {shrinking} of {pairs}"
    return f"{'grows' if growing else 'shrinks'} exponentially in {len(own.fits)} of {pairs}"


def _apart(own: Divergence) -> list[str]:
    """How far apart models are at the last step, as a clause."""
    last, known = own.paths[..., -1], int(np.isfinite(own.paths[..., -1]).sum())
    if not known:
        return [f"at the last step, {own.curves.steps[-1]}, no distance between paths is finite"]
    clause = f"at the last step paths are {short_number(_mean(last))}"
    seeds = _mean(own.seeds[..., -1])
    if len(own.curves.seeds) > 1 and math.isfinite(seeds):
        clause += f", seeds of one path {short_number(seeds)}"
    clause += f" {DISTANCE_UNIT} apart"
    if known < own.measured:
        clause += f", as far as {known} of {own.measured} pairs have a finite distance there"
    return [clause]
