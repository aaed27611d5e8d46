"""The distance to the oracle as a table and as sentences."""

from __future__ import annotations

import math
from typing import Any

from lightning_unlearn.report.closeness import (
    MEASURES,
    OracleDistances,
    OraclePairs,
    Point,
    between_oracles,
    closeness_of,
)
from lightning_unlearn.report.curves import among, names_of_paths, per_path, seeds_on_paths
from lightning_unlearn.report.formatting import join_words, short_number, short_range
from lightning_unlearn.report.layout import Layout, Row
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.report.sections import Section, csv_of, ends_of, with_ends, with_half
from lightning_unlearn.settings.labels import run_name, setting_name
from lightning_unlearn.statistics import mean_interval

TITLE = "Distance to the oracle"
FORGET = "forget"
UNIT = "(nats per token)^2"
HEADINGS = ("first", "best (step)", "last", "regret", "overshoot %", "KL")
NOTE = (
    "Mean squared difference to the oracle's log-likelihood of each forget example, (nats per "
    "token)^2, at the first step, the path's best and the last. Regret: what it costs to stop at "
    "the step that is best for all paths together. At the best and at the last step: overshoot, "
    "the share of examples below the oracle, and KL, from oracle to model in nats per token. Still "
    "falling: the best step is the last one looked at, so a later one may be nearer."
)
SEEDS = "Means over the seeds with a value at every step; ±: half the 95 % interval."


def oracle_distance(study: StudyRecords, examples: StudyRecords | None) -> Section:
    """Distance to the oracle at the first, the best, the best common and the last step.

    Needs distance/GROUP of the monitor OracleDistance; overshoot/GROUP, kl/GROUP and, from the
    examples, log_likelihood/GROUP are taken where they are. oracle_distance.csv has a row per
    method, setting, probe, path and point, which is "first", "best", "common" or "last": its step,
    each measure's mean over seeds with its 95 % interval, the regret of the common step, and
    `oracle_noise_floor`, the mean distance between the path's oracles of different seeds. Means are
    over the seeds that have a distance at every step of the path: `seeds` counts them,
    `seeds_excluded` the others. `still_falling` is 1 where the best step is the last one looked
    at. Table and sentences are on the probe `forget`.

    Args:
        study: the records, some of them of distance/GROUP.
        examples: the examples, if there are any.
    """
    measures = [name for name in study.runs["metric"].unique() if name.startswith("distance/")]
    table: list[dict[str, Any]] = []
    rows: list[Row] = []
    findings: list[str] = []
    for probe in (measure.removeprefix("distance/") for measure in measures):
        found = closeness_of(study, probe)
        floors = between_oracles(examples, probe) if examples is not None else {}
        for own in found:
            table += _records(own, probe, floors)
        if probe == FORGET:
            rows = [row for own in found for row in _rows(own)]
            findings = [f"{own.distance.name}: {_finding(own)}." for own in found]
            findings += _without(study, found)
            findings += _floor(floors)
    layout = Layout(bool(study.sweep), HEADINGS, rows, [NOTE], SEEDS) if rows else None
    return Section(TITLE, {"oracle_distance": csv_of(table)} if table else {}, layout, findings)


def _records(own: OracleDistances, probe: str, floors: OraclePairs) -> list[dict[str, Any]]:
    rows = []
    for place, (path, points) in enumerate(zip(own.paths, own.points, strict=True)):
        pairs = floors.get((own.distance.setting, path), [])
        for name, point in points.items():
            row: dict[str, Any] = {
                **own.distance.identity,
                "path": path[0],
                "position": path[1],
                "probe": probe,
                "point": name,
                "step": point.step,
                "seeds": point.interval("distance").count,
                "seeds_excluded": len(own.absent[place]) + len(own.gaps[place]),
                "still_falling": int(own.best.falling[place]) if name == "best" else None,
            }
            for measure in MEASURES:
                row |= ends_of(measure, point.interval(measure))
            row |= ends_of("regret", own.regret(place) if name == "common" else mean_interval([]))
            row["oracle_noise_floor"] = sum(pairs) / len(pairs) if pairs else None
            rows.append(row)
    return rows


