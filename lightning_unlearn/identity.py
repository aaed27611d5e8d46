"""What makes two callbacks the same: their class, its source, and their parameters."""

import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.version import __version__

# What Lightning and this package put on callbacks besides their own parameters.
ATTACHED = ("log", "log_dict", "_name", "_reference", "_warned")


def callback_identity(callback: Callback) -> dict[str, Any]:
    """A callback as values for the stage store's key.

    Its attributes are its parameters, private ones too where they hold plain values. For classes
    outside this package the text of their file counts as well, so that an edited method is not
    taken for the old one.

    Args:
        callback: an unlearning method or a monitor.

    Returns:
        Values that JSON can hold.
    """
    cls = type(callback)
    parameters = {
        k: v
        for k, v in vars(callback).items()
        if k not in ATTACHED and (not k.startswith("_") or _is_plain(v))
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
        "parameters": {
            k: _plain(v, f"{cls.__qualname__}.{k}") for k, v in sorted(parameters.items())
        },
        "sources": list(dict.fromkeys(sources)),
    }


def _source(cls: Any) -> str:
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        return f"{cls.__module__}.{cls.__qualname__}"
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether JSON holds a value as it is."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (str, int, float, bool, type(None)))


def _plain(value: Any, name: str) -> Any:
    """A value as JSON holds it; what JSON can't hold, as text."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, name) for item in value]
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
    if inspect.isfunction(value):
        return f"{value.__qualname__} {_source(value)}"
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_plain(item, name)) for item in value)
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        return {str(k): _plain(v, name) for k, v in pairs}
    text = repr(value)
    if re.search(r" at 0x[0-9a-f]+", text, re.IGNORECASE):
        # An address is another in every process: nothing stored would ever be found again.
        raise InputError(
            f"trainer.callbacks: {name} is of the type {type(value).__name__}, which has no text "
            "that tells it from others. Keep what it is made from, such as a seed, in __init__, "
            "and make it in on_train_start."
        )
    return text
