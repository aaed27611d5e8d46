"""The recency effect: what it changes that the forget stage was trained last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def recency_effect(values: ArrayLike) -> Interval:
    """The last position less the mean of the others, paired by seed.

    Paths of one seed share the data order and the adapter's first weights, so the difference is
    taken within each seed, and the interval is over the differences.

    Args:
        values: an outcome, [positions, seeds], the last position in the last row; a seed with a
            value that is not finite is left out, for its positions can't be compared.

    Returns:
        Mean difference with its interval, in the unit of the outcome; negative where the last
        position has less. Of forget scores: negative where it forgot slower.

    Raises:
        InputError: fewer than two positions.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise InputError(
            f"recency effect: found values of shape {array.shape}, expected [positions, seeds] "
            "with two positions or more"
        )
    array = np.where(np.isfinite(array), array, np.nan)
    return mean_interval(array[-1] - array[:-1].mean(axis=0))