def _rows(own: OracleDistances) -> list[Row]:
    curves, rows = own.distance, []
    setting = setting_name(curves.keys, curves.setting)
    for place, (path, points) in enumerate(zip(own.paths, own.points, strict=True)):
        first, best, last = (points[name] for name in ("first", "best", "last"))
        falling = ", still falling" * bool(own.best.falling[place])
        early = f" ({last.step})" * (last.step < curves.steps[-1])
        cells = [
            _mean(first),
            f"{_mean(best)} ({best.step}{falling})",
            f"{_mean(last)}{early}",
            with_half(own.regret(place)),
            ", ".join(_percent(point.interval("overshoot").mean) for point in (best, last)),
            f"{_mean(best, 'kl')}, {_mean(last, 'kl')}",
        ]
        seeds = max(point.interval("distance").count for point in points.values())
        rows.append(Row(curves.method, setting, path[1], path[0], seeds, cells))
    return rows


def _mean(point: Point, measure: str = "distance") -> str:
    return short_number(point.interval(measure).mean, 3 if measure == "distance" else 2)


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{100 * share:.0f}"


def _finding(own: OracleDistances) -> str:
    """When to stop, what one step for all costs, and what the last step has come to."""
    steps = per_path(own.steps, own.paths, own.best.falling.tolist())
    clauses = [f"the distance to the oracle is least at step {steps}"]
    if own.common is None:
        clauses.append("no step was measured on all paths, so there is no best common one")
    elif len(set(own.steps)) > 1:
        costs = [own.regret(place) for place in range(len(own.paths))]
        most = max(range(len(costs)), key=lambda place: costs[place].mean)
        end = " (the last one looked at)" * (own.common == own.distance.steps[-1])
        clauses.append(
            f"the best common step is {own.common}{end}, which costs most on "
            f"{names_of_paths(own.paths)[most]}, {with_ends(costs[most], UNIT)}"
        )
    last = [points["last"] for points in own.points]
    distances = [point.interval("distance").mean for point in last]
    clauses.append(f"at the last step it is {short_range(distances)} {UNIT}")
    shares = [point.interval("overshoot").mean for point in last if "overshoot" in point.measured]
    if shares:
        low, high = _percent(min(shares)), _percent(max(shares))
        percent = low if low == high else f"{low} to {high}"
        clauses[-1] += f", and {percent} % of the forget examples are below their oracle"
    return "; ".join([*clauses, *_left_out(own)])


def _left_out(own: OracleDistances) -> list[str]:
    """Which steps, seeds and paths have no part in the means, as clauses."""
    clauses = []
    end = own.distance.steps[-1]
    early = [points["last"].step < end for points in own.points]
    if any(early):
        some = [name for name, e in zip(names_of_paths(own.paths), early, strict=True) if e]
        clauses.append(
            f"at step {end} no distance is finite on {among(some, len(own.paths))}, whose last "
            "step is an earlier one"
        )
    if absent := seeds_on_paths(own.absent, own.paths):
        clauses.append(f"left out for want of an oracle or of any distance to it: {absent}")
    if gaps := seeds_on_paths(own.gaps, own.paths):
        clauses.append(f"left out for want of a finite distance at every step: {gaps}")
    if own.without:
        names = among(names_of_paths(own.without), len(own.paths) + len(own.without))
        clauses.append(f"no seed has a finite distance at every step on {names}, left out")
    return clauses


def _without(study: StudyRecords, found: list[OracleDistances]) -> list[str]:
    """The methods and settings that have no distance at all, as a sentence."""
    known = {(own.distance.method, own.distance.setting) for own in found}
    names = []
    for method, setting in study.runs[["method", "setting"]].drop_duplicates().to_numpy():
        if (method, study.settings[setting]) not in known:
            names.append(run_name(str(method), study.name(setting)))
    if not names:
        return []
    return [f"{TITLE}: {join_words(names)} left out, for want of a finite distance at every step."]


def _floor(floors: OraclePairs) -> list[str]:
    """How far oracles of different seeds are from each other, as a sentence."""
    # Settings, and paths whose other stages have the same order, may share their oracles.
    pairs = {tuple(distances): distances for distances in floors.values()}
    every = [distance for distances in pairs.values() for distance in distances]
    if not every:
        return []
    mean, low, high = (short_number(v) for v in (sum(every) / len(every), min(every), max(every)))
    several = f" on the mean of {len(every)} pairs ({low} to {high})" if len(every) > 1 else ""
    return [
        f"Two oracles of different seeds differ by {mean} {UNIT} on the forget set"
        f"{several}: a distance below that cannot be told from the spread of retrained models in "
        "this measure, though a run's distance is to the oracle of its own seed."
    ]
