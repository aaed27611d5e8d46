"""The distance to the oracle: a file, a table and sentences."""

from __future__ import annotations

from typing import Any

from lightning_unlearn.analysis.oracle_distance import (
    METRICS,
    OracleDistances,
    OraclePairs,
    Point,
    between_oracles,
    distinct_pairs,
    oracle_distances,
)
from lightning_unlearn.analysis.reading import StudyRecords
from lightning_unlearn.report.formatting import (
    among,
    join_words,
    names_of_paths,
    per_path,
    percent,
    percent_range,
    seeds_on_paths,
    short_number,
    short_range,
)
from lightning_unlearn.report.sections.base import (
    DISTANCE_UNIT,
    Section,
    clause,
    ends_of,
    with_ends,
    with_half,
)
from lightning_unlearn.report.tables import Column, Row, csv, table_of_runs
from lightning_unlearn.statistics import mean_interval

TITLE = "Distance to the oracle"
FORGET = "forget"
NOTE = (
    "Mean squared difference to the oracle's log-likelihood of each forget example, (nats per "
    "token)^2, at the first step, the path's best and the last. Regret: what it costs to stop at "
    "the step that is best for all paths together. At the best and at the last step: overshoot, "
    "the share of examples below the oracle, and KL, from oracle to model in nats per token. Still "
    "falling: the best step is the last one evaluated, so a later one may be nearer."
)
SEEDS = "Means over the seeds with a value at every step; ±: half the 95 % interval."


def oracle_distance(study: StudyRecords, examples: StudyRecords | None) -> Section:
    """Distance to the oracle at the first, the best, the best common and the last step.

    Needs distance/GROUP of the monitor OracleDistance; overshoot/GROUP, kl/GROUP and, from the
    examples, log_likelihood/GROUP are taken where they are. oracle_distance.csv has a row per
    method, setting, group, path and point, which is "first", "best", "common" or "last": its step,
    each metric's mean over seeds with its 95 % interval, the regret of the common step, and
    `oracle_noise_floor`, the mean distance between the path's oracles of different seeds. Means are
    over the seeds that have a distance at every step of the path: `seeds` counts them,
    `seeds_excluded` the others. `still_falling` is 1 if the best step is the last evaluated
    one. Table and sentences are on the group `forget`.
    """
    metrics = [name for name in study.runs["metric"].unique() if name.startswith("distance/")]
    records: list[dict[str, Any]] = []
    rows: list[Row] = []
    findings: list[str] = []
    for group in (metric.removeprefix("distance/") for metric in metrics):
        found = oracle_distances(study, group)
        floors = between_oracles(examples, group) if examples is not None else {}
        for own in found:
            records += _records(own, group, floors)
        if group == FORGET:
            rows = [_row(own, place) for own in found for place in range(len(own.paths))]
            findings = [f"{own.distance.name}: {_finding(own)}." for own in found]
            findings += _without(study, found)
            findings += _floor(floors)
    table = table_of_runs(COLUMNS, rows, [NOTE], bool(study.sweep), spread=SEEDS) if rows else None
    return Section(TITLE, {"oracle_distance": csv(records)} if records else {}, table, findings)


def _records(own: OracleDistances, group: str, floors: OraclePairs) -> list[dict[str, Any]]:
    """The rows of oracle_distance.csv."""
    rows = []
    for place, (path, points) in enumerate(zip(own.paths, own.points, strict=True)):
        pairs = floors.get((own.distance.setting, path), [])
        for name, point in points.items():
            row: dict[str, Any] = {
                **own.distance.identity,
                "path": path[0],
                "position": path[1],
                "group": group,
                "point": name,
                "step": point.step,
                "seeds": point.interval().count,
                "seeds_excluded": len(own.absent[place]) + len(own.gaps[place]),
                "still_falling": int(own.best.falling[place]) if name == "best" else None,
            }
            for metric in METRICS:
                row |= ends_of(metric, point.interval(metric))
            row |= ends_of("regret", own.regret(place) if name == "common" else mean_interval([]))
            row["oracle_noise_floor"] = sum(pairs) / len(pairs) if pairs else None
            rows.append(row)
    return rows


def _row(own: OracleDistances, place: int) -> Row:
    """The row of a path; the columns read the distances and its place among the paths."""
    seeds = max(point.interval().count for point in own.points[place].values())
    return Row(own.distance, (own, place), own.paths[place], seeds)


