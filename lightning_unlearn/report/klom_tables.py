"""KLoM, or what takes its place with few models, as tables and as sentences."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from lightning_unlearn.report.curves import among, names_of_paths, seeds_on_paths
from lightning_unlearn.report.formatting import short_number, short_range, span
from lightning_unlearn.report.klom import Comparison, Missing, comparisons
from lightning_unlearn.report.layout import Layout, Row
from lightning_unlearn.report.oracle_distance import FORGET
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.report.sections import Section, csv_of
from lightning_unlearn.settings.labels import setting_name
from lightning_unlearn.statistics.klom import LEAST_MODELS, NoiseFloor, inflation, noise_floor

TITLE = "Distribution over models"
KLOM_NOTE = (
    "KLoM at the last step: 95th percentile over examples (mean). N: unlearned models, oracles."
)
DIFFERENCE_NOTE = (
    "Mean difference from the oracles at the last step, in standard deviations of the oracles "
    "(95 % interval over models, Student's). N: unlearned models, oracles."
)


def klom_section(examples: StudyRecords) -> Section:
    """KLoM of every path and probe, or the standardized difference with fewer than ten models.

    klom.csv has a row per probe, method, setting and path: N, the number of models and oracles;
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
    probes = list(dict.fromkeys(comparison.probe for comparison in found))
    places: dict[tuple[Any, ...], dict[str, Comparison]] = {}
    for own in found:
        key = (own.curves.method, own.curves.setting, own.path)
        places.setdefault(key, {})[own.probe] = own
    rows = []
    for (method, setting, (path, position)), by_probe in places.items():
        some = next(iter(by_probe.values()))
        cells = [f"{some.models}, {some.oracles}", *(_cell(by_probe.get(p)) for p in probes)]
        name = setting_name(some.curves.keys, setting)
        rows.append(Row(method, name, position, path, 1, cells))
    counts = sorted({(own.models, own.oracles) for own in found if own.klom is not None})
    notes = [KLOM_NOTE, *map(_floor_note, counts)] if counts else []
    if any(own.klom is None for own in found):
        fewest = {own.oracles for own in found if own.difference is not None}
        notes += [DIFFERENCE_NOTE, *map(_inflation_note, sorted(fewest))]
    compared = any(own.klom is not None or own.difference is not None for own in found)
    # With one model of each kind there is nothing to show but the distances in the file.
    layout = Layout(bool(examples.sweep), ["N", *probes], rows, notes) if compared else None
    forget = [own for own in found if own.probe == FORGET] or found
    parts = groupby(forget, lambda own: (own.probe, own.curves.name))
    findings = [f"{name}: {_finding(list(part))}." for (_, name), part in parts]
    return Section(
        TITLE, {"klom": csv_of([_record(own) for own in found])}, layout, findings + missing
    )


def _missing(paths: list[Missing]) -> list[str]:
    """What cannot be compared, by probe, method, setting and reason, as sentences."""
    lines = []
    for (probe, name, reason), part in groupby(
        sorted(paths, key=lambda own: (own.probe, own.curves.name, own.reason)),
        lambda own: (own.probe, own.curves.name, own.reason),
    ):
        some = list(part)
        total = len(some[0].curves.paths)
        where = f", on {among(names_of_paths([own.path for own in some]), total)}"
        where = where if len(some) < total else ""
        lines.append(f"{TITLE}: {name} is left out on {probe}{where}, for {reason}.")
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


def _cell(own: Comparison | None) -> str:
    if own is None:
        return "n/a"
    if own.klom is not None:
        return f"{np.percentile(own.klom, 95):.2f} ({own.klom.mean():.2f})"
    if own.difference is None or np.isnan(own.difference.mean):
        return "n/a"
    d = own.difference
    return f"{d.mean:+.1f} ({d.low:.1f} to {d.high:.1f})"


def _record(own: Comparison) -> dict[str, Any]:
    path, position = own.path
    difference = own.difference
    row: dict[str, Any] = {
        **own.curves.identity,
        "path": path,
        "position": position,
        "probe": own.probe,
        "metric": own.measure,
        "step": own.curves.steps[-1],
        "models": own.models,
        "oracles": own.oracles,
        "examples": own.points,
        "missing": own.dropped,
        **dict.fromkeys(("klom", "klom_p95", "floor", "floor_p95")),
        **dict.fromkeys(("difference", "difference_low", "difference_high")),
        **dict.fromkeys(("absolute", "absolute_floor")),
        "wasserstein": own.wasserstein.mean(),
        "wasserstein_p95": np.percentile(own.wasserstein, 95),
    }
    if own.klom is not None:
        floor = _floor(own.models, own.oracles)
        row |= {"klom": own.klom.mean(), "klom_p95": np.percentile(own.klom, 95)}
        row |= {"floor": floor.mean, "floor_p95": floor.percentile95}
    if difference is not None:
        row |= {"difference": difference.mean, "difference_low": difference.low}
        row |= {"difference_high": difference.high, "absolute": difference.absolute}
        row["absolute_floor"] = difference.absolute_floor
    return row


def _finding(paths: list[Comparison]) -> str:
    """How far the paths of one method and setting are from their oracles on one probe."""
    some = paths[0]
    what = "margins" if some.measure.startswith("margin/") else "log-likelihoods"
    on = f"{what} on {some.probe}"
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
