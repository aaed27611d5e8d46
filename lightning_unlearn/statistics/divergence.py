"""How far models are from each other, and how fast they part."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.intervals import LEVEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# A line through three points fits almost any curve; with this many an R^2 as high says something.
LEAST_POINTS = 4
# The share of the variance of log d over a range that a line must explain.
LEAST_R_SQUARED = 0.95
# Mean square of the deviations of log d that rounding may leave where d does not change.
LEVEL_SQUARE = 1e-24


@dataclass(frozen=True)
class Growth:
    """An exponential fitted to a range of a curve.

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


@dataclass(frozen=True)
class NoGrowth:
    """Why a curve has no range of exponential growth."""

    reason: str


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
    """Fit an exponential to the longest range of a curve that is one.

    The range is the longest of contiguous measured steps, at least `LEAST_POINTS`, over which
    least squares of log d against the step has an R^2 of `LEAST_R_SQUARED` or more; of several of
    that length, the one with the highest R^2. A value that is missing or not positive ends a range,
    and a level range has no R^2.
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
            f"{int(usable.sum())} of {len(d)} distances are positive; a fit takes {LEAST_POINTS}"
        )
    log_d = np.log(np.where(usable, d, 1.0))
    log_d[~usable] = np.nan
    for points in range(len(x), LEAST_POINTS - 1, -1):
        r_squared = _r_squared(x, log_d, points)
        if (r_squared >= LEAST_R_SQUARED).any():
            start = int(np.nanargmax(r_squared))
            part = slice(start, start + points)
            return _line(x[part], log_d[part], float(r_squared[start]))
    return NoGrowth(
        f"no {LEAST_POINTS} neighbouring steps over which log d is a line (R^2 >= "
        f"{LEAST_R_SQUARED:g})"
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


def _line(x: NDArray[np.float64], y: NDArray[np.float64], r_squared: float) -> Growth:
    dx, dy = _centered(x), _centered(y)
    square = float((dx**2).sum())
    rate = float((dx * dy).sum()) / square
    left = float(((dy - rate * dx) ** 2).sum())
    error = math.sqrt(left / (len(x) - 2) / square)
    half = float(stdtrit(len(x) - 2, (1 + LEVEL) / 2)) * error
    return Growth(
        rate=rate,
        error=error,
        low=rate - half,
        high=rate + half,
        doubling=math.log(2) / rate,
        first=float(x[0]),
        last=float(x[-1]),
        points=len(x),
        r_squared=r_squared,
    )
