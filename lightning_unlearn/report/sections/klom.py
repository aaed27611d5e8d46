"""KLoM, or what takes its place with few models: a file, a table and sentences."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from lightning_unlearn.analysis.klom import Comparison, comparisons
from lightning_unlearn.analysis.reading import StudyRecords
from lightning_unlearn.report.formatting import (
    MISSING,
    among,
    names_of_paths,
    seeds_on_paths,
    short_number,
    short_range,
    span,
)
from lightning_unlearn.report.sections.base import Section, clause
from lightning_unlearn.report.sections.oracle_distance import FORGET
from lightning_unlearn.report.tables import Column, Row, csv, table_of_runs
from lightning_unlearn.statistics.klom import LEAST_MODELS, inflation

TITLE = "Distribution over models"
KLOM_NOTE = (
    "KLoM at the last step: 95th percentile over examples (mean). N: unlearned models, oracles."
)
DIFFERENCE_NOTE = (
    "Mean difference from the oracles at the last step, in standard deviations of the oracles "
    "(95 % interval over models, Student's). N: unlearned models, oracles."
)

# Attributes of a comparison that are columns of the CSV file.
RECORDED = (
    *("group", "metric", "step", "models", "oracles", "examples", "missing"),
    *("klom", "klom_p95", "floor", "floor_p95", "difference", "difference_low", "difference_high"),
    *("absolute", "absolute_floor", "wasserstein", "wasserstein_p95"),
)


def klom_section(examples: StudyRecords) -> Section:
    """KLoM of every path and group, or the standardized difference with fewer than ten models.

    klom.csv has a row per group, method, setting and path: N, the number of models and oracles;
    KLoM's mean and 95th percentile over examples beside the noise floor of as many models that
    are as good as oracles; the difference of the means in standard deviations of the oracles,
    signed and absolute, with interval and with what the absolute one is between equals; and the
    Wasserstein-1 distance. A field is empty where there are too few models.

    Needs margin/GROUP or log_likelihood/GROUP per example, of runs and oracles.
    """
    every = comparisons(examples)
    found = [own for own in every if not own.reason]
    missing = _missing([own for own in every if own.reason])
    if not found:
        return Section(TITLE, findings=missing)
    by_path: dict[tuple[Any, ...], dict[str, Comparison]] = {}
    for own in found:
        key = (own.curves.method, own.curves.setting, own.path)
        by_path.setdefault(key, {})[own.group] = own
    rows = [Row(_any(own).curves, own, path) for (_, _, path), own in by_path.items()]
    groups = dict.fromkeys(own.group for own in found)
    columns = [Column("N", _counts), *(Column(name, partial(_cell, name)) for name in groups)]
    # With one model of each kind there is nothing to show but the distances in the file.
    compared = any(own.fewest > 1 for own in found)
    swept = bool(examples.sweep)
    table = table_of_runs(columns, rows, _notes(found), swept) if compared else None
    forget = [own for own in found if own.group == FORGET] or found
    parts = groupby(forget, lambda own: (own.group, own.curves.name))
    findings = [f"{name}: {_finding(list(part))}." for (_, name), part in parts]
    return Section(TITLE, {"klom": csv([_record(own) for own in found])}, table, findings + missing)


def _missing(paths: list[Comparison]) -> list[str]:
    """What cannot be compared, by group, method, setting and reason, as sentences."""
    parts: dict[tuple[str, str, str], list[Comparison]] = {}
    for own in sorted(paths, key=lambda own: (own.group, own.curves.name, own.reason)):
        parts.setdefault((own.group, own.curves.name, own.reason), []).append(own)
    lines = []
    for (group, name, reason), part in parts.items():
        total = len(part[0].curves.paths)
        where = f", on {among(names_of_paths([own.path for own in part]), total)}"
        where = where if len(part) < total else ""
        lines.append(f"{TITLE}: {name} is left out on {group}{where}, because {reason}.")
    return lines


def _notes(found: list[Comparison]) -> list[str]:
    floors = {(own.models, own.oracles): own for own in found if own.fewest >= LEAST_MODELS}
    notes = [KLOM_NOTE] if floors else []
    notes += [
        f"Models as good as oracles have {own.floor_p95:.2f} ({own.floor:.2f}) with N = {n}, {m}."
        for (n, m), own in sorted(floors.items(), key=lambda item: item[0])
    ]
    few = [own for own in found if own.fewest < LEAST_MODELS]
    if few:
        fewest = sorted({own.oracles for own in found if own.fewest > 1})
        notes += [DIFFERENCE_NOTE, *map(_inflation_note, fewest)]
    return notes


def _inflation_note(oracles: int) -> str:
    factor = inflation(oracles)
    if not np.isfinite(factor):
        return f"Of {oracles} oracles standard deviations are next to unknown."
    return (
        f"Standard deviations of {oracles} oracles are uncertain: differences come out "
        f"{100 * (factor - 1):.0f} % too large on average."
    )


def _any(groups: dict[str, Comparison]) -> Comparison:
    return next(iter(groups.values()))


def _counts(row: Row) -> str:
    some = _any(row.data)
    return f"{some.models}, {some.oracles}"


def _cell(group: str, row: Row) -> str:
    own: Comparison | None = row.data.get(group)
    if own is not None and own.fewest >= LEAST_MODELS:
        return f"{own.klom_p95:.2f} ({own.klom:.2f})"
    if own is None or np.isnan(own.difference):
        return MISSING
    return f"{own.difference:+.1f} ({own.difference_low:.1f} to {own.difference_high:.1f})"


def _record(own: Comparison) -> dict[str, Any]:
    """A row of klom.csv."""
    path, position = own.path
    values = {name: getattr(own, name) for name in RECORDED}
    return {**own.curves.identity, "path": path, "position": position, **values}


def _finding(paths: list[Comparison]) -> str:
    """How far the paths of one method and setting are from their oracles in one group."""
    some = paths[0]
    on = f"{'margins' if some.metric.startswith('margin/') else 'log-likelihoods'} on {some.group}"
    models, oracles = span([own.models for own in paths]), span([own.oracles for own in paths])
    counts = f"N = {models} unlearned model{'s' * (models != '1')} and {oracles} oracle"
    counts += "s" * (oracles != "1")
    few = f"KLoM needs {LEAST_MODELS} models of each kind and there are {counts}"
    absolute = [own.absolute for own in paths if np.isfinite(own.absolute)]
    kloms = [own.klom_p95 for own in paths if own.fewest >= LEAST_MODELS]
    if len(kloms) == len(paths):
        finding = (
            f"at the last step KLoM of {on} has a 95th percentile of {short_range(kloms)} over the "
            f"paths, with {counts}; models as good as oracles would have {some.floor_p95:.2f}"
        )
    elif not absolute:
        found = short_range([own.wasserstein for own in paths])
        finding = f"{few}, so only the Wasserstein-1 distance of {on} is given, {found}"
    else:
        floor = next(own.absolute_floor for own in paths if own.fewest > 1)
        expected = f", where {short_number(floor)} is expected of equals"
        finding = (
            f"{few}; at the last step {on} are {short_range(absolute)} standard deviations of the "
            f"oracles from theirs in the absolute mean{expected if np.isfinite(floor) else ''}"
        )
    return "; ".join([finding, *_without(paths)])


def _without(paths: list[Comparison]) -> list[str]:
    """The seeds that have no part in a finding, as clauses."""
    places = [own.path for own in paths]
    lonely = seeds_on_paths([own.lonely for own in paths], places)
    valueless = seeds_on_paths([own.valueless for own in paths], places)
    at_last = clause("without a finite value at the last step:", valueless)
    return [*clause("there is no oracle of", lonely), *at_last]
