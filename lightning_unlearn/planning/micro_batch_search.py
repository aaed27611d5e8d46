"""The largest micro-batch that fits, with as few simulations as will do."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Largest:
    """The largest micro-batch that fits.

    Attributes:
        size: sequences; 0 if none.
        tried: the next larger one was simulated too, or there is none.
    """

    size: int
    tried: bool


def find_largest(
    sizes: list[int],
    peaks: dict[int, int],
    measure: Callable[[int], int],
    usable: int,
    deadline: float,
) -> Largest:
    """The largest micro-batch whose peak fits.

    Args:
        sizes: those that are possible, rising.
        peaks: bytes, of those known already.
        measure: gives the peak of one.
        usable: bytes there are.
        deadline: process time after which none is measured, once there is one that fits.

    Returns:
        One that fits; where time ran out, of those measured, or between two measured ones: peaks
        lie below the straight line between them, for they are the highest of several straight
        lines.
    """
    known = dict(peaks)

    def fitting() -> int:
        return max((n for n in known if known[n] <= usable), default=0)

    def misfit() -> int | None:
        return min((n for n in known if known[n] > usable), default=None)

    while True:
        low, high = fitting(), misfit()
        between = [n for n in sizes if n > low and (high is None or n < high)]
        if not between:
            return Largest(low, True)
        if time.process_time() > deadline and low > 0:
            return Largest(_on_line(between, low, high, known, usable), False)
        if high is None:
            # As far up as the slope allows, or all the way, to have a second point.
            trial = between[-1]
        elif low == 0:
            trial = between[0]
        else:
            trial = _on_line(between, low, high, known, usable)
            if trial == low:
                trial = between[0]
        known[trial] = measure(trial)


def _on_line(
    between: list[int], low: int, high: int | None, known: dict[int, int], usable: int
) -> int:
    """The largest size that fits by the straight line between two that are known."""
    if low == 0 or high is None:
        return low
    slope = (known[high] - known[low]) / (high - low)
    sure = [n for n in between if known[low] + slope * (n - low) <= usable]
    return max(sure, default=low)
