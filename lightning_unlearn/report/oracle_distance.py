"""The distance to the oracle as a table and as sentences."""

from __future__ import annotations

import math
from typing import Any

from lightning_unlearn.report.closeness import (
    MEASURES,
    Closeness,
    OraclePairs,
    Point,
    between_oracles,
    closeness_of,
)
from lightning_unlearn.report.curves import names_of_paths, per_path
from lightning_unlearn.report.layout import Layout, Row
from lightning_unlearn.report.naming import setting_name, short_number, short_range
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.report.sections import Section, csv_of, ends_of, with_ends, with_half
from lightning_unlearn.statistics import mean_interval

TITLE = "Distance to the oracle"
FORGET = "forget"
UNIT = "(nats per token)^2"
HEADINGS = ("first", "best (step)", "last", "regret", "overshoot %", "KL")
NOTE = (
    "Mean squared difference to the oracle's log-likelihood of each forget example, (nats per "
    "token)^2, at the first step, the path's best and the last. Regret: what it costs to stop at "
    "the step that is best for all paths together. At the best and at the last step: overshoot, "
    "the share of examples below the oracle, and KL, from oracle to model in nats per token."
)
SEEDS = "Means over seeds; ±: half the 95 % interval."


def oracle_distance(study: StudyRecords, examples: StudyRecords | None) -> Section:
    """Distance to the oracle at the first, the best, the best common and the last step.

    Needs distance/PROBE of the monitor OracleDistance; overshoot/PROBE, kl/PROBE and, from the
    examples, probes/PROBE are taken where they are. oracle_distance.csv has a row per method,
    setting, probe, path and point, which is "first", "best", "common" or "last": its step, each
    measure's mean over seeds with its 95 % interval, the regret of the common step, and
    `between_oracles`, the mean distance between the path's oracles of different seeds. Table and
    sentences are on the probe `forget`.

    Args:
        study: the records, some of them of distance/PROBE.
        examples: the examples, if there are any.
    """
    measures = [name for name in study.runs["measure"].unique() if name.startswith("distance/")]
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
            findings += _floor(floors)
    layout = Layout(bool(study.sweep), HEADINGS, rows, [NOTE], SEEDS) if rows else None
    return Section(TITLE, {"oracle_distance": csv_of(table)} if table else {}, layout, findings)


def _records(own: Closeness, probe: str, floors: OraclePairs) -> list[dict[str, Any]]:
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
            }
            for measure in MEASURES:
                row |= ends_of(measure, point.interval(measure))
            row |= ends_of("regret", own.regret(place) if name == "common" else mean_interval([]))
            row["between_oracles"] = sum(pairs) / len(pairs) if pairs else None
            rows.append(row)
    return rows


def _rows(own: Closeness) -> list[Row]:
    curves, rows = own.distance, []
    setting = setting_name(curves.keys, curves.setting)
    for place, (path, points) in enumerate(zip(own.paths, own.points, strict=True)):
        first, best, last = (points[name] for name in ("first", "best", "last"))
        cells = [
            _mean(first),
            f"{_mean(best)} ({best.step})",
            _mean(last),
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


def _finding(own: Closeness) -> str:
    """When to stop, what one step for all costs, and what the last step has come to."""
    steps = per_path(own.steps, own.paths)
    clauses = [f"the distance to the oracle is least at step {steps}"]
    if len(set(own.steps)) > 1 and own.common is not None:
        costs = [own.regret(place) for place in range(len(own.paths))]
        most = max(range(len(costs)), key=lambda place: costs[place].mean)
        clauses.append(
            f"the best common step is {own.common}, which costs most on "
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
    return "; ".join(clauses)


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
        f"{several}: a distance below that is no difference from retraining."
    ]
