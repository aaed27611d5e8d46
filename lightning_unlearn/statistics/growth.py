"""The growth rate of distances: exponential growth, if no other curve explains it as well.

Simulations of `exponential_growth` had 7, 13 and 31 points and errors of 1 to 10 % per point:

- False growth: noise without a trend gives it in 1 % of draws. Straight lines, saturating curves,
  parabolas, cubics and hyperbolas that change by a factor of 4 to 100 give it in at most 2 %.
- Power: three exponentials are found in 88 % or more. They change by a factor of 10 with errors of
  2 %, of 30 with 5 %, or of 100 with 10 %. One that changes by 4 is rarely found with errors above
  2 %.
- Coverage: the interval contains the rate of an exponential in 97 % of draws or more. With and
  without errors, d = |D|^2 with D' = (I + M) D was tested too. The interval contains its rate at
  the last step of the range in 94 % or more, and the rate of the limit in 50 to 95 %.

Neighboring steps of one run are not independent, so the interval over seeds is more reliable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import betaincinv, fdtrc, stdtrit

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# With four points, a curve of three parameters has one degree of freedom, and noise fits too often.
LEAST_POINTS = 5
# Smallest share of the variance of log d over a range that a line must explain.
LEAST_R_SQUARED = 0.95
# Largest probability that noise (log d with independent normal errors) has a range with such a
# line, if all ranges of the curve are tried. With 7 points, 10 % of draws have R^2 >= 0.95 over
# some 4 points.
CHANCE = 0.05
# Smallest factor by which the fitted d must change over the range. For a smaller factor, noise
# hides the difference between an exponential and a straight line.
LEAST_FACTOR = 2.0
# If a parabola of log d fits significantly better (at level CURVED), the rate may change over the
# range by at most the share MOST_CHANGE of its mean.
CURVED, MOST_CHANGE = 0.05, 0.2
# Smallest likelihood ratio of the distances under the exponential and under any other curve.
EVIDENCE = 20.0
# Mean square of the deviations of log d that are due to rounding if d does not change.
LEVEL_SQUARE = 1e-24


Cause = Literal["few", "curved", "level", "other"]


@dataclass(frozen=True)
class Growth:
    """An exponential over a range of a curve, where it fits better than every other curve tried.

    Attributes:
        rate: slope of log d per step over the range, by least squares; negative for shrinking
            distances. A distance d under the linear theory grows by 2 log(1 + rho) per step.
        error: standard error of the rate, if log d is a line with independent errors; 0 if a line
            fits exactly.
        low: lower end of the 95 % interval of the rate at the last step of the range.
        high: upper end of that interval.
        doubling: number of steps in which d doubles, log 2 / rate. If d shrinks, it is negative,
            and its absolute value is the number of steps in which d halves.
        first: first step of the range.
        last: last step of the range.
        points: evaluated steps of the range.
        r_squared: share of the variance of log d that the line explains.
        evidence: likelihood of the distances under the exponential divided by their likelihood
            under the best other curve.
        other: name of the best other curve.
        factor: fitted d at the last step of the range divided by that at the first step; below 1
            for shrinking distances.
    """

    rate: float
    error: float
    low: float
    high: float
    doubling: float
    first: float
    last: float
    points: int
    r_squared: float
    evidence: float
    other: str
    factor: float


@dataclass(frozen=True)
class NoGrowth:
    """The reason why a curve has no range of exponential growth or decay.

    Attributes:
        reason: a clause with the numbers.
        cause: "few": too few positive distances for a fit; "curved": log d is a line over no range;
            "level": where it is a line, d changes by less than `LEAST_FACTOR`; "other": another
            curve fits as well or nearly as well.
    """

    reason: str
    cause: Cause


def exponential_growth(steps: ArrayLike, values: ArrayLike) -> Growth | NoGrowth:
    """Fit an exponential to the last range of a curve that may be exponential.

    A range has at least `LEAST_POINTS` neighboring evaluated steps; a value that is missing or not
    positive ends it. It may be exponential if three conditions hold for the least-squares line of
    log d against the step. First, its R^2 is at least `LEAST_R_SQUARED`, and larger than that of
    noise in all but a share `CHANCE` of curves. Second, d changes by a factor of `LEAST_FACTOR` or
    more. Third, the rate is steady: no parabola fits significantly better whose rate changes over
    the range by more than `MOST_CHANGE` of its mean. A level range has no R^2.

    The test uses the range that ends last, and the longest of these. Over this range the
    exponential must fit better than every curve of `other_curves`: with log-normal errors, the
    distances must be at least `EVIDENCE` times as likely under it. The likelihood ratio is
    (RSS of the other / RSS of the exponential)^(n / 2). A parabola resembles an exponential that
    changes by a factor of less than 10; if it fits as well, the result is `NoGrowth`.

    The interval is that of the rate at the last step of the range. It goes from the lowest to the
    highest of three rates: the mean rate, and the rates of a parabola of log d at both ends of the
    range. Both ends are widened by Student's half-width of the slope.

    Args:
        steps: ascending, [steps].
        values: distances, [steps].

    Returns:
        The fit, or the reason why there is none.

    Raises:
        InputError: if the shapes differ, or the steps do not ascend.
    """
    x, log_d = _log_distances(steps, values)
    usable = int(np.isfinite(log_d).sum())
    if usable < LEAST_POINTS:
        return NoGrowth(
            f"{usable} of {len(log_d)} distances are positive; a fit takes {LEAST_POINTS}", "few"
        )
    level: _Line | None = None
    for part in _straight_ranges(x, log_d):
        line = _Line.through(x[part], log_d[part])
        if abs(line.rate) * (line.last - line.first) < math.log(LEAST_FACTOR):
            level = level or line
        elif line.is_steady:
            d = np.asarray(values, dtype=np.float64)[part]
            return _compared(line, other_curves(x[part], d, line.rate, x[0]))
    if level is not None:
        return NoGrowth(
            f"log d is a line over steps {level.first:g} to {level.last:g}, but changes d by too "
            f"little to tell it from a straight one: by a factor of {level.factor:.3g}, not "
            f"{LEAST_FACTOR:g} or 1/{LEAST_FACTOR:g}",
            "level",
        )
    return NoGrowth(
        f"no {LEAST_POINTS} neighboring steps or more over which log d is a line (R^2 >= "
        f"{LEAST_R_SQUARED:g}, and more than noise has, at a steady rate)",
        "curved",
    )


def _log_distances(
    steps: ArrayLike, values: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and log d, with NaN for values that are missing or not positive."""
    x, d = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != d.shape or (np.diff(x) <= 0).any():
        raise InputError(
            f"exponential growth: found {x.shape} steps and {d.shape} values, expected ascending "
            "steps with a value each"
        )
    usable = np.isfinite(d) & (d > 0)
    log_d = np.log(np.where(usable, d, 1.0))
    log_d[~usable] = np.nan
    return x, log_d


