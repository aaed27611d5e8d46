"""The line that fit and validate print at once, before slow modules are imported."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.settings.compose import read_arguments

# Options with which nothing is loaded.
_NO_RUN = ("--help", "--print_config")
_PROGRESS = "enable_progress_bar"


def announce_loading(content: Any, arguments: Sequence[str]) -> None:
    """Print which model is going to be loaded, if standard error is a terminal.

    The imports and the checks before a run take some seconds. In a file, errors stay one line; the
    trainer prints the path and the model later.

    Args:
        content: configuration merged from files, unchecked.
        arguments: command-line arguments, which override it.
    """
    if any(a.startswith(_NO_RUN) for a in arguments) or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if not sys.stderr.isatty():
        return
    changed: dict[str, Any] = {}
    with suppress(InputError):
        changed = dict(read_arguments(list(arguments)))
    name = changed.get("model.base", _value(content, "model", "base"))
    shows = changed.get(f"trainer.{_PROGRESS}", _value(content, "trainer", _PROGRESS))
    if isinstance(name, str) and name and str(shows).lower() != "false":
        print(f"Loading model {visible(name)} ...", file=sys.stderr, flush=True)


def _value(content: Any, part: str, key: str) -> Any:
    own = content.get(part) if isinstance(content, dict) else None
    return own.get(key) if isinstance(own, dict) else None
