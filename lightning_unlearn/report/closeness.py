"""How close runs come to their oracles: the steps that matter and what was measured there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.curves import Curves, Place, curves_of, oracles_of_paths
from lightning_unlearn.report.oracles import Setting
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.statistics import (
    BestSteps,
    Interval,
    best_steps,
    complete_seeds,
    mean_interval,
    squared_distance,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURES = ("distance", "overshoot", "kl")
POINTS = ("first", "best", "common", "last")
OraclePairs = Mapping[tuple[Setting, Place], list[float]]


@dataclass(frozen=True)
class Point:
    """What was measured at one step of a path.

    Attributes:
        step: of unlearning.
        measured: means over seeds, by the names in `MEASURES`; those that have a value.
    """

    step: int
    measured: dict[str, Interval]

    def interval(self, measure: str) -> Interval:
        """The mean of a measure; of nothing where it has no value."""
        return self.measured.get(measure, mean_interval([]))


@dataclass(frozen=True)
class OracleDistances:
    """How close the runs of one method and setting come to their oracles on a probe.

    Attributes:
        distance: the RE distance to the oracle.
        paths: those with a seed that has a value at every measured step, by position.
        best: of these paths; its steps are places in those of `distance`.
        points: what was measured at each of `POINTS`, by path; without "common" where no step was
            measured on all paths. Means are over the seeds that have a value at every step.
        runs: the seeds of the runs, by path.
        absent: those without any finite distance, as where the seed has no oracle, by path.
        gaps: those without one at every step at which other seeds of the path have one, by path.
        without: paths on which every seed is one of these.
    """

    distance: Curves
    paths: list[Place]
    best: BestSteps
    points: list[dict[str, Point]]
    runs: list[list[int]]
    absent: list[list[int]]
    gaps: list[list[int]]
    without: list[Place]

    @property
    def steps(self) -> list[int]:
        """Each path's best step."""
        return [self.distance.steps[place] for place in self.best.own]

    @property
    def common(self) -> int | None:
        """The best step for all paths."""
        return None if self.best.common is None else self.distance.steps[self.best.common]

    def regret(self, place: int) -> Interval:
        """What the common step costs a path; of nothing where there is none."""
        return self.best.regret[place] if self.best.regret else mean_interval([])


def closeness_of(study: StudyRecords, probe: str) -> list[OracleDistances]:
    """How close the runs of each method and setting come to their oracles.

    Args:
        study: the records.
        probe: its distance/GROUP is compared; overshoot/GROUP and kl/GROUP are taken where they
            are.
    """
    others = {
        (curves.method, curves.setting, measure): curves
        for measure in MEASURES
        for curves in curves_of(study, f"{measure}/{probe}")
    }
    found = []
    for distance in curves_of(study, f"distance/{probe}"):
        finite = np.isfinite(distance.means)
        complete = complete_seeds(distance.means)
        known = [place for place in range(len(distance.paths)) if complete[place].any()]
        if not known:
            continue
        best = best_steps(distance.means[known])
        runs = runs_of(study, distance.method, distance.setting)
        own = {m: others.get((distance.method, distance.setting, m)) for m in MEASURES}
        points = []
        for place, own_best in zip(known, best.own, strict=True):
            measured = np.flatnonzero(finite[place].any(axis=0))
            seeds = _chosen(distance, complete[place])
            places = dict(
                zip(POINTS, (measured[0], own_best, best.common, measured[-1]), strict=True)
            )
            points.append(
                {
                    point: _point(distance.steps[at], distance.paths[place], own, seeds)
                    for point, at in places.items()
                    if at is not None
                }
            )
        paths = [distance.paths[place] for place in known]
        some = [_chosen(distance, finite[place].any(axis=1)) for place in known]
        used = [_chosen(distance, complete[place]) for place in known]
        seeds_of_runs = [runs[path] for path in paths]
        found.append(
            OracleDistances(
                distance,
                paths,
                best,
                points,
                seeds_of_runs,
                absent=[_less(own, has) for own, has in zip(seeds_of_runs, some, strict=True)],
                gaps=[_less(has, own) for has, own in zip(some, used, strict=True)],
                without=[path for path in runs if path not in paths],
            )
        )
    return found


def runs_of(study: StudyRecords, method: str, setting: Setting) -> dict[Place, list[int]]:
    """The seeds of the runs of a method and setting by path, both ascending."""
    rows = study.runs[study.runs["method"] == method]
    rows = rows[rows["setting"] == study.settings.index(setting)]
    parts = rows.groupby(["position", "path"])["seed"].unique()
    return {
        (str(path), int(position)): sorted(map(int, seeds))
        for (position, path), seeds in parts.items()
    }


def _chosen(curves: Curves, chosen: NDArray[np.bool_]) -> list[int]:
    return [seed for seed, use in zip(curves.seeds, chosen.tolist(), strict=True) if use]


def _less(seeds: list[int], others: list[int]) -> list[int]:
    return [seed for seed in seeds if seed not in others]


def _point(step: int, path: Place, own: dict[str, Curves | None], seeds: list[int]) -> Point:
    every = {}
    for measure, curves in own.items():
        if curves is not None:
            values = curves.at(path, step)[np.isin(curves.seeds, seeds)]
            every[measure] = mean_interval(values)
    return Point(step, {m: interval for m, interval in every.items() if interval.count})


def between_oracles(examples: StudyRecords, probe: str) -> OraclePairs:
    """RE distances between the oracles of a path, for each pair of their seeds.

    So far apart are models that never saw the forget stage: it is the spread of retraining. Runs
    are compared with the oracle of their own seed, which may well be nearer.

    Args:
        examples: the examples.
        probe: its log_likelihood/GROUP is compared.

    Returns:
        (nats per token)^2 by setting and path; those with fewer than two oracles are left out.
    """
    measure = f"log_likelihood/{probe}"
    found: dict[tuple[Setting, Place], list[float]] = {}
    for curves in curves_of(examples, measure):
        if all((curves.setting, path) in found for path in curves.paths):
            continue
        each = oracles_of_paths(examples, measure, curves)
        for path, models in zip(curves.paths, each, strict=True):
            pairs = [float(squared_distance(*pair)) for pair in combinations(models, 2)]
            known = [distance for distance in pairs if np.isfinite(distance)]
            if known:
                found[curves.setting, path] = known
    return found
