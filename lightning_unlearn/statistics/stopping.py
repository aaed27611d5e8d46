"""When to stop unlearning: the best step of each path, and one step for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class BestSteps:
    """Where paths come closest to their oracles.

    Attributes:
        own: each path's best step, as a place in the curves, [paths].
        common: the best step for all paths together; None where no step was measured on all.
        regret: what the common step costs each path: the distance there less the distance at its
            own best step; empty without a common step. A single seed's regret is not negative, if
            the path's best step is that of this seed.
    """

    own: NDArray[np.intp]
    common: int | None
    regret: list[Interval]


def mean_over_seeds(curves: ArrayLike) -> NDArray[np.float64]:
    """The mean of the finite values over the seeds.

    Args:
        curves: [paths, seeds, steps].

    Returns:
        [paths, steps]; NaN where no seed has a value.
    """
    array = np.asarray(curves, dtype=np.float64)
    known = np.isfinite(array)
    count = known.sum(axis=1)
    total = np.where(known, array, 0.0).sum(axis=1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.float64)


def best_steps(curves: ArrayLike) -> BestSteps:
    """The steps at which the distance to the oracle is least.

    Means are over seeds. A path's own step is where its mean curve is lowest, the first of several;
    the common step is where the mean over paths is lowest, among the steps at which every path has
    a value.

    Args:
        curves: distances, [paths, seeds, steps]; values that are not finite are missing ones.

    Returns:
        Steps, and the regret of the common one in the unit of the distance, paired by seed.

    Raises:
        InputError: the curves do not have three axes, or a path has no value at all.
    """
    array = np.asarray(curves, dtype=np.float64)
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"best steps: found curves of shape {array.shape}, expected [paths, seeds, steps], "
            "none of them 0"
        )
    # An infinite distance has no difference to another one.
    array = np.where(np.isfinite(array), array, np.nan)
    means = mean_over_seeds(array)
    empty = np.isnan(means).all(axis=1)
    if empty.any():
        raise InputError(
            f"best steps: found no finite value on path {int(np.argmax(empty))} of {len(array)}, "
            "expected one or more; leave the path out"
        )
    own = np.nanargmin(means, axis=1)
    complete = ~np.isnan(means).any(axis=0)
    if not complete.any():
        return BestSteps(own, None, [])
    common = int(np.argmin(np.where(complete, means.mean(axis=0), np.inf)))
    pairs = zip(array, own, strict=True)
    regret = [mean_interval(path[:, common] - path[:, best]) for path, best in pairs]
    return BestSteps(own, common, regret)
