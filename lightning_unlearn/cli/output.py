"""Standard output and error that may be closed, full, narrow, or unable to show every character."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# What stands for characters that an encoding lacks.
PLAIN = {
    "→": "->",
    "✓": "+",
    "✗": "x",
    "■": "#",
    "▶": ">",
    "\u00d7": "x",
    "·": ".",
    "\u2013": "-",
    "\u2014": "-",
    "…": "...",
    "├": "+",
    "└": "+",
    "│": "|",
    "─": "-",
}
ERRORS = "lightning_unlearn"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _plain)


class Output:
    """A text stream whose end does not end the command.

    What nobody reads any more is dropped, and so is what does not fit on a full disk; the latter
    is remembered.

    Args:
        stream: what is written to.

    Attributes:
        failure: why something could not be written; None if it could, or if it was not wanted.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._works = True
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is still possible."""
        if self._works:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, if that is still possible."""
        if self._works:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._works = False
        # A pipe whose reader has left, as that of `| head`, has lost nothing that was wanted.
        if not isinstance(error, BrokenPipeError):
            self.failure = error
        # Else the interpreter would complain at its end of what is left in the buffer.
        with suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())
            os.close(devnull)


@contextmanager
def lasting_output() -> Iterator[tuple[Output, Output]]:
    """Let `sys.stdout` and `sys.stderr` be an `Output` each.

    Yields:
        Both.
    """
    before = sys.stdout, sys.stderr
    # Python has None for a stream that was closed when it began.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        pair = Output(_open(sys.stdout or nowhere)), Output(_open(sys.stderr or nowhere))
        sys.stdout, sys.stderr = pair
        try:
            yield pair
        finally:
            for stream in pair:
                stream.flush()
            sys.stdout, sys.stderr = before


def _open(stream: Any) -> Any:
    """A stream that takes every character."""
    with suppress(AttributeError, LookupError, TypeError):
        if codecs.lookup(stream.encoding).name not in ("utf-8", "utf-16", "utf-32"):
            stream.reconfigure(errors=ERRORS)
    return stream
