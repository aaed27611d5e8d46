"""The distances between paths as tables and as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.report.divergence import Divergence, divergences
from lightning_unlearn.report.layout import Layout, Row
from lightning_unlearn.report.naming import setting_name, short_number
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.report.sections import Section, csv_of, with_ends, with_half
from lightning_unlearn.statistics import Growth

if TYPE_CHECKING:
    from numpy.typing import NDArray

TITLE = "Divergence between paths"
HEADINGS = ("first", "last", "seeds last", "rate per step", "doubling", "range", "fits")
NOTE = (
    "Mean squared difference between two paths' log-likelihoods of each {what}, (nats per "
    "token)^2, at the first and last step, mean over pairs; and between two seeds of one path. "
    "Rate: slope of its logarithm over the longest range of steps where that is a line, ±: half "
    "the 95 % interval over seeds; doubling: in steps, negative for halving; range: median first "
    "and last step; fits: of how many pairs and seeds."
)


def divergence_section(examples: StudyRecords, measure: str) -> Section:
    """RE distances between paths of the same seed over the steps, and how fast they grow.

    divergence.csv has a row per method, setting, pair of paths and seed, and pair of seeds and
    path, and step: its distance; what is not finite has no row. divergence_growth.csv has the
    exponential fit of each pair of paths and seed, or the reason why there is none.

    Args:
        examples: the examples.
        measure: whose log-likelihoods are compared, such as "probes/forget".
    """
    found = divergences(examples, measure)
    if not found:
        return Section(TITLE)
    tables = {
        "divergence": csv_of([row for own in found for row in _distances(own)]),
        "divergence_growth": csv_of([row for own in found for row in _fits(own)]),
    }
    what = "forget example" if measure.startswith("probes/") else "answer of the forget stage"
    rows = [_row(own) for own in found]
    layout = Layout(
        bool(examples.sweep), HEADINGS, rows, [NOTE.format(what=what)], seeds="", by_path=False
    )
    return Section(TITLE, tables, layout, [f"{own.curves.name}: {_finding(own)}." for own in found])


def _distances(own: Divergence) -> list[dict[str, Any]]:
    curves, rows = own.curves, []
    for (one, other), by_seed in zip(own.pairs, own.paths, strict=True):
        paths = _paths(own, one, other)
        for seed, distances in zip(curves.seeds, by_seed, strict=True):
            keys = {
                **curves.identity,
                "between": "paths",
                **paths,
                "seed": seed,
                "other_seed": seed,
            }
            rows += _over_steps(own, keys, distances)
    for (first, second), by_path in zip(own.seed_pairs, own.seeds, strict=True):
        seeds = {"seed": curves.seeds[first], "other_seed": curves.seeds[second]}
        for place, distances in enumerate(by_path):
            keys = {**curves.identity, "between": "seeds", **_paths(own, place, place), **seeds}
            rows += _over_steps(own, keys, distances)
    return rows


def _over_steps(
    own: Divergence, keys: dict[str, Any], distances: NDArray[np.float64]
) -> list[dict[str, Any]]:
    pairs = zip(own.curves.steps, distances.tolist(), strict=True)
    return [{**keys, "step": step, "distance": d} for step, d in pairs if math.isfinite(d)]


def _paths(own: Divergence, one: int, other: int) -> dict[str, Any]:
    (path, position), (other_path, other_position) = own.curves.paths[one], own.curves.paths[other]
    return {
        "path": path,
        "position": position,
        "other_path": other_path,
        "other_position": other_position,
    }


def _fits(own: Divergence) -> list[dict[str, Any]]:
    rows = []
    for (one, other), by_seed in zip(own.pairs, own.growth, strict=True):
        for seed, fit in zip(own.curves.seeds, by_seed, strict=True):
            keys = {**own.curves.identity, **_paths(own, one, other), "seed": seed}
            known = fit if isinstance(fit, Growth) else None
            rows.append(
                {
                    **keys,
                    "rate": known and known.rate,
                    "error": known and known.error,
                    "low": known and known.low,
                    "high": known and known.high,
                    "doubling": known and known.doubling,
                    "first_step": known and int(known.first),
                    "last_step": known and int(known.last),
                    "points": known and known.points,
                    "r_squared": known and known.r_squared,
                    "reason": "" if isinstance(fit, Growth) else fit.reason,
                }
            )
    return rows


def _row(own: Divergence) -> Row:
    curves, fits, rate = own.curves, own.fits, own.rate
    cells = [
        short_number(_mean(own.paths[..., 0])),
        short_number(_mean(own.paths[..., -1])),
        short_number(_mean(own.seeds[..., -1])),
        with_half(rate),
        short_number(math.log(2) / rate.mean) if rate.mean else "n/a",
        f"{_median(fits, 'first')}-{_median(fits, 'last')}" if fits else "n/a",
        f"{len(fits)}/{_measured(own)}",
    ]
    setting = setting_name(curves.keys, curves.setting)
    return Row(curves.method, setting, 0, "", len(curves.seeds), cells)


def _mean(distances: NDArray[np.float64]) -> float:
    known = distances[np.isfinite(distances)]
    return float(known.mean()) if known.size else math.nan


def _median(fits: Sequence[Growth], end: str) -> str:
    return f"{median(getattr(fit, end) for fit in fits):.0f}"


def _measured(own: Divergence) -> int:
    """Of how many pairs of paths and seeds distances were measured."""
    return int(np.isfinite(own.paths).any(axis=-1).sum())


def _finding(own: Divergence) -> str:
    fits, rate = own.fits, own.rate
    several = len(own.curves.seeds) > 1
    measured = _measured(own)
    pairs = f"{measured} pair{'s' * (measured > 1)} of paths{' and seeds' * several}"
    if not fits:
        clauses = [f"the distance between paths grows exponentially in none of {pairs}"]
    else:
        clauses = [
            f"the distance between paths {_moves(fits)} in {len(fits)} of {pairs}, over steps "
            f"{_median(fits, 'first')} to {_median(fits, 'last')} (medians), with the mean rate "
            f"{with_ends(rate, 'per step')}"
        ]
    apart = f"at the last step paths are {short_number(_mean(own.paths[..., -1]))}"
    if several:
        apart += f", seeds of one path {short_number(_mean(own.seeds[..., -1]))}"
    return "; ".join([*clauses, f"{apart} (nats per token)^2 apart"])


def _moves(fits: Sequence[Growth]) -> str:
    """Which way the fits go, as a verb."""
    shrinking = sum(fit.rate < 0 for fit in fits)
    if shrinking in (0, len(fits)):
        return f"{'shrinks' if shrinking else 'grows'} exponentially"
    return f"grows ({len(fits) - shrinking}) or shrinks ({shrinking}) exponentially"
