"""Exceptions: mistakes that a user can correct, and reasons why a run ends early."""

import os
import re
import sys
import traceback
from pathlib import Path

# Control characters, line and paragraph separators, zero-width spaces, marks that change the
# direction of text, and single surrogates. File names and values of keys may contain them, and a
# terminal would execute them.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def visible(text: str, lines: bool = False) -> str:
    """Replace control characters by escape sequences, so that the text prints as one line.

    Args:
        text: such as a message that names a file.
        lines: keep newlines and tabs as they are.

    Returns:
        The text with `\\x1b` for an escape, `\\n` for a newline, and so on. All other characters
        stay as they are. A second call changes nothing.
    """

    def escape(match: re.Match[str]) -> str:
        character = match.group()
        if lines and character in "\n\t":
            return character
        return character.encode("unicode_escape").decode()

    return _INVISIBLE.sub(escape, text)


class InputError(ValueError):
    """A wrong input. The message names the place, the value found, the value expected, the remedy.

    The command line prints the message without a traceback and exits with code 2. Every other
    exception is a defect of the program and keeps its traceback.

    Args:
        message: the sentence; control characters in it are replaced by escape sequences.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class StorageError(InputError):
    """The disk is full or a folder cannot be written; all later writes would fail as well."""


class DivergedError(RuntimeError):
    """The loss of a training step was not finite. The message names the stage and the step."""


class Unfinished(RuntimeError):
    """A stage ended before its last step for a reason that its key lacks, such as a time limit."""


class Terminated(KeyboardInterrupt):
    """The run was stopped by SIGTERM, which job schedulers send. Stored results are kept."""


class HungUp(Terminated):
    """The run was stopped by SIGHUP: the terminal was closed. Stored results are kept."""


def own_place(error: BaseException) -> str | None:
    """Find the line of the user's own code that raised an exception.

    Args:
        error: the caught exception.

    Returns:
        File and line; None if the exception was raised by this package.
    """
    package = str(Path(__file__).parent)
    libraries = (package, sys.prefix, sys.base_prefix)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        if file.startswith(package):
            return None
        if file.startswith("<") or file.startswith(libraries) or "site-packages" in file:
            continue
        return f"{os.path.relpath(file) if _is_below(file) else file}, line {frame.lineno}"
    return None


def _is_below(file: str) -> bool:
    try:
        return Path(file).is_relative_to(Path.cwd())
    except OSError:
        return False
