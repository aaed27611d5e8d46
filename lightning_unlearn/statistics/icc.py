"""The intraclass correlation: the share of a variance that lies between groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import fdtrc, fdtri

from lightning_unlearn.statistics.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class IntraclassCorrelation:
    """The share of the variance that lies between groups.

    Attributes:
        index: ICC(1), at most 1. It is negative if the groups are more similar than expected by
            chance. A share cannot be negative; the index is then an estimate of 0 (see `share`).
        low: lower end of the 95 % interval; NaN if no group varies, which leaves no estimate of
            the noise.
        high: upper end; NaN in the same case.
        f: mean square between groups divided by mean square within groups; infinite if no group
            varies.
        p: probability of this F or a larger one if groups do not differ; NaN if no group varies.
        between: degrees of freedom between groups.
        within: degrees of freedom within groups.
        size: values per group; n0 if the groups differ in size.
        balanced: whether all groups have the same size; only then the interval is exact.
    """

    index: float
    low: float
    high: float
    f: float
    p: float
    between: int
    within: int
    size: float
    balanced: bool

    @property
    def share(self) -> tuple[float, float, float]:
        """Index and ends of the interval as shares: negative values become 0, NaN stays."""
        return (clipped(self.index), clipped(self.low), clipped(self.high))


def clipped(value: float) -> float:
    """Return an estimated share of a variance, with 0 for a negative estimate; NaN stays."""
    return value if math.isnan(value) else max(0.0, value)


def icc1(groups: Sequence[ArrayLike]) -> IntraclassCorrelation | None:
    """Compute ICC(1) of the one-way random effects model, with F test and interval.

    With paths as groups and seeds as their members, it is the share of an outcome's variance over
    runs that is due to the path. It assumes that the values of a group are independent; the
    interval also assumes that they are normal. An effect of a seed that is common to all groups
    counts as variance within groups, which makes the index smaller.

    With k groups of n_i values, N in total, MS_B and MS_W are the mean squares between and within
    groups. n0 = (N - sum n_i^2 / N) / (k - 1), and ICC = (MS_B - MS_W) / (MS_B + (n0 - 1) MS_W).
    The lower end is (F_l - 1) / (F_l + n0 - 1) with F_l = F / F(.975; k - 1, N - k). The upper end
    is the same with F_u = F F(.975; N - k, k - 1). For groups of unequal size the interval is an
    approximation.

    Args:
        groups: values of each group, [n_i]. Values that are not finite are ignored, and groups
            without other values too.

    Returns:
        The correlation; None if it is not defined: fewer than two groups, no group of two or more
        values, or all values equal.

    Source: Shrout and Fleiss 1979, "Intraclass correlations: uses in assessing rater reliability",
    ICC(1,1); McGraw and Wong 1996, "Forming inferences about some intraclass correlation
    coefficients", for the interval; n0 as in Snedecor and Cochran, "Statistical methods".
    """
    arrays = [np.asarray(group, dtype=np.float64).ravel() for group in groups]
    arrays = [known for known in (array[np.isfinite(array)] for array in arrays) if known.size]
    k, total = len(arrays), sum(array.size for array in arrays)
    if k < 2 or total == k or np.ptp(np.concatenate(arrays)) == 0:
        return None
    df_between, df_within = k - 1, total - k
    between, within = _mean_squares(arrays, df_between, df_within)
    sizes = np.array([array.size for array in arrays], dtype=np.float64)
    n0 = float(total - (sizes**2).sum() / total) / (k - 1)
    balanced = bool((sizes == sizes[0]).all())
    if within == 0:
        return IntraclassCorrelation(
            1.0, math.nan, math.nan, math.inf, math.nan, df_between, df_within, n0, balanced
        )
    f = between / within
    upper = (1 + LEVEL) / 2
    least = f / float(fdtri(df_between, df_within, upper))
    most = f * float(fdtri(df_within, df_between, upper))
    return IntraclassCorrelation(
        index=(f - 1) / (f + n0 - 1),
        low=(least - 1) / (least + n0 - 1),
        high=(most - 1) / (most + n0 - 1),
        f=f,
        p=float(fdtrc(df_between, df_within, f)),
        between=df_between,
        within=df_within,
        size=n0,
        balanced=balanced,
    )


def _mean_squares(
    arrays: Sequence[NDArray[np.float64]], df_between: int, df_within: int
) -> tuple[float, float]:
    """Compute the mean squares between and within groups."""
    sizes = np.array([array.size for array in arrays], dtype=np.float64)
    means = np.array([array.mean() for array in arrays])
    mean = np.concatenate(arrays).mean()
    between = float((sizes * (means - mean) ** 2).sum()) / df_between
    # Skip groups of equal values: their rounding errors would give a large but finite F.
    spreads = [((a - a.mean()) ** 2).sum() for a in arrays if np.ptp(a) > 0]
    return between, float(sum(spreads)) / df_within
