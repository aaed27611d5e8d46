"""Messages that a trainer prints above its progress display, and warnings of a run."""

import sys
from collections.abc import Callable

from rich.markup import escape

from lightning_unlearn.errors import visible
from lightning_unlearn.training.progress import StageProgress


class Messages:
    """Prints messages of a run.

    Args:
        progress: the progress display; None for none.
        is_first: returns whether this is the first process of the run.

    Attributes:
        handler: function that gets warnings; None prints them.
    """

    def __init__(self, progress: StageProgress | None, is_first: Callable[[], bool]) -> None:
        self.handler: Callable[[str], None] | None = None
        self._progress = progress
        self._is_first = is_first

    def info(self, text: str) -> None:
        """Print a line above the progress display, on the first process; markup is allowed."""
        if self._progress is not None and self._is_first():
            self._progress.print(text)

    def warn(self, text: str) -> None:
        """Print a warning, also without a progress display."""
        text = visible(text)
        if self.handler is not None:
            self.handler(text)
        elif self._progress is not None:
            self.info(escape(text))
        else:
            print(text, file=sys.stderr)
