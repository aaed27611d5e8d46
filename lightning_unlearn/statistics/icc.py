"""How much of a variance lies between groups: the intraclass correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import fdtrc, fdtri

from lightning_unlearn.statistics.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class IntraclassCorrelation:
    """The share of the variance that lies between groups.

    Attributes:
        index: ICC(1), at most 1; negative where groups are more alike than chance would make them,
            though a share is not: it is then an estimate of 0 (see `share`).
        low: lower end of its 95 % interval; NaN where nothing varies within groups, which leaves
            nothing to judge chance by.
        high: upper end; likewise.
        f: mean square between over mean square within groups; infinite where nothing varies
            within.
        p: of that F where groups do not differ; NaN where nothing varies within.
        between: degrees of freedom between groups.
        within: degrees of freedom within groups.
        size: values per group; where groups differ in size, the n0 that takes its place.
        balanced: whether all groups have the same size; only then is the interval exact.
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
        """Index and ends of the interval as a share, none below 0; NaN stays."""
        return (clipped(self.index), clipped(self.low), clipped(self.high))


def clipped(value: float) -> float:
    """A share of a variance: 0 where its estimate is negative; NaN stays."""
    return value if math.isnan(value) else max(0.0, value)


def icc1(groups: Sequence[ArrayLike]) -> IntraclassCorrelation | None:
    """ICC(1) of the one-way random effects model, with F test and interval.

    With paths as groups and seeds as their members it is the share of an outcome's variance over
    runs that is due to the path. Values of a group are taken to be independent, and normal for the
    interval. What all groups of a seed share counts as variance within groups, which makes the
    index smaller.

    With k groups of n_i values, N in all: MS_B and MS_W mean squares between and within groups,
    n0 = (N - sum n_i^2 / N) / (k - 1), ICC = (MS_B - MS_W) / (MS_B + (n0 - 1) MS_W). The interval
    is (F_l - 1) / (F_l + n0 - 1) with F_l = F / F(.975; k - 1, N - k), and the like with
    F_u = F F(.975; N - k, k - 1); for groups of unequal size it is an approximation.

    Args:
        groups: the values of each group, [n_i]; those that are not finite are left out, and so are
            groups without any.

    Returns:
        None where the share is not defined: fewer than two groups, no group of two or more values,
        or all values equal.

    Source: Shrout and Fleiss 1979, "Intraclass correlations: uses in assessing rater reliability",
    ICC(1,1); McGraw and Wong 1996, "Forming inferences about some intraclass correlation
    coefficients", for the interval; n0 as in Snedecor and Cochran, "Statistical methods".
    """
    arrays = [np.asarray(group, dtype=np.float64).ravel() for group in groups]
    arrays = [known for known in (array[np.isfinite(array)] for array in arrays) if known.size]
    k, total = len(arrays), sum(array.size for array in arrays)
    if k < 2 or total == k:
        return None
    every = np.concatenate(arrays)
    if np.ptp(every) == 0:
        return None
    sizes = np.array([array.size for array in arrays], dtype=np.float64)
    means = np.array([array.mean() for array in arrays])
    df_between, df_within = k - 1, total - k
    between = float((sizes * (means - every.mean()) ** 2).sum()) / df_between
    # Equal values would leave rounding errors, and those an F that is large but finite.
    spreads = [((a - a.mean()) ** 2).sum() for a in arrays if np.ptp(a) > 0]
    within = float(sum(spreads)) / df_within
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
