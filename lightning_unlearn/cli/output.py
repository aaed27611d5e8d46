"""Wrappers for standard output and error that handle closed pipes, full disks and encodings."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# Replacements for characters that an encoding lacks.
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
    """Text stream whose write errors do not end the command.

    After a write error, all further text is dropped. A closed pipe is no failure; any other error,
    such as a full disk, is recorded.

    Args:
        stream: the stream to write to.

    Attributes:
        failure: the error of the first failed write; None if all writes worked or the reader closed
            the pipe.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._works = True
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, unless an earlier write failed; return its length."""
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
        """Flush the stream, unless an earlier write failed."""
        if self._works:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._works = False
        # A reader that closes the pipe, such as `| head`, does not need the rest.
        if not isinstance(error, BrokenPipeError):
            self.failure = error
        # Otherwise the interpreter prints an error at exit about text left in the buffer.
        with suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())
            os.close(devnull)


@contextmanager
def lasting_output() -> Iterator[tuple[Output, Output]]:
    """Replace `sys.stdout` and `sys.stderr` by an `Output` each, and restore them afterwards.

    Yields:
        The two outputs.
    """
    before = sys.stdout, sys.stderr
    # Python sets a stream to None if it was closed at the start of the process.
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
    """Configure a stream to accept every character, and return it."""
    with suppress(AttributeError, LookupError, TypeError):
        if codecs.lookup(stream.encoding).name not in ("utf-8", "utf-16", "utf-32"):
            stream.reconfigure(errors=ERRORS)
    return stream
