"""Short names of settings: of dotted keys, their values, and the runs that have them."""

from __future__ import annotations

import re
from collections.abc import Sequence


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
        return short_exponent(repr(value)).removesuffix(".0")
    return str(value)


def short_exponent(text: str) -> str:
    """The text of a number without zeros and plus in its exponent: 3e-5 for 3e-05."""
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].replace("+", ""), text)


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
