"""Means and differences of means, with Student's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
# Two-sided 95 % of the normal distribution.
NORMAL_QUANTILE = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: the mean; NaN without values.
        low: lower end; NaN with fewer than two values, which have no spread.
        high: upper end; NaN in the same case.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half the width of the interval; NaN with fewer than two values."""
        return (self.high - self.low) / 2


def half_width(deviation: ArrayLike, count: ArrayLike) -> NDArray[np.float64]:
    """Compute half the 95 % interval of a mean: t(0.975, n - 1) s / sqrt(n).

    Args:
        deviation: standard deviations with n - 1 in the denominator, of any shape.
        count: number of values of each mean, of the same shape.

    Returns:
        Half widths of the same shape, in the unit of the values; NaN for fewer than two values.
    """
    n = np.asarray(count, dtype=np.float64)
    known = n >= 2
    safe = np.where(known, n, 2.0)
    half = stdtrit(safe - 1, (1 + LEVEL) / 2) * np.asarray(deviation, np.float64) / np.sqrt(safe)
    return np.asarray(np.where(known, half, np.nan), dtype=np.float64)


def mean_interval(values: ArrayLike) -> Interval:
    """Compute the mean of independent values with Student's 95 % interval.

    Args:
        values: [n], such as one per seed; values that are not finite are ignored.

    Returns:
        Mean and ends in the unit of the values.

    Source: Student 1908, "The probable error of a mean".
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    known = array[np.isfinite(array)]
    if not known.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    # Equal values have no spread, even if their mean is rounded.
    deviation = known.std(ddof=1) if known.size > 1 and np.ptp(known) > 0 else 0.0
    half = float(half_width(deviation, known.size))
    return Interval(mean, mean - half, mean + half, int(known.size))


def half_width_of_difference(one: ArrayLike, other: ArrayLike) -> float:
    """Compute half the 95 % interval of the difference of the means of two independent samples.

    It is t(0.975, f) sqrt(s^2 / n + r^2 / m) with f = min(n, m) - 1, the smallest possible value of
    Welch's degrees of freedom. So the interval is never narrower than Welch's.

    Args:
        one: [n], two values or more, all finite.
        other: [m], two values or more, all finite; the two may differ in spread and in size.

    Returns:
        Half width in the unit of the values; 0 if neither sample varies.

    Source: Welch 1947, "The generalization of 'Student's' problem when several different population
    variances are involved".
    """
    samples = [np.asarray(values, dtype=np.float64) for values in (one, other)]
    # Equal values have no spread, even if their mean is rounded.
    squares = [x.var(ddof=1) / x.size if np.ptp(x) > 0 else 0.0 for x in samples]
    fewest = min(x.size for x in samples)
    return float(stdtrit(fewest - 1, (1 + LEVEL) / 2)) * math.sqrt(float(sum(squares)))


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Ends of Wilson's 95 % interval for a share; NaN where there are no trials.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not trials > 0:
        return math.nan, math.nan
    share, square = successes / trials, NORMAL_QUANTILE**2 / trials
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)
