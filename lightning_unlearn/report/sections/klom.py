"""KLoM, or what takes its place with few models: a file, a table and sentences."""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np

from lightning_unlearn.report.analysis.klom import Comparison, Missing, comparisons
from lightning_unlearn.report.curves import among, names_of_paths, seeds_on_paths
from lightning_unlearn.report.formatting import MISSING, short_number, short_range, span
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.report.sections.base import Section
from lightning_unlearn.report.sections.oracle_distance import FORGET
from lightning_unlearn.report.tables import Column, Row, csv, table_of_runs
from lightning_unlearn.statistics.klom import (
    LEAST_MODELS,
    NoiseFloor,
    StandardizedDifference,
    inflation,
    noise_floor,
)

TITLE = "Distribution over models"
KLOM_NOTE = (
    "KLoM at the last step: 95th percentile over examples (mean). N: unlearned models, oracles."
)
DIFFERENCE_NOTE = (
    "Mean difference from the oracles at the last step, in standard deviations of the oracles "
    "(95 % interval over models, Student's). N: unlearned models, oracles."
)


def klom_section(examples: StudyRecords) -> Section:
    """KLoM of every path and group, or the standardized difference with fewer than ten models.

    klom.csv has a row per group, method, setting and path: N, the number of models and oracles;
    KLoM's mean and 95th percentile over examples beside the noise floor of as many models that
    are as good as oracles; the difference of the means in standard deviations of the oracles,
    signed and absolute, with interval and with what the absolute one is between equals; and the
    Wasserstein-1 distance. A field is empty where there are too few models.

    Args:
        examples: the examples, with margin/GROUP or log_likelihood/GROUP of runs and oracles.
    """
    every = comparisons(examples)
    found = [own for own in every if isinstance(own, Comparison)]
    missing = _missing([own for own in every if isinstance(own, Missing)])
    if not found:
        return Section(TITLE, findings=missing)
    by_path: dict[tuple[Any, ...], dict[str, Comparison]] = {}
    for own in found:
        key = (own.curves.method, own.curves.setting, own.path)
        by_path.setdefault(key, {})[own.group] = own
    rows = [_row(by_group) for by_group in by_path.values()]
    groups = dict.fromkeys(own.group for own in found)
    columns = [Column("N", _counts), *(Column(name, partial(_cell, name)) for name in groups)]
    compared = any(own.klom is not None or own.difference is not None for own in found)
    # With one model of each kind there is nothing to show but the distances in the file.
    swept = bool(examples.sweep)
    table = table_of_runs(columns, rows, _notes(found), swept) if compared else None
    forget = [own for own in found if own.group == FORGET] or found
    parts = groupby(forget, lambda own: (own.group, own.curves.name))
    findings = [f"{name}: {_finding(list(part))}." for (_, name), part in parts]
    return Section(TITLE, {"klom": csv([_record(own) for own in found])}, table, findings + missing)


def _notes(found: list[Comparison]) -> list[str]:
    counts = sorted({(own.models, own.oracles) for own in found if own.klom is not None})
    notes = [KLOM_NOTE, *map(_floor_note, counts)] if counts else []
    if any(own.klom is None for own in found):
        fewest = {own.oracles for own in found if own.difference is not None}
        notes += [DIFFERENCE_NOTE, *map(_inflation_note, sorted(fewest))]
    return notes


def _missing(paths: list[Missing]) -> list[str]:
    """What cannot be compared, by probe, method, setting and reason, as sentences."""
    lines = []
    for (group, name, reason), part in groupby(
        sorted(paths, key=lambda own: (own.group, own.curves.name, own.reason)),
        lambda own: (own.group, own.curves.name, own.reason),
    ):
        some = list(part)
        total = len(some[0].curves.paths)
        where = f", on {among(names_of_paths([own.path for own in some]), total)}"
        where = where if len(some) < total else ""
        lines.append(f"{TITLE}: {name} is left out on {group}{where}, for {reason}.")
    return lines


def _inflation_note(oracles: int) -> str:
    factor = inflation(oracles)
    if not np.isfinite(factor):
        return f"Of {oracles} oracles standard deviations are next to unknown."
    return (
        f"Standard deviations of {oracles} oracles are uncertain: differences come out "
        f"{100 * (factor - 1):.0f} % too large on average."
    )


@lru_cache
def _floor(models: int, oracles: int) -> NoiseFloor:
    return noise_floor(models, oracles)


