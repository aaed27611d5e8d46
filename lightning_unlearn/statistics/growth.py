"""How fast models part: exponential growth, where no other curve explains it as well."""

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

# Four points leave a curve of three parameters a single degree of freedom, and noise too many fits.
LEAST_POINTS = 5
# The share of the variance of log d over a range that a line must explain.
LEAST_R_SQUARED = 0.95
# How often, at most, noise may have a range with such a line: log d of independent normal errors,
# all ranges of the curve tried. Of 7 points, R^2 >= 0.95 over any 4 is met in 10 % of draws.
CHANCE = 0.05
# The least factor by which the fitted d changes over the range: over less, an exponential and a
# straight line are one curve but for their noise.
LEAST_FACTOR = 2.0
# Where a parabola of log d fits better, at this level, its rate may change over the range by at
# most this share of its mean.
CURVED, MOST_CHANGE = 0.05, 0.2
# How many times as likely as under any other curve the distances must be under the exponential.
EVIDENCE = 20.0
# Mean square of the deviations of log d that rounding may leave where d does not change.
LEVEL_SQUARE = 1e-24


Cause = Literal["few", "curved", "level", "other"]


@dataclass(frozen=True)
class Growth:
    """An exponential fitted to a range of a curve, over which it beats every other curve tried.

    Attributes:
        rate: slope of log d per step over the range, by least squares; negative where distances
            shrink. A distance d under the linear theory grows by 2 log(1 + rho) per step.
        error: standard error of the rate, if log d is a line with independent errors; 0 where a
            line fits exactly.
        low: lower end of the 95 % interval of the rate at the last step of the range.
        high: upper end.
        doubling: steps in which d doubles, log 2 / rate; negative, the steps in which it halves,
            where it shrinks.
        first: first step of the range.
        last: last step of the range.
        points: measured steps in it.
        r_squared: share of the variance of log d that the line explains.
        evidence: how many times as likely as under the best other curve the distances are under
            the exponential.
        other: name of that curve.
        factor: fitted d at the last step of the range over that at the first; below 1 where it
            shrinks.
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
    """Why a curve has no range of exponential growth or decay.

    Attributes:
        reason: in words, with its numbers.
        cause: "few" positive distances for a fit; "curved", log d is nowhere a line; "level", d
            changes by less than `LEAST_FACTOR` where it is; "other", another curve fits as well,
            or nearly.
    """

    reason: str
    cause: Cause


def exponential_growth(steps: ArrayLike, values: ArrayLike) -> Growth | NoGrowth:
    """Fit an exponential to the latest range of a curve that may be one, if it is one.

    A range is of contiguous measured steps, at least `LEAST_POINTS`. It may be one if least squares
    of log d against the step has an R^2 of `LEAST_R_SQUARED` or more, and more than noise has in a
    share `CHANCE` of curves, changes d by a factor of `LEAST_FACTOR` or more, and has a steady
    rate: no parabola fits significantly better over whose range the rate changes by more than
    `MOST_CHANGE` of its mean. A value that is missing or not positive ends a range, and a level
    range has no R^2.

    Judged is the range that ends last, and of those the longest. Over that one the exponential
    must beat every curve of `other_curves`: with log-normal errors the distances must be at least
    `EVIDENCE` times as likely under it, (RSS of the other / RSS of the exponential)^(n / 2). A
    parabola looks like an exponential that changes by a factor of less than 10; where it fits as
    well nothing is claimed.

    The interval is that of the rate at the last step of the range: from the lowest to the highest
    of the mean rate and of those that a parabola of log d has at the ends of the range, widened on
    both sides by Student's half-width of the slope.

    Simulated with 7, 13 and 31 points and errors of 1 to 10 % a point: straight lines, saturating
    curves, parabolas, cubics and hyperbolas that change by a factor of 4 to 100 have growth in at
    most 2 % of draws, noise without a trend in 1 %. An exponential that changes by a factor of 10
    with errors of 2 %, of 30 with 5 % or of 100 with 10 % is found in 88 % or more; one that
    changes by 4 hardly ever with errors above 2 %. The interval holds the rate of an exponential
    in 97 % of draws or more; of d = |D|^2 with D' = (I + M) D it holds the rate at the last step
    of the range in 94 % or more, with errors and without, and that of the limit in 50 to 95 %.
    Neighboring steps of one run are not independent: the interval over seeds is the one to trust.

    Args:
        steps: ascending, [steps].
        values: distances, [steps].

    Returns:
        The fit, or why there is none.

    Raises:
        InputError: unequal shapes, or steps that do not ascend.
    """
    x, d = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != d.shape or (np.diff(x) <= 0).any():
        raise InputError(
            f"exponential growth: found {x.shape} steps and {d.shape} values, expected ascending "
            "steps with a value each"
        )
    usable = np.isfinite(d) & (d > 0)
    if usable.sum() < LEAST_POINTS:
        return NoGrowth(
            f"{int(usable.sum())} of {len(d)} distances are positive; a fit takes {LEAST_POINTS}",
            "few",
        )
    log_d = np.log(np.where(usable, d, 1.0))
    log_d[~usable] = np.nan
    level: _Line | None = None
    for part in _straight_ranges(x, log_d):
        line = _Line.through(x[part], log_d[part])
        if abs(line.rate) * (line.last - line.first) < math.log(LEAST_FACTOR):
            level = level or line
        elif line.is_steady:
            return _judged(line, other_curves(x[part], d[part], line.rate, x[0]))
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


def other_curves(
    steps: ArrayLike, values: ArrayLike, rate: float, begin: float
) -> dict[str, float]:
    """How much other curves than an exponential leave unexplained of a range.

    Args:
        steps: of the range, ascending, [steps].
        values: positive distances, [steps].
        rate: of the exponential; its sign says which way a curve levels off.
        begin: first step of the whole curve, from which powers of the step count.

    Returns:
        By name the sum of squared errors, relative ones, or of log d, which are alike where they
        are small: of a straight line and a parabola; of c + b (t - `begin`)^p with p of .5, 1.5, 2
        and 3; of c + b e^(-kt) as it levels off, with k of .5 to 8 per length of the range; of one
        over each of these; and of a (t - s)^p with any s before the range and p between -3 and 3.
    """
    x, log_d = np.asarray(steps, np.float64), np.log(np.asarray(values, np.float64))
    u, z = (x - x[0]) / (x[-1] - x[0]), (x - begin) / (x[-1] - begin)
    found = {"a power of the step": _left_by_power(u, log_d)}
    for prefix, sign in (("", 1.0), ("one over ", -1.0)):
        # Over more than e^230 no other curve comes near, and squares are too large for a float.
        d = np.exp(np.maximum(sign * log_d - (sign * log_d).max(), -230.0))
        decays = np.exp(-sign * math.copysign(1.0, rate) * np.geomspace(0.5, 8, 5)[:, None] * u)
        found |= {
            f"{prefix}a straight line": _left(d, u),
            f"{prefix}a parabola": _left(d, u, u**2),
            **{f"{prefix}the power {p:g} of the step": _left(d, z**p) for p in (0.5, 1.5, 2, 3)},
            f"{prefix}a curve that levels off": min(_left(d, decay) for decay in decays),
        }
    return found


def _left(d: NDArray[np.float64], *terms: NDArray[np.float64]) -> float:
    """Least sum of squared relative errors of a constant and some terms."""
    design = np.stack([np.ones_like(d), *terms], axis=1) / d[:, None]
    # Columns of one size: relative values are of many orders of magnitude.
    design /= np.abs(design).max(axis=0)
    found = np.linalg.lstsq(design, np.ones_like(d), rcond=None)[0]
    return float(((1 - design @ found) ** 2).sum())


def _left_by_power(u: NDArray[np.float64], log_d: NDArray[np.float64]) -> float:
    """Least sum of squared errors of log d = log a + p log(u + s), -3 <= p <= 3."""
    shifts = np.geomspace(1e-3, 30, 300)
    log_u, y = _centered(np.log(u + shifts[:, None])), _centered(log_d)
    powers = np.clip((log_u * y).sum(axis=1) / (log_u**2).sum(axis=1), -3, 3)
    return float(((y - powers[:, None] * log_u) ** 2).sum(axis=1).min())


def _straight_ranges(x: NDArray[np.float64], log_d: NDArray[np.float64]) -> Iterator[slice]:
    """Ranges over which log d is a line, from the one that ends last, the longest of each end."""
    found = []
    for points in range(LEAST_POINTS, len(x) + 1):
        r_squared = _r_squared(x, log_d, points)
        starts = np.flatnonzero(r_squared >= _least_r_squared(points, len(x)))
        found += [(start + points, start) for start in starts.tolist()]
    for end, start in sorted(found, key=lambda ends: (-ends[0], ends[1])):
        yield slice(start, end)


def _least_r_squared(points: int, measured: int) -> float:
    """What a line over a range of a curve must explain, for all its ranges are tried.

    R^2 of n independent normal values is Beta(1/2, (n - 2)/2); by Bonferroni's inequality each of
    the ranges gets an equal part of `CHANCE`.
    """
    ranges = (measured - LEAST_POINTS + 1) * (measured - LEAST_POINTS + 2) / 2
    return max(LEAST_R_SQUARED, 1 - float(betaincinv((points - 2) / 2, 0.5, CHANCE / ranges)))


def _judged(line: _Line, others: dict[str, float]) -> Growth | NoGrowth:
    """The fit, unless another curve leaves nearly as little unexplained, or less."""
    name, least = min(others.items(), key=lambda other: other[1])
    # Rounding leaves something of a curve that fits exactly.
    floor = line.points * LEVEL_SQUARE
    log_evidence = line.points / 2 * math.log(max(least, floor) / max(line.left, floor))
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
    """R^2 of the line through each range of `points` neighbors.

    NaN where one is missing, and for a level range: rounding would be all there is to explain.
    """
    ranges = np.arange(len(x) - points + 1)[:, None] + np.arange(points)
    dx, dy = _centered(x[ranges]), _centered(y[ranges])
    total = (dy**2).sum(axis=-1)
    total[total <= points * LEVEL_SQUARE] = np.nan
    explained = (dx * dy).sum(axis=-1) ** 2 / (dx**2).sum(axis=-1)
    return np.asarray(explained / total, np.float64)


@dataclass(frozen=True)
class _Line:
    """Least squares of log d against the step over a range.

    Attributes:
        rate: its slope.
        error: standard error of that.
        left: sum of squared errors of log d.
        first: first step.
        last: last step.
        points: measured steps.
        r_squared: share of the variance that it explains.
        at_ends: slopes of a parabola at the first and the last step.
        p: of an F test of the line against the parabola.
    """

    rate: float
    error: float
    left: float
    first: float
    last: float
    points: int
    r_squared: float
    at_ends: tuple[float, float]
    p: float

    @classmethod
    def through(cls, x: NDArray[np.float64], log_d: NDArray[np.float64]) -> _Line:
        """The line through a range."""
        n, dx, dy = len(x), _centered(x), _centered(log_d)
        square = float((dx**2).sum())
        rate = float((dx * dy).sum()) / square
        rest = dy - rate * dx
        left = float((rest**2).sum())
        # What a parabola has besides a line: orthogonal to both of its terms.
        shared = float((dx**3).sum()) / square
        bend = _centered(dx**2) - shared * dx
        curve = float((bend * rest).sum()) / float((bend**2).sum())
        left_by_parabola = float(((rest - curve * bend) ** 2).sum())
        floor = n * LEVEL_SQUARE
        f = (n - 3) * (left - left_by_parabola) / max(left_by_parabola, floor)
        ends = rate + curve * (2 * dx[[0, -1]] - shared)
        return cls(
            rate=rate,
            error=math.sqrt(left / (n - 2) / square),
            left=left,
            first=float(x[0]),
            last=float(x[-1]),
            points=n,
            r_squared=1 - left / float((dy**2).sum()),
            at_ends=(float(ends[0]), float(ends[1])),
            p=float(fdtrc(1, n - 3, f)),
        )

    @property
    def factor(self) -> float:
        """By which the fitted d changes over the range."""
        return math.exp(max(-700.0, min(self.rate * (self.last - self.first), 700.0)))

    @property
    def is_steady(self) -> bool:
        """Whether no parabola with a rate that changes much fits significantly better."""
        change = abs(self.at_ends[1] - self.at_ends[0])
        return self.p >= CURVED or change <= MOST_CHANGE * abs(self.rate)

    def growth(self, evidence: float, other: str) -> Growth:
        """The line as an exponential."""
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
