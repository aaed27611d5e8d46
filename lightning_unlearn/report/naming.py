"""How settings of a sweep and numbers are written in tables, sentences, titles and folders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

DECIMALS = 3


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ending of each dotted key that no other of the keys ends in.

    `data.unlearn.lr` is "lr" by itself, and "unlearn.lr" beside `data.recipe.lr`.

    Args:
        keys: dotted YAML keys; a repeated key counts once.

    Returns:
        The short name of each key, in the order of the keys. No two are alike.
    """
    parts = {key: key.split(".") for key in keys}
    names = {}
    for key, own in parts.items():
        lengths = range(1, len(own) + 1)
        endings = [own[-length:] for length in lengths]
        alone = [
            ending
            for ending in endings
            if sum(other[-len(ending) :] == ending for other in parts.values()) == 1
        ]
        # "lr" beside "data.lr" has no ending of its own; the whole key is taken by no one else.
        names[key] = ".".join(alone[0] if alone else own)
    return names


def short_value(value: object) -> str:
    """A sweep value as one would write it in YAML: 0.0003, 3e-5, 16, true, cosine, null."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = re.sub(r"e([+-])0*", lambda found: "e" + found[1].replace("+", ""), repr(value))
        return text.removesuffix(".0")
    return str(value)


def setting_name(keys: Sequence[str], values: Sequence[object]) -> str:
    """A setting in words, such as "lr = 0.0003, schedule = cosine".

    Args:
        keys: the sweep keys.
        values: theirs; null says that the key has no bearing, and is left out.
    """
    names = short_names(keys)
    pairs = zip(keys, values, strict=True)
    return ", ".join(
        f"{names[key]} = {short_value(value)}" for key, value in pairs if value is not None
    )


def run_name(method: str, setting: str) -> str:
    """A method with its setting in words, where it has one."""
    return f"{method} ({setting})" if setting else method


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
    text = f"{value:.{digits}g}"
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].replace("+", ""), text)


def listing(parts: Iterable[str]) -> str:
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
