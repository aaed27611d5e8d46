"""Report all wrong rows of a source together instead of one per attempt."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from lightning_unlearn.errors import InputError

# Wrong rows that one message lists.
MOST_LISTED = 20
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
        InputError: if a row cannot be used. It lists the first `MOST_LISTED` wrong rows.
    """
    made: list[R] = []
    wrong: list[InputError] = []
    count = failed = 0
    for row in rows:
        count += 1
        try:
            made.append(make(row))
        except InputError as error:
            failed += 1
            if len(wrong) < MOST_LISTED:
                wrong.append(error)
    if failed == 1:
        raise wrong[0]
    if wrong:
        sentences = [str(error).removeprefix(f"{place}, ").rstrip(".") for error in wrong]
        listed = " ".join(f"({number}) {text}." for number, text in enumerate(sentences, start=1))
        rest = f" The first {len(wrong)} are listed." if failed > len(wrong) else ""
        raise InputError(f"{place}: {failed} of {count} rows cannot be used.{rest} {listed}")
    return made