def other_curves(
    steps: ArrayLike, values: ArrayLike, rate: float, begin: float
) -> dict[str, float]:
    """Fit other curves than an exponential to a range and return their errors.

    The curves are: a straight line and a parabola; c + b (t - `begin`)^p with p of .5, 1.5, 2 and
    3; c + b e^(-kt) as it levels off, with k of .5 to 8 per length of the range; one over each of
    these; and a (t - s)^p with any s before the range and p between -3 and 3.

    Args:
        steps: steps of the range, ascending, [steps].
        values: positive distances, [steps].
        rate: rate of the exponential; its sign gives the direction in which a curve levels off.
        begin: first step of the full curve, where the powers of the step are 0.

    Returns:
        By name, the sum of squared errors. The errors are relative, or those of log d; the two are
        nearly equal if they are small.
    """
    x, log_d = np.asarray(steps, np.float64), np.log(np.asarray(values, np.float64))
    u, z = (x - x[0]) / (x[-1] - x[0]), (x - begin) / (x[-1] - begin)
    found = {"a power of the step": _power_error(u, log_d)}
    for prefix, sign in (("", 1.0), ("one over ", -1.0)):
        # If d changes by more than e^230, no other curve fits, and squares overflow a float.
        d = np.exp(np.maximum(sign * log_d - (sign * log_d).max(), -230.0))
        decays = np.exp(-sign * math.copysign(1.0, rate) * np.geomspace(0.5, 8, 5)[:, None] * u)
        found |= {
            f"{prefix}a straight line": _error(d, u),
            f"{prefix}a parabola": _error(d, u, u**2),
            **{f"{prefix}the power {p:g} of the step": _error(d, z**p) for p in (0.5, 1.5, 2, 3)},
            f"{prefix}a curve that levels off": min(_error(d, decay) for decay in decays),
        }
    return found


