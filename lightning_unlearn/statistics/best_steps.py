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
        falling: whether that is the last step measured on the path, so that the distance may be
            less still at a later one, [paths]; not with a single step.
        complete: the seeds that means are of, [paths, seeds].
        common: the best step for all paths together; None where no step was measured on all.
        regret: what the common step costs each path: the distance there less the distance at its
            own best step; empty without a common step. A single seed's regret is not negative, if
            the path's best step is that of this seed.
    """

    own: NDArray[np.intp]
    falling: NDArray[np.bool_]
    complete: NDArray[np.bool_]
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


def complete_seeds(curves: ArrayLike) -> NDArray[np.bool_]:
    """The seeds with a finite value at every step at which any seed of their path has one.

    Means of other seeds at each step would differ from step to step for the seeds alone.

    Args:
        curves: [paths, seeds, steps].

    Returns:
        [paths, seeds]; none on a path without any value.
    """
    known: NDArray[np.bool_] = np.isfinite(np.asarray(curves, dtype=np.float64))
    measured = np.expand_dims(known.any(axis=1), 1)
    return np.asarray((known | ~measured).all(axis=2) & measured.any(axis=2), np.bool_)


def best_steps(curves: ArrayLike) -> BestSteps:
    """The steps at which the distance to the oracle is least.

    Means are over the seeds that are complete on their path. A path's own step is where its mean
    curve is lowest, the first of several; the common step is where the mean over paths is lowest,
    among the steps at which every path has a value.

    Args:
        curves: distances, [paths, seeds, steps]; values that are not finite are missing ones.

    Returns:
        Steps, and the regret of the common one in the unit of the distance, paired by seed.

    Raises:
        InputError: the curves do not have three axes, or a path has no complete seed.
    """
    array = np.asarray(curves, dtype=np.float64)
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"best steps: found curves of shape {array.shape}, expected [paths, seeds, steps], "
            "none of them 0"
        )
    complete = complete_seeds(array)
    if not complete.any(axis=1).all():
        raise InputError(
            f"best steps: found no seed with a finite value at every step on path "
            f"{int(np.argmin(complete.any(axis=1)))} of {len(array)}, expected one or more; leave "
            "the path out"
        )
    # An infinite distance has no difference to another one.
    array = np.where(np.isfinite(array) & complete[..., None], array, np.nan)
    means = mean_over_seeds(array)
    measured = ~np.isnan(means)
    own = np.nanargmin(means, axis=1)
    last = measured.shape[1] - 1 - np.argmax(measured[:, ::-1], axis=1)
    falling = (own == last) & (measured.sum(axis=1) > 1)
    shared = measured.all(axis=0)
    if not shared.any():
        return BestSteps(own, falling, complete, None, [])
    common = int(np.argmin(np.where(shared, means.mean(axis=0), np.inf)))
    pairs = zip(array, own, strict=True)
    regret = [mean_interval(path[:, common] - path[:, best]) for path, best in pairs]
    return BestSteps(own, falling, complete, common, regret)
