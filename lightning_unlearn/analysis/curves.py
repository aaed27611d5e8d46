"""A metric of a study as arrays: one for each method and setting, and means over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_unlearn.analysis.reading import Condition, PathPosition, StudyRecords, closest
from lightning_unlearn.statistics import half_width, mean_over_seeds

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
_AXES = ("seed", "step", "example")


@dataclass(frozen=True)
class Curves(Condition):
    """What the runs of one method and setting measured.

    Attributes:
        paths: path and position of the forget stage, by position.
        seeds: ascending.
        steps: ascending.
        examples: their numbers, ascending; [0] for a table without examples.
        values: [paths, seeds, steps, examples]; NaN where nothing was measured.
    """

    paths: list[PathPosition]
    seeds: list[int]
    steps: list[int]
    examples: list[int]
    values: Floats

    @property
    def means(self) -> Floats:
        """The values of a table without examples, [paths, seeds, steps]."""
        return self.values[..., 0]

    def at(self, path: PathPosition, step: int) -> Floats:
        """The values of a path at a step, [seeds]; NaN where there are none."""
        if path not in self.paths or step not in self.steps:
            return np.full(len(self.seeds), np.nan)
        return self.means[self.paths.index(path), :, self.steps.index(step)]


def curves_of(study: StudyRecords, metric: str) -> list[Curves]:
    """The runs' values of a metric, in records or examples, by method and setting."""
    rows = study.runs[study.runs["metric"] == metric]
    if "example" not in rows:
        rows = rows.assign(example=0)
    return [_curves(of, part) for of, part in study.by_condition(rows)]


def _curves(of: Condition, rows: pd.DataFrame) -> Curves:
    rows = rows.sort_values("position", kind="stable")
    paths = paths_of(rows)
    axes = [np.unique(rows[name], return_inverse=True) for name in _AXES]
    values = np.full((len(paths), *(len(labels) for labels, _ in axes)), np.nan)
    places = rows.groupby(["path", "position"], sort=False).ngroup().to_numpy()
    values[(places, *(place for _, place in axes))] = rows["value"]
    seeds, steps, examples = (labels.tolist() for labels, _ in axes)
    return Curves(of.method, of.keys, of.setting, paths, seeds, steps, examples, values)


def paths_of(rows: pd.DataFrame) -> list[PathPosition]:
    """Path and position of the rows, in order of first appearance."""
    pairs = rows[["path", "position"]].drop_duplicates().itertuples(index=False, name=None)
    return [(str(path), int(position)) for path, position in pairs]


def curves_by_condition(study: StudyRecords, metric: str) -> dict[Condition, Curves]:
    """The curves of a metric by method and setting."""
    return {curves.condition: curves for curves in curves_of(study, metric)}


def oracles_of(study: StudyRecords, metric: str, curves: Curves) -> dict[PathPosition, float]:
    """The oracles' values, means over their seeds, of the paths that have one."""
    values = {path: study.oracles.value(metric, *path, curves.setting) for path in curves.paths}
    return {path: value for path, value in values.items() if math.isfinite(value)}


def oracles_of_paths(study: StudyRecords, metric: str, curves: Curves) -> list[Floats]:
    """What the oracles of each path measured: [oracle seeds, examples of the runs], with NaN."""
    each = [list(models.values()) for models in oracles_by_seed(study, metric, curves)]
    return [np.array(models).reshape(len(models), len(curves.examples)) for models in each]


def oracles_by_seed(study: StudyRecords, metric: str, curves: Curves) -> list[dict[int, Floats]]:
    """What the oracles of each path measured, by ascending seed: [examples of the runs]."""
    rows = study.retrained[study.retrained["metric"] == metric]
    parts = dict(list(rows.groupby(["path", "position"])))
    examples = np.array(curves.examples)

    def of_examples(own: pd.DataFrame) -> Floats:
        values = np.full(len(examples), np.nan)
        known = own[np.isin(own["example"], examples)]
        values[np.searchsorted(examples, known["example"])] = known["value"]
        return values

    found = []
    for path in curves.paths:
        own = parts[path].groupby(["seed", "setting"]) if path in parts else ()
        models = ((int(seed), study.settings[code], part) for (seed, code), part in own)
        chosen = closest(models, curves.setting)
        found.append({seed: of_examples(part) for seed, part in sorted(chosen.items())})
    return found


@dataclass(frozen=True, eq=False)
class Band:
    """A mean over seeds at the steps that have a value, with Student's 95 % interval.

    Ends of the interval are NaN with fewer than two seeds. `seeds` is the most that a mean is of.
    """

    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int


def spread_over_seeds(
    values: Floats,
) -> tuple[Floats, Floats]:
    """Mean and half the 95 % interval over seeds.

    Args:
        values: [paths, seeds, ...]; values that are not finite are missing ones.

    Returns:
        [paths, ...] each; the interval is NaN with fewer than two seeds.
    """
    means = mean_over_seeds(values)
    known = np.isfinite(values)
    squares = (np.where(known, values, 0.0) - means[:, None]) ** 2
    count = known.sum(axis=1)
    deviation = np.sqrt(np.where(known, squares, 0.0).sum(axis=1) / np.maximum(count - 1, 1))
    return means, half_width(deviation, count)


def band_of(steps: ArrayLike, values: ArrayLike) -> Band:
    """The mean over seeds and its interval at each step.

    Args:
        steps: ascending, [steps].
        values: [seeds, steps]; values that are not finite are missing ones.

    Returns:
        Without the steps at which no seed has a value.
    """
    x, array = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    (mean,), (half,) = spread_over_seeds(array[None])
    count = np.isfinite(array).sum(axis=0)
    kept = count > 0
    ends = (mean - half)[kept], (mean + half)[kept]
    return Band(x[kept], mean[kept], *ends, int(count.max(initial=0)))


def log_band_of(steps: ArrayLike, values: ArrayLike) -> Band:
    """`band_of` for the logarithm of positive values, given back as values.

    The mean is the geometric one and the band is as far above it as below on a logarithmic axis.
    Values that are not positive are missing ones.
    """
    array = np.asarray(values, np.float64)
    known = np.isfinite(array) & (array > 0)
    logs = np.log(np.where(known, array, 1.0))
    band = band_of(steps, np.where(known, logs, np.nan))
    return Band(band.x, np.exp(band.mean), np.exp(band.low), np.exp(band.high), band.seeds)