def _error(d: NDArray[np.float64], *terms: NDArray[np.float64]) -> float:
    """Return the smallest sum of squared relative errors of a constant and some terms."""
    design = np.stack([np.ones_like(d), *terms], axis=1) / d[:, None]
    # Scale the columns to one size: relative values have many orders of magnitude.
    design /= np.abs(design).max(axis=0)
    found = np.linalg.lstsq(design, np.ones_like(d), rcond=None)[0]
    return float(((1 - design @ found) ** 2).sum())


def _power_error(u: NDArray[np.float64], log_d: NDArray[np.float64]) -> float:
    """Return the smallest sum of squared errors of log d = log a + p log(u + s), -3 <= p <= 3."""
    shifts = np.geomspace(1e-3, 30, 300)
    log_u, y = _centered(np.log(u + shifts[:, None])), _centered(log_d)
    powers = np.clip((log_u * y).sum(axis=1) / (log_u**2).sum(axis=1), -3, 3)
    return float(((y - powers[:, None] * log_u) ** 2).sum(axis=1).min())


def _straight_ranges(x: NDArray[np.float64], log_d: NDArray[np.float64]) -> Iterator[slice]:
    """Yield the ranges over which log d is a line: latest end first, then longest first."""
    found = []
    for points in range(LEAST_POINTS, len(x) + 1):
        r_squared = _r_squared(x, log_d, points)
        starts = np.flatnonzero(r_squared >= _least_r_squared(points, len(x)))
        found += [(start + points, start) for start in starts.tolist()]
    for end, start in sorted(found, key=lambda ends: (-ends[0], ends[1])):
        yield slice(start, end)


def _least_r_squared(points: int, measured: int) -> float:
    """Return the smallest R^2 that a line over a range must have, as all ranges are tried.

    R^2 of n independent normal values is Beta(1/2, (n - 2)/2). By Bonferroni's inequality, each of
    the ranges gets an equal share of `CHANCE`.
    """
    ranges = (measured - LEAST_POINTS + 1) * (measured - LEAST_POINTS + 2) / 2
    return max(LEAST_R_SQUARED, 1 - float(betaincinv((points - 2) / 2, 0.5, CHANCE / ranges)))


def _compared(line: _Line, others: dict[str, float]) -> Growth | NoGrowth:
    """Return the fit, or `NoGrowth` if the error of another curve is smaller or nearly as small."""
    name, least = min(others.items(), key=lambda other: other[1])
    # A curve that fits exactly still has rounding errors.
    floor = line.points * LEVEL_SQUARE
    log_evidence = line.points / 2 * math.log(max(least, floor) / max(line.residual, floor))
    # e^700 is nearly the largest float.
    evidence = math.exp(max(-700.0, min(log_evidence, 700.0)))
    if evidence >= EVIDENCE:
        return line.growth(evidence, name)
    return NoGrowth(
        f"over steps {line.first:g} to {line.last:g}, where d changes by a factor of "
        f"{line.factor:.3g}, it is {evidence:.2g} times as likely under an exponential as under "
        f"{name}, not {EVIDENCE:g} times",
        "other",
    )


