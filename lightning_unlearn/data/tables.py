"""Rows of one source as a table, and rows that `datasets` has read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.errors import InputError


@dataclass(frozen=True)
class Table:
    """Rows of one source. `columns` has every name that a row has, in order of appearance."""

    columns: list[str]
    rows: list[dict[str, Any]]
    lines: list[int] | None = None  # 1-based line on which each row starts; None if not text


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence progress bars and logs of `datasets`: this package reports its errors once."""
    import datasets

    verbosity = datasets.logging.get_verbosity()
    bars_were_on = not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars_were_on:
            datasets.enable_progress_bars()


def rows_of(records: Any, place: str) -> list[dict[str, Any]]:
    """Return the rows of a data set, with values as they are displayed.

    A 32-bit 0.1 becomes 0.1, and a class label becomes its name.

    Args:
        records: a data set of `datasets`.
        place: start of the message: key and source.

    Raises:
        InputError: if a value cannot be decoded.
    """
    from datasets import ClassLabel

    kinds = records.data.schema
    shown = {}
    for name, feature in records.features.items():
        if isinstance(feature, ClassLabel):
            shown[name] = _name_of(feature)
        elif (show := _shortest(kinds.field(name).type)) is not None:
            shown[name] = show
    try:
        return [
            {name: shown[name](value) if name in shown else value for name, value in row.items()}
            for row in records
        ]
    # Decoders of columns raise many exceptions, such as for text that is not UTF-8 or for a broken
    # image.
    except Exception as error:
        raise InputError(
            f"{place}: found a value in {', '.join(records.column_names)} that cannot be read "
            f"({' '.join(str(error).split())}); expected text; write the rows again as text"
        ) from error


def _name_of(labels: Any) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value < 0 else labels.int2str(value)


def _shortest(kind: Any) -> Callable[[Any], Any] | None:
    """Return a function that rounds values of a type to the digits that the type has.

    Returns:
        The function; None if values of the type need no rounding.
    """
    import numpy
    from pyarrow import types

    for is_kind, number in (
        (types.is_float32, numpy.float32),
        (types.is_float16, numpy.float16),
    ):
        if is_kind(kind):
            return lambda value: None if value is None else float(str(number(value)))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        show = _shortest(kind.value_type)
        if show is not None:
            return lambda values: None if values is None else [show(value) for value in values]
    return None


def describe(value: Any) -> str:
    """Describe a value in the terms of JSON, for messages."""
    names = {type(None): "null", dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value)) or f"{value!r:.40} ({type(value).__name__})"
