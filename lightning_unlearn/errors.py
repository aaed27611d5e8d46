"""Exceptions: mistakes a user can mend, and ways a run ends."""

import os
import re
import sys
import traceback
from pathlib import Path

# Control characters, line and paragraph ends, blanks without a width, marks that turn the direction
# of text, and halves of surrogate pairs: names of files and values of keys may have them, and a
# terminal obeys them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def visible(text: str, lines: bool = False) -> str:
    """A text with its control characters written out, so that it is one line that can be printed.

    Args:
        text: such as a message that names a file.
        lines: whether newlines and tabs are left as they are.

    Returns:
        The text with `\\x1b` for an escape, `\\n` for a newline, and so on; anything else stays as
        it is, so that doing it twice changes nothing.
    """

    def written(found: re.Match[str]) -> str:
        sign = found.group()
        return sign if lines and sign in "\n\t" else sign.encode("unicode_escape").decode()

    return _UNSEEN.sub(written, text)


class InputError(ValueError):
    """A wrong input: its message names the place, what was found, what was expected, what to do.

    The command line prints the message without a traceback and exits with code 2. Anything else
    that is raised is a defect of the program and keeps its traceback.

    Args:
        message: the sentence; control characters in it are written out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class StorageError(InputError):
    """The disk is full or a folder can't be written; trying the rest would fail in the same way."""


class DivergedError(RuntimeError):
    """The loss of a training step was not a finite number; names the stage and the step."""


class Unfinished(RuntimeError):
    """A stage was ended before its last step by nothing that is in its key, such as a clock."""


class Terminated(KeyboardInterrupt):
    """Stopped by SIGTERM, as a job scheduler does; everything stored is kept."""


class HungUp(Terminated):
    """Stopped by SIGHUP, because the terminal was closed; everything stored is kept."""


def own_place(error: BaseException) -> str | None:
    """Where code of the user's own raised an exception: file and line; None if it did not.

    Args:
        error: as it was caught.
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
