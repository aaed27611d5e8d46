"""How far models are from each other, and how fast they part."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import betaincinv, stdtrit

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# A line through three points fits almost any curve.
LEAST_POINTS = 4
# The share of the variance of log d over a range that a line must explain.
LEAST_R_SQUARED = 0.95
# How often, at most, noise may have a range with such a line: log d of independent normal errors,
# all ranges of the curve tried. Of 7 points, R^2 >= 0.95 over any 4 is met in 10 % of draws.
CHANCE = 0.05
# The least factor by which the fitted d changes over the range: over less, an exponential and a
# straight line are one curve but for their noise.
LEAST_FACTOR = 2.0
# The exponential may leave unexplained at most this share of what a straight line of d leaves.
# Just to leave less would call a straight line that grows by a factor of 4 to 30, with errors of
# 5 % a point, exponential in 5 to 7 % of draws of 7 points; half as much does so in 1 to 3 %.
MARGIN = 0.5
# Mean square of the deviations of log d that rounding may leave where d does not change.
LEVEL_SQUARE = 1e-24


Cause = Literal["few", "curved", "level", "straight"]


@dataclass(frozen=True)
class Growth:
    """An exponential fitted to a range of a curve, over which it fits better than a line.

    Attributes:
        rate: slope of log d per step; negative where distances shrink. A distance d under the
            linear theory grows by 2 log(1 + rho) per step.
        error: standard error of the rate; 0 where a line fits exactly.
        low: lower end of the rate's 95 % interval.
        high: upper end.
        doubling: steps in which d doubles, log 2 / rate; negative, the steps in which it halves,
            where it shrinks.
        first: first step of the range.
        last: last step of the range.
        points: measured steps in it.
        r_squared: share of the variance of log d that the line explains.
        line_r_squared: share of the variance of d itself that a straight line explains, over the
            same range.
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
    line_r_squared: float
    factor: float


@dataclass(frozen=True)
class NoGrowth:
    """Why a curve has no range of exponential growth or decay.

    Attributes:
        reason: in words, with its numbers.
        cause: "few" positive distances for a fit; "curved", log d is nowhere a line; "level", d
            changes by less than `LEAST_FACTOR` where it is; "straight", a line of d does as well,
            or nearly.
    """

    reason: str
    cause: Cause