def _floor_note(counts: tuple[int, int]) -> str:
    floor = _floor(*counts)
    return (
        f"Models as good as oracles have {floor.percentile95:.2f} ({floor.mean:.2f}) with N = "
        f"{counts[0]}, {counts[1]}."
    )


def _row(by_group: dict[str, Comparison]) -> Row:
    some = next(iter(by_group.values()))
    path, position = some.path
    return Row(some.curves.method, some.curves.words, position, path, 1, by_group)


def _counts(row: Row) -> str:
    some = next(iter(row.data.values()))
    return f"{some.models}, {some.oracles}"


def _cell(group: str, row: Row) -> str:
    own: Comparison | None = row.data.get(group)
    if own is not None and own.klom is not None:
        return f"{np.percentile(own.klom, 95):.2f} ({own.klom.mean():.2f})"
    difference = own.difference if own is not None else None
    if difference is None or np.isnan(difference.mean):
        return MISSING
    return f"{difference.mean:+.1f} ({difference.low:.1f} to {difference.high:.1f})"


def _record(own: Comparison) -> dict[str, Any]:
    """A row of klom.csv."""
    path, position = own.path
    return {
        **own.curves.identity,
        "path": path,
        "position": position,
        "group": own.group,
        "metric": own.metric,
        "step": own.curves.steps[-1],
        "models": own.models,
        "oracles": own.oracles,
        "examples": own.points,
        "missing": own.dropped,
        **_of_klom(own),
        **_of_difference(own.difference),
        "wasserstein": own.wasserstein.mean(),
        "wasserstein_p95": np.percentile(own.wasserstein, 95),
    }


def _of_klom(own: Comparison) -> dict[str, Any]:
    if own.klom is None:
        return dict.fromkeys(("klom", "klom_p95", "floor", "floor_p95"))
    floor, p95 = _floor(own.models, own.oracles), np.percentile(own.klom, 95)
    return {
        **{"klom": own.klom.mean(), "klom_p95": p95},
        **{"floor": floor.mean, "floor_p95": floor.percentile95},
    }


def _of_difference(difference: StandardizedDifference | None) -> dict[str, Any]:
    columns = ("difference", "difference_low", "difference_high", "absolute", "absolute_floor")
    names = ("mean", "low", "high", "absolute", "absolute_floor")
    values = (getattr(difference, name, None) for name in names)
    return dict(zip(columns, values, strict=True))


def _finding(paths: list[Comparison]) -> str:
    """How far the paths of one method and setting are from their oracles on one probe."""
    some = paths[0]
    what = "margins" if some.metric.startswith("margin/") else "log-likelihoods"
    on = f"{what} on {some.group}"
    models, oracles = (span([getattr(own, n) for own in paths]) for n in ("models", "oracles"))
    counts = f"N = {models} unlearned model{_s(models)} and {oracles} oracle{_s(oracles)}"
    if all(own.klom is not None for own in paths):
        found = [float(np.percentile(own.klom, 95)) for own in paths if own.klom is not None]
        floor = _floor(some.models, some.oracles).percentile95
        return _with_left_out(
            f"at the last step KLoM of {on} has a 95th percentile of {short_range(found)} over the "
            f"paths, with {counts}; models as good as oracles would have {floor:.2f}",
            paths,
        )
    few = f"KLoM needs {LEAST_MODELS} models of each kind and there are {counts}"
    known = [own.difference for own in paths if own.difference is not None]
    absolute = [d.absolute for d in known if np.isfinite(d.absolute)]
    if not absolute:
        found = [float(own.wasserstein.mean()) for own in paths]
        only = f"{few}, so only the Wasserstein-1 distance of {on} is given, {short_range(found)}"
        return _with_left_out(only, paths)
    floor = known[0].absolute_floor
    expected = f", where {short_number(floor)} is expected of equals" if np.isfinite(floor) else ""
    return _with_left_out(
        f"{few}; at the last step {on} are {short_range(absolute)} standard deviations of the "
        f"oracles from theirs in the absolute mean{expected}",
        paths,
    )


def _with_left_out(finding: str, paths: list[Comparison]) -> str:
    """The finding with the seeds that have no part in it."""
    clauses = [finding]
    places = [own.path for own in paths]
    if lonely := seeds_on_paths([own.lonely for own in paths], places):
        clauses.append(f"there is no oracle of {lonely}")
    if valueless := seeds_on_paths([own.valueless for own in paths], places):
        clauses.append(f"without a finite value at the last step: {valueless}")
    return "; ".join(clauses)


def _s(count: str) -> str:
    return "" if count == "1" else "s"
