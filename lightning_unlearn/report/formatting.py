"""Numbers and lists of words, as tables, sentences and titles write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lightning_unlearn.settings.labels import short_exponent

DECIMALS = 3


def number(value: float, signed: bool = False) -> str:
    """`value` with `DECIMALS` digits after the point, never "-0.000"; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    text = f"{value:+.{DECIMALS}f}" if signed else f"{value:.{DECIMALS}f}"
    return text.lstrip("+-") if text.lstrip("+-") == f"{0:.{DECIMALS}f}" else text


def short_number(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, such as "0.00673", "1961" and "2.1e-5".

    For values of any size, such as distances and rates; "n/a" for NaN.
    """
    if math.isnan(value):
        return "n/a"
    if 10**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    return short_exponent(f"{value:.{digits}g}")


def join_words(parts: Iterable[str]) -> str:
    """ "a, b and c"."""
    *head, tail = parts
    return f"{', '.join(head)} and {tail}" if head else tail


def span(counts: Sequence[int]) -> str:
    """One count, or "2 to 4" where they differ."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def short_range(values: Sequence[float]) -> str:
    """The lowest and the highest value, "0.41 to 5.2"; one of them where they are written alike."""
    low, high = short_number(min(values)), short_number(max(values))
    return low if low == high else f"{low} to {high}"
