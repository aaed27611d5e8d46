"""Means of curves over seeds with their 95 % bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.statistics import half_width, mean_over_seeds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Band:
    """A curve over the steps that have a value.

    Attributes:
        x: steps, ascending.
        mean: over seeds.
        low: lower end of Student's 95 % interval; NaN with fewer than two seeds.
        high: upper end; likewise.
        seeds: the most that a step's mean is of.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    seeds: int


def spread_over_seeds(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
