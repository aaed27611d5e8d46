"""Search for the largest micro-batch that fits, with few simulations."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Largest:
    """The largest micro-batch that fits.

    Attributes:
        size: number of sequences; 0 if no micro-batch fits.
        tried: whether the next larger size was simulated and does not fit, or does not exist.
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
    """Find the largest micro-batch whose peak fits.

    If the time runs out, the result is the largest simulated size that fits, or a size between two
    simulated ones. Between two sizes the peak is below the straight line through their peaks,
    because the peak is the maximum of several straight lines.

    Args:
        sizes: possible sizes, ascending.
        peaks: known peaks in bytes, by size.
        measure: simulates a size and returns its peak in bytes.
        usable: usable bytes.
        deadline: process time after which no further size is simulated if one already fits.

    Returns:
        The largest size that fits, and whether the search was complete.
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
            # Try the largest size: it gives a second point of the line.
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
    """Return the largest size that fits according to the line between two known peaks."""
    if low == 0 or high is None:
        return low
    slope = (known[high] - known[low]) / (high - low)
    sure = [n for n in between if known[low] + slope * (n - low) <= usable]
    return max(sure, default=low)
