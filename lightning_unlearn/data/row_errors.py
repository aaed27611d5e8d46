"""Report all wrong rows of a source together instead of one per attempt."""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from lightning_unlearn.errors import InputError

# Mistakes that one message lists.
MOST_LISTED = 20
_ROW = re.compile(r"row \d+(?:, line \d+)?")
T = TypeVar("T")
R = TypeVar("R")


def each_row(rows: Iterable[T], make: Callable[[T], R], place: str) -> list[R]:
    """Apply a function to every row, and report all rows that it refuses in one message.

    Args:
        rows: the rows.
        make: the function; it raises InputError for a row that cannot be used.
        place: begin of the message about several rows: key and source.

    Returns:
        The results, in order.

    Raises:
        InputError: if a row cannot be used. It lists the first `MOST_LISTED` mistakes; rows with
            the same one count once.
    """
    made: list[R] = []
    wrong: dict[str, tuple[InputError, int]] = {}
    count = failed = 0
    for row in rows:
        count += 1
        try:
            made.append(make(row))
        except InputError as error:
            failed += 1
            mistake = _ROW.sub("", str(error), count=1)
            first, times = wrong.get(mistake, (error, 0))
            wrong[mistake] = first, times + 1
    if failed:
        raise _together(list(wrong.values()), failed, count, place)
    return made


def _together(
    wrong: list[tuple[InputError, int]], failed: int, count: int, place: str
) -> InputError:
    """Return one error for all mistakes."""
    if len(wrong) == 1:
        error, times = wrong[0]
        return InputError(f"{str(error).rstrip('.')}.{_more(times)}") if times > 1 else error
    source = place.partition(": ")[2]
    texts = [
        f"{str(error).removeprefix(f'{place}, ').removeprefix(f'{source}, ').rstrip('.')}."
        f"{_more(times)}"
        for error, times in wrong[:MOST_LISTED]
    ]
    listed = " ".join(f"({number}) {text}" for number, text in enumerate(texts, start=1))
    rest = f" The first {MOST_LISTED} mistakes:" if len(wrong) > MOST_LISTED else ""
    return InputError(f"{place}: {failed} of {count} rows cannot be used.{rest} {listed}")


def _more(times: int) -> str:
    more = times - 1
    return f" {more} more row{'s have' if more > 1 else ' has'} the same mistake." if more else ""