def _mean(row: Row, point: str, metric: str = "distance") -> str:
    return short_number(_point(row, point).interval(metric).mean, 3 if metric == "distance" else 2)


def _point(row: Row, name: str) -> Point:
    own, place = row.data
    point: Point = own.points[place][name]
    return point


def _best(row: Row) -> str:
    own, place = row.data
    falling = ", still falling" * bool(own.best.falling[place])
    return f"{_mean(row, 'best')} ({_point(row, 'best').step}{falling})"


def _last(row: Row) -> str:
    own, _ = row.data
    step = _point(row, "last").step
    return f"{_mean(row, 'last')}{f' ({step})' * (step < own.distance.steps[-1])}"


def _overshoot(row: Row) -> str:
    points = (_point(row, name) for name in ("best", "last"))
    return ", ".join(percent(point.interval("overshoot").mean) for point in points)


COLUMNS = [
    Column("first", lambda row: _mean(row, "first")),
    Column("best (step)", _best),
    Column("last", _last),
    Column("regret", lambda row: with_half(row.data[0].regret(row.data[1]))),
    Column("overshoot %", _overshoot),
    Column("KL", lambda row: f"{_mean(row, 'best', 'kl')}, {_mean(row, 'last', 'kl')}"),
]


def _finding(own: OracleDistances) -> str:
    """When to stop, what one step for all costs, and what the last step has come to."""
    steps = per_path(own.steps, own.paths, own.best.falling.tolist())
    clauses = [f"the distance to the oracle is least at step {steps}"]
    if own.common is None:
        clauses.append("no step was measured on all paths, so there is no best common one")
    elif len(set(own.steps)) > 1:
        costs = [own.regret(place) for place in range(len(own.paths))]
        most = max(range(len(costs)), key=lambda place: costs[place].mean)
        end = " (the last one evaluated)" * (own.common == own.distance.steps[-1])
        clauses.append(
            f"the best common step is {own.common}{end}, which costs most on "
            f"{names_of_paths(own.paths)[most]}, {with_ends(costs[most], DISTANCE_UNIT)}"
        )
    last = [points["last"] for points in own.points]
    distances = [point.interval().mean for point in last]
    clauses.append(f"at the last step it is {short_range(distances)} {DISTANCE_UNIT}")
    shares = [point.interval("overshoot").mean for point in last if "overshoot" in point.measured]
    if shares:
        below = percent_range(shares)
        clauses[-1] += f", and {below} % of the forget examples are below their oracle"
    return "; ".join([*clauses, *_left_out(own)])


def _left_out(own: OracleDistances) -> list[str]:
    """Which steps, seeds and paths have no part in the means, as clauses."""
    names, end = names_of_paths(own.paths), own.distance.steps[-1]
    pairs = zip(names, own.points, strict=True)
    early = [name for name, points in pairs if points["last"].step < end]
    absent, gaps = (seeds_on_paths(seeds, own.paths) for seeds in (own.absent, own.gaps))
    clauses = clause("left out because the oracle or any distance to it is missing:", absent)
    clauses += clause("left out because some step has no finite distance:", gaps)
    if early:
        on = f"on {among(early, len(names))}, whose last step is an earlier one"
        clauses.insert(0, f"at step {end} no distance is finite {on}")
    if own.without:
        on = among(names_of_paths(own.without), len(own.paths) + len(own.without))
        clauses.append(f"no seed has a finite distance at every step on {on}, left out")
    return clauses


def _without(study: StudyRecords, found: list[OracleDistances]) -> list[str]:
    """The methods and settings that have no distance at all, as a sentence."""
    names = dict.fromkeys(own.name for own in study.conditions(study.runs))
    for own in found:
        names.pop(own.distance.name, None)
    if not names:
        return []
    return [f"{TITLE}: {join_words(names)} left out: no seed has a finite distance at every step."]


def _floor(floors: OraclePairs) -> list[str]:
    """How far oracles of different seeds are from each other, as a sentence."""
    every = distinct_pairs(floors)
    if not every:
        return []
    mean, low, high = (short_number(v) for v in (sum(every) / len(every), min(every), max(every)))
    several = f" on the mean of {len(every)} pairs ({low} to {high})" if len(every) > 1 else ""
    return [
        f"Two oracles of different seeds differ by {mean} {DISTANCE_UNIT} on the forget set"
        f"{several}: a distance below that is within the spread of retrained models in "
        "this metric, though a run's distance is to the oracle of its own seed."
    ]
