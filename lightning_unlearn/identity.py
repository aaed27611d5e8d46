"""What makes two callbacks the same: their class, its source, and their parameters."""

import hashlib
import inspect
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lightning_unlearn.version import __version__

# What Lightning puts on every callback when it fits.
ATTACHED = ("log", "log_dict")


def callback_identity(callback: Callback) -> dict[str, Any]:
    """A callback as values for the stage store's key.

    Attributes without a leading underscore are its parameters. For classes outside this package
    the text of their file counts too, so that an edited method is not taken for the old one.

    Args:
        callback: an unlearning method or a monitor.

    Returns:
        Values that JSON can hold.
    """
    cls = type(callback)
    parameters = {
        k: v for k, v in vars(callback).items() if not k.startswith("_") and k not in ATTACHED
    }
    sources = []
    for base in cls.__mro__:
        package = base.__module__.partition(".")[0]
        if package == "lightning_unlearn":
            sources.append(__version__)
        elif package not in ("lightning", "builtins", "abc", "typing"):
            sources.append(_source(base))
    return {
        "class": cls.__qualname__,
        "parameters": {k: _plain(v) for k, v in sorted(parameters.items())},
        "sources": list(dict.fromkeys(sources)),
    }


def _source(cls: type) -> str:
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        return f"{cls.__module__}.{cls.__qualname__}"
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON holds it; what JSON can't hold, as text."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_plain(item)) for item in value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))}
    return repr(value)