def _centered(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(windows - windows.mean(axis=-1, keepdims=True), np.float64)


def _r_squared(x: NDArray[np.float64], y: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Compute R^2 of the line through each range of `points` neighbors.

    It is NaN if a value of the range is missing, and for a level range, whose variance is due to
    rounding alone.
    """
    ranges = np.arange(len(x) - points + 1)[:, None] + np.arange(points)
    dx, dy = _centered(x[ranges]), _centered(y[ranges])
    total = (dy**2).sum(axis=-1)
    total[total <= points * LEVEL_SQUARE] = np.nan
    explained = (dx * dy).sum(axis=-1) ** 2 / (dx**2).sum(axis=-1)
    return np.asarray(explained / total, np.float64)


@dataclass(frozen=True)
class _Line:
    """Least-squares line of log d against the step over a range.

    Attributes:
        rate: slope of the line.
        error: standard error of the slope.
        residual: sum of squared errors of log d.
        first: first step.
        last: last step.
        points: evaluated steps.
        r_squared: share of the variance that the line explains.
        at_ends: slopes of a parabola at the first and the last step.
        p: p-value of an F test of the line against the parabola.
    """

    rate: float
    error: float
    residual: float
    first: float
    last: float
    points: int
    r_squared: float
    at_ends: tuple[float, float]
    p: float

    @classmethod
    def through(cls, x: NDArray[np.float64], log_d: NDArray[np.float64]) -> _Line:
        """Fit the line to a range."""
        n, dx, dy = len(x), _centered(x), _centered(log_d)
        square = float((dx**2).sum())
        rate = float((dx * dy).sum()) / square
        rest = dy - rate * dx
        residual = float((rest**2).sum())
        # The quadratic term of a parabola, made orthogonal to the constant and the linear term.
        shared = float((dx**3).sum()) / square
        bend = _centered(dx**2) - shared * dx
        curve = float((bend * rest).sum()) / float((bend**2).sum())
        parabola_residual = float(((rest - curve * bend) ** 2).sum())
        floor = n * LEVEL_SQUARE
        f = (n - 3) * (residual - parabola_residual) / max(parabola_residual, floor)
        ends = rate + curve * (2 * dx[[0, -1]] - shared)
        return cls(
            rate=rate,
            error=math.sqrt(residual / (n - 2) / square),
            residual=residual,
            first=float(x[0]),
            last=float(x[-1]),
            points=n,
            r_squared=1 - residual / float((dy**2).sum()),
            at_ends=(float(ends[0]), float(ends[1])),
            p=float(fdtrc(1, n - 3, f)),
        )

    @property
    def factor(self) -> float:
        """Factor by which the fitted d changes over the range."""
        return math.exp(max(-700.0, min(self.rate * (self.last - self.first), 700.0)))

    @property
    def is_steady(self) -> bool:
        """Whether the rate is steady: False if a parabola fits better whose rate changes much."""
        change = abs(self.at_ends[1] - self.at_ends[0])
        return self.p >= CURVED or change <= MOST_CHANGE * abs(self.rate)

    def growth(self, evidence: float, other: str) -> Growth:
        """Return the line as an exponential."""
        half = float(stdtrit(self.points - 2, (1 + LEVEL) / 2)) * self.error
        return Growth(
            rate=self.rate,
            error=self.error,
            low=min(self.rate, *self.at_ends) - half,
            high=max(self.rate, *self.at_ends) + half,
            doubling=math.log(2) / self.rate,
            first=self.first,
            last=self.last,
            points=self.points,
            r_squared=self.r_squared,
            evidence=evidence,
            other=other,
            factor=self.factor,
        )
