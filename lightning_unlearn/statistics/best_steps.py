"""The step at which to stop unlearning: the best step of each path, and one step for all."""

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
    """The steps at which paths come closest to their oracles.

    Attributes:
        own: best step of each path, as an index of the curves, [paths].
        falling: whether the best step is the last evaluated one, so that the distance may fall
            further at later steps, [paths]; False for a single step.
        complete: the seeds over which means are taken, [paths, seeds].
        common: the best step for all paths together; None if no step was evaluated on all paths.
        regret: regret of the common step for each path: the distance at the common step minus the
            distance at the path's own best step. It is empty without a common step. The regret of
            one seed is not negative if the path's best step is the best step of this seed.
    """

    own: NDArray[np.intp]
    falling: NDArray[np.bool_]
    complete: NDArray[np.bool_]
    common: int | None
    regret: list[Interval]


def mean_over_seeds(curves: ArrayLike) -> NDArray[np.float64]:
    """Compute the mean over seeds of the finite values.

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
    """Find the seeds with a finite value at every step at which any seed of their path has one.

    If the seeds differed between steps, the mean curve would change for this reason alone.

    Args:
        curves: [paths, seeds, steps].

    Returns:
        [paths, seeds]; all False on a path without finite values.
    """
    known: NDArray[np.bool_] = np.isfinite(np.asarray(curves, dtype=np.float64))
    measured = np.expand_dims(known.any(axis=1), 1)
    return np.asarray((known | ~measured).all(axis=2) & measured.any(axis=2), np.bool_)


def best_steps(curves: ArrayLike) -> BestSteps:
    """Find the steps with the smallest distance to the oracle.

    Means are taken over the seeds that are complete on their path. The own step of a path is the
    minimum of its mean curve, the first one of several. The common step is the minimum of the mean
    over paths, among the steps at which every path has a value.

    Args:
        curves: distances, [paths, seeds, steps]; values that are not finite count as missing.

    Returns:
        Steps, and the regret of the common step in the unit of the distance, paired by seed.

    Raises:
        InputError: if the curves do not have three axes, or a path has no complete seed.
    """
    array = np.asarray(curves, dtype=np.float64)
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"best steps: found curves of shape {array.shape}, expected [paths, seeds, steps] "
            "without empty axes"
        )
    complete = complete_seeds(array)
    if not complete.any(axis=1).all():
        raise InputError(
            f"best steps: found no seed with a finite value at every step on path "
            f"{int(np.argmin(complete.any(axis=1)))} of {len(array)}, expected one or more; remove "
            "the path"
        )
    # The difference of two infinite distances is not defined.
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
