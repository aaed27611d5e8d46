"""Numbers and lists of words, as tables, sentences and titles write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lightning_unlearn.analysis.known_rows import DECIMALS
from lightning_unlearn.analysis.reading import PathPosition
from lightning_unlearn.settings.labels import short_exponent

MISSING = "n/a"
# Sentences list at most so many paths one by one.
FEW = 6


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


def names_of_paths(paths: Sequence[PathPosition]) -> list[str]:
    """The paths for a sentence: "p = 3" where no other has that position, else the stages."""
    positions = [position for _, position in paths]
    return [
        f"p = {position}" if positions.count(position) == 1 else path for path, position in paths
    ]


def per_path(
    values: Sequence[int], paths: Sequence[PathPosition], falling: Sequence[bool] | None = None
) -> str:
    """ "5 (p = 1) and 10 (p = 2)", "5 on every path", or "5 to 10 by path" where there are many.

    A path on which a curve is still `falling` there is marked so.
    """
    falls = list(falling) if falling is not None else [False] * len(paths)
    names = names_of_paths(paths)
    still = ", still falling" * any(falls)
    if len(set(values)) == 1:
        text = f"{values[0]} on every path" if len(values) > 1 else str(values[0])
        some = [name for name, falls_on in zip(names, falls, strict=True) if falls_on]
        where = f" on {among(some, len(paths))}" if 0 < len(some) < len(paths) else ""
        return text + still + where
    if len(paths) > FEW:
        return f"{span(values)} by path" + f"{still} on {sum(falls)} of {len(paths)}" * any(falls)
    return join_words(
        f"{value} ({name}{', still falling' * falls_on})"
        for value, name, falls_on in zip(values, names, falls, strict=True)
    )


def among(names: Sequence[str], total: int) -> str:
    """Some of the paths for a sentence: "p = 1 and p = 2", or "7 of 24 paths"."""
    return join_words(names) if len(names) <= FEW else f"{len(names)} of {total} paths"


def seeds_on_paths(seeds: Sequence[Sequence[int]], paths: Sequence[PathPosition]) -> str:
    """Some seeds of each path: "seed 2 on p = 1 and p = 3", "seed 2" for all paths, "" for none."""
    names: dict[tuple[int, ...], list[str]] = {}
    for own, name in zip(seeds, names_of_paths(paths), strict=True):
        if own:
            names.setdefault(tuple(own), []).append(name)
    parts = []
    for own, named in names.items():
        where = f" on {among(named, len(paths))}" if len(named) < len(paths) else ""
        parts.append(f"seed{'s' * (len(own) > 1)} {join_words(map(str, own))}{where}")
    return join_words(parts) if parts else ""
