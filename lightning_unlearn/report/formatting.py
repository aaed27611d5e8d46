"""Numbers and lists of words, as tables, sentences and titles write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lightning_unlearn.settings.labels import short_exponent

DECIMALS = 3
MISSING = "n/a"


def number(value: float, signed: bool = False) -> str:
    """`value` with `DECIMALS` digits after the point, never "-0.000"; "n/a" for NaN."""
    if math.isnan(value):
        return MISSING
    text = f"{value:+.{DECIMALS}f}" if signed else f"{value:.{DECIMALS}f}"
    return text.lstrip("+-") if text.lstrip("+-") == f"{0:.{DECIMALS}f}" else text


def short_number(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, such as "0.00673", "1961" and "2.1e-5".

    For values of any size, such as distances and rates; "n/a" for NaN.
    """
    if math.isnan(value):
        return MISSING
    if 10**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    return short_exponent(f"{value:.{digits}g}")


def percent(share: float) -> str:
    """A share in whole percent, without the sign; "n/a" for NaN."""
    return MISSING if math.isnan(share) else f"{100 * share:.0f}"


def join_words(parts: Iterable[str]) -> str:
    """ "a, b and c"."""
    *head, tail = parts
    return f"{', '.join(head)} and {tail}" if head else tail


def span(counts: Sequence[int]) -> str:
    """One count, or "2 to 4" where they differ."""
    return _range(str(min(counts)), str(max(counts)))


def short_range(values: Sequence[float]) -> str:
    """The lowest and the highest value, "0.41 to 5.2"; one of them where they are written alike."""
    return _range(short_number(min(values)), short_number(max(values)))


def percent_range(shares: Sequence[float]) -> str:
    """The lowest and the highest share in percent; one of them where they are written alike."""
    return _range(percent(min(shares)), percent(max(shares)))


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
