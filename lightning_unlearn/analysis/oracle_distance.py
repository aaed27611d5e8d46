"""How close runs come to their oracles: the steps that matter and what was measured there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.curves import Curves, curves_of, oracles_of_paths
from lightning_unlearn.analysis.reading import PathPosition, Setting, StudyRecords
from lightning_unlearn.statistics import (
    BestSteps,
    Interval,
    best_steps,
    complete_seeds,
    mean_interval,
    squared_distance,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

METRICS = ("distance", "overshoot", "kl")
POINTS = ("first", "best", "common", "last")
OraclePairs = Mapping[tuple[Setting, PathPosition], list[float]]


@dataclass(frozen=True)
class Point:
    """What was measured at one step of a path.

    Attributes:
        step: of unlearning.
        measured: means over seeds, by the names in `METRICS`; those that have a value.
    """

    step: int
    measured: dict[str, Interval]

    def interval(self, metric: str = "distance") -> Interval:
        """The mean of a metric; of nothing where it has no value."""
        return self.measured.get(metric, mean_interval([]))


@dataclass(frozen=True)
class OracleDistances:
    """How close the runs of one method and setting come to their oracles on a group of rows.

    Attributes:
        distance: the RE distance to the oracle.
        paths: those with a seed that has a value at every measured step, by position.
        best: of these paths; its steps are places in those of `distance`.
        points: what was measured at each of `POINTS`, by path; without "common" where no step was
            measured on all paths. Means are over the seeds that have a value at every step.
        absent: seeds of runs without any finite distance, as where the seed has no oracle, by path.
        gaps: those without one at every step at which other seeds of the path have one, by path.
        without: paths on which every seed is one of these.
    """

    distance: Curves
    paths: list[PathPosition]
    best: BestSteps
    points: list[dict[str, Point]]
    absent: list[list[int]]
    gaps: list[list[int]]
    without: list[PathPosition]

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


def oracle_distances(study: StudyRecords, group: str) -> list[OracleDistances]:
    """How close the runs of each method and setting come to their oracles.

    The distance/GROUP of the group is compared; its overshoot/GROUP and kl/GROUP are taken where
    they are. Methods and settings without a seed that has a distance at every step are left out.
    """
    curves = {metric: curves_of(study, f"{metric}/{group}") for metric in METRICS}
    found = []
    runs = dict(study.by_condition(study.runs))
    for distance in curves["distance"]:
        of = distance.condition
        own = {m: c for m, every in curves.items() for c in every if c.condition == of}
        if np.any(complete_seeds(distance.means)):
            found.append(_distances(own, _seeds_of_paths(runs[of])))
    return found


def _distances(curves: dict[str, Curves], runs: dict[PathPosition, list[int]]) -> OracleDistances:
    """The distances of one method and setting from its curves and the seeds of its runs."""
    distance = curves["distance"]
    known = np.flatnonzero(complete_seeds(distance.means).any(axis=1))
    paths = [distance.paths[place] for place in known]
    best = best_steps(distance.means[known])
    points, absent, gaps = [], [], []
    for place, path, own_best, used in zip(known, paths, best.own, best.complete, strict=True):
        finite = np.isfinite(distance.means[place])
        measured = np.flatnonzero(finite.any(axis=0))
        steps = zip(POINTS, (measured[0], own_best, best.common, measured[-1]), strict=True)
        points.append(
            {
                name: _point(distance.steps[at], path, curves, used)
                for name, at in steps
                if at is not None
            }
        )
        seeds = np.array(distance.seeds)
        absent.append([seed for seed in runs[path] if seed not in seeds[finite.any(axis=1)]])
        gaps.append(seeds[finite.any(axis=1) & ~used].tolist())
    without = [path for path in runs if path not in paths]
    return OracleDistances(distance, paths, best, points, absent, gaps, without)


def _seeds_of_paths(runs: pd.DataFrame) -> dict[PathPosition, list[int]]:
    """The seeds of runs by path, both ascending."""
    parts = runs.groupby(["position", "path"])["seed"].unique()
    return {
        (str(path), int(position)): sorted(map(int, seeds))
        for (position, path), seeds in parts.items()
    }


def _point(
    step: int, path: PathPosition, curves: dict[str, Curves], complete: NDArray[np.bool_]
) -> Point:
    """The means over the complete seeds at a step of a path."""
    seeds = np.array(curves["distance"].seeds)[complete]
    means = {
        metric: mean_interval(own.at(path, step)[np.isin(own.seeds, seeds)])
        for metric, own in curves.items()
    }
    return Point(step, {metric: interval for metric, interval in means.items() if interval.count})


def between_oracles(examples: StudyRecords, group: str) -> OraclePairs:
    """RE distances between the oracles of a path, for each pair of their seeds.

    So far apart are models that never saw the forget stage: it is the spread of retraining. Runs
    are compared with the oracle of their own seed, which may well be nearer.

    Returns:
        Of log_likelihood/GROUP, (nats per token)^2 by setting and path; those with fewer than two
        oracles are left out.
    """
    metric = f"log_likelihood/{group}"
    found: dict[tuple[Setting, PathPosition], list[float]] = {}
    for curves in curves_of(examples, metric):
        if all((curves.setting, path) in found for path in curves.paths):
            continue
        each = oracles_of_paths(examples, metric, curves)
        for path, models in zip(curves.paths, each, strict=True):
            pairs = [float(squared_distance(*pair)) for pair in combinations(models, 2)]
            known = [distance for distance in pairs if np.isfinite(distance)]
            if known:
                found[curves.setting, path] = known
    return found


def distinct_pairs(pairs: OraclePairs) -> list[float]:
    """The distances between oracles, each once: settings and paths may share their oracles."""
    return [distance for own in dict.fromkeys(map(tuple, pairs.values())) for distance in own]