def squared_distance(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Mean squared difference over examples: the RE distance of two models.

    Args:
        one: log-likelihoods, [..., examples], nats per token.
        other: the same of the other model, of the same shape.

    Returns:
        [...], in (nats per token)^2. Examples that are not finite in both are left out; NaN where
        none is left.

    Source: arXiv 2510.16629, definition 2.1.
    """
    with np.errstate(invalid="ignore"):
        squares = (np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2
    known = np.isfinite(squares)
    count = known.sum(axis=-1)
    total = np.where(known, squares, 0.0).sum(axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), np.float64)


def pairwise_distance(models: ArrayLike) -> NDArray[np.float64]:
    """The RE distance of each pair of models.

    Args:
        models: log-likelihoods, [models, ..., examples], nats per token. What is between, such as
            seeds and steps, is compared like with like.

    Returns:
        [pairs, ...], in (nats per token)^2, pairs in the order of `itertools.combinations`.

    Raises:
        InputError: no axis of examples.
    """
    array = np.asarray(models, dtype=np.float64)
    if array.ndim < 2:
        raise InputError(
            f"pairwise distance: found values of shape {array.shape}, expected "
            "[models, ..., examples]"
        )
    pairs = list(itertools.combinations(range(len(array)), 2))
    # Pair by pair: all at once would hold every squared difference at the same time.
    found = np.empty((len(pairs), *array.shape[1:-1]))
    for place, (one, other) in enumerate(pairs):
        found[place] = squared_distance(array[one], array[other])
    return found


def exponential_growth(steps: ArrayLike, values: ArrayLike) -> Growth | NoGrowth:
    """Fit an exponential to the longest range of a curve that may be one, if it is one.

    The range is the longest of contiguous measured steps, at least `LEAST_POINTS`, over which
    least squares of log d against the step has an R^2 of `LEAST_R_SQUARED` or more, and more than
    noise has in a share `CHANCE` of curves, and changes d by a factor of `LEAST_FACTOR` or more;
    of several of that length, the one with the highest R^2. A value that is missing or not
    positive ends a range, and a level range has no R^2. Over that one range the exponential must
    leave unexplained no more than `MARGIN` of what a straight line of d leaves.

    Simulated with 7, 13 and 31 points: noise, log-normal errors of 10 to 100 % a point without any
    trend, has growth in at most 3 % of draws; straight lines that change by a factor of 2 to 30,
    in at most 3 % with errors of up to 5 % a point, 13 % with 10 % and 19 % with 20 %. An
    exponential that changes by a factor of 10, with errors of 10 %, is found in 98 % or more; by
    4, with 5 %, in 94 %; by just 2, in half of the draws or fewer.
    Neighbouring steps of one run are not independent and the range is chosen by the fit, so the
    interval of a single fit is too narrow: that over seeds is the one to trust.

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
    level: Growth | None = None
    for points in range(len(x), LEAST_POINTS - 1, -1):
        r_squared = _r_squared(x, log_d, points)
        starts = np.flatnonzero(r_squared >= _least_r_squared(points, len(x)))
        starts = starts[np.argsort(-r_squared[starts], kind="stable")]
        for start in starts.tolist():
            line = _line(x, d, log_d, slice(start, start + points))
            if abs(line.rate) * (line.last - line.first) >= math.log(LEAST_FACTOR):
                return _or_straight(line)
            level = level or line
    if level is not None:
        return NoGrowth(
            f"log d is a line over steps {level.first:g} to {level.last:g} and shorter ranges, but "
            f"changes d by too little to tell it from a straight one: by a factor of "
            f"{level.factor:.3g}, not {LEAST_FACTOR:g} or 1/{LEAST_FACTOR:g}",
            "level",
        )
    return NoGrowth(
        f"no {LEAST_POINTS} neighbouring steps or more over which log d is a line (R^2 >= "
        f"{LEAST_R_SQUARED:g}, and more than noise has)",
        "curved",
    )


def _least_r_squared(points: int, measured: int) -> float:
    """What a line over a range of a curve must explain, for all its ranges are tried.

    R^2 of n independent normal values is Beta(1/2, (n - 2)/2); by Bonferroni's inequality each of
    the ranges gets an equal part of `CHANCE`.
    """
    ranges = (measured - LEAST_POINTS + 1) * (measured - LEAST_POINTS + 2) / 2
    return max(LEAST_R_SQUARED, 1 - float(betaincinv((points - 2) / 2, 0.5, CHANCE / ranges)))


def _or_straight(line: Growth) -> Growth | NoGrowth:
    """The fit, unless a straight line of d leaves nearly as little unexplained, or less."""
    if 1 - line.r_squared <= MARGIN * (1 - line.line_r_squared):
        return line
    return NoGrowth(
        f"over steps {line.first:g} to {line.last:g}, where d changes by a factor of "
        f"{line.factor:.3g}, an exponential fits not clearly better than a straight line: R^2 of "
        f"log d {line.r_squared:.3f}, of d {line.line_r_squared:.3f}",
        "straight",
    )


def _centered(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(windows - windows.mean(axis=-1, keepdims=True), np.float64)


def _r_squared(x: NDArray[np.float64], y: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """R^2 of the line through each range of `points` neighbours.

    NaN where one is missing, and for a level range: rounding would be all there is to explain.
    """
    ranges = np.arange(len(x) - points + 1)[:, None] + np.arange(points)
    dx, dy = _centered(x[ranges]), _centered(y[ranges])
    total = (dy**2).sum(axis=-1)
    total[total <= points * LEVEL_SQUARE] = np.nan
    explained = (dx * dy).sum(axis=-1) ** 2 / (dx**2).sum(axis=-1)
    return np.asarray(explained / total, np.float64)


def _line(
    x: NDArray[np.float64], d: NDArray[np.float64], log_d: NDArray[np.float64], part: slice
) -> Growth:
    x, d, log_d = x[part], d[part], log_d[part]
    dx, dy = _centered(x), _centered(log_d)
    square = float((dx**2).sum())
    rate = float((dx * dy).sum()) / square
    left = float(((dy - rate * dx) ** 2).sum())
    error = math.sqrt(left / (len(x) - 2) / square)
    half = float(stdtrit(len(x) - 2, (1 + LEVEL) / 2)) * error
    # In units of the largest, so that no square is too large for a float.
    scaled = d / d.max()
    return Growth(
        rate=rate,
        error=error,
        low=rate - half,
        high=rate + half,
        doubling=math.log(2) / rate,
        first=float(x[0]),
        last=float(x[-1]),
        points=len(x),
        r_squared=1 - left / float((dy**2).sum()),
        line_r_squared=float(_r_squared(x, scaled, len(x))[0]),
        factor=math.exp(rate * float(x[-1] - x[0])),
    )
