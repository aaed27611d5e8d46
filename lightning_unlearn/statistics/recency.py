"""The recency effect: the change of an outcome if the forget stage is trained last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def recency_effect(values: ArrayLike) -> Interval:
    """Compute the outcome at the last position minus the mean of the others, paired by seed.

    Paths of one seed have the same data order and the same initial adapter weights. So the
    difference is taken within each seed, and the interval is that of the differences.

    Args:
        values: an outcome, [positions, seeds], with the last position in the last row. A seed with
            a value that is not finite is ignored, because its positions cannot be compared.

    Returns:
        Mean difference with its interval, in the unit of the outcome. It is negative if the last
        position has a smaller value. For forget scores, negative means slower forgetting.

    Raises:
        InputError: if there are fewer than two positions.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise InputError(
            f"recency effect: found values of shape {array.shape}, expected [positions, seeds] "
            "with two positions or more"
        )
    array = np.where(np.isfinite(array), array, np.nan)
    return mean_interval(array[-1] - array[:-1].mean(axis=0))
