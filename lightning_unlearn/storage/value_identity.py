"""Describe values for the key of the stage store: by content, never by address or cut text."""

import functools
import hashlib
import re
import types
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.code_files import LIBRARIES, code_of

# Modules of classes that cannot change a number, such as locks.
_IGNORED = re.compile(r"_thread|threading|logging|weakref|contextlib|_io")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)
_ITSELF = "itself"


def describe(value: Any, name: str, owner: object = None) -> Any:
    """Describe a value for the key: equal values give equal descriptions in every process.

    Args:
        value: any attribute of a callback.
        name: name of the attribute, for the message.
        owner: object that has the attribute; the value may refer to it.

    Returns:
        A value that JSON can represent.

    Raises:
        InputError: if the only difference between the value and others of its type is its address.
    """
    return _describe(value, name, (id(owner),))


def sources(cls: type) -> list[str]:
    """Return the hashes of the code of a class and its bases, except bases from libraries."""
    codes = [
        code_of(base)
        for base in cls.__mro__
        if base.__module__.partition(".")[0] not in {*LIBRARIES, "builtins", "abc", "typing"}
    ]
    return list(dict.fromkeys(codes))


def hash_file(file: Path) -> str:
    """Return the SHA-256 of the content of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _describe(value: Any, name: str, seen: tuple[int, ...]) -> Any:
    """Describe a value; `seen` has the ids of the objects that contain it."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if id(value) in seen:
        return _ITSELF
    inside = functools.partial(_describe, seen=(*seen, id(value)))
    if isinstance(value, (list, tuple)):
        return [inside(item, f"{name}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(inside(item, name)) for item in value)
    if isinstance(value, dict):
        pairs = [(inside(k, name), inside(v, f"{name}[{k!r}]")) for k, v in value.items()]
        if all(isinstance(k, str) for k in value):
            return dict(sorted(pairs))
        return sorted(([k, v] for k, v in pairs), key=repr)
    if (described := _describe_data(value)) is not None:
        return described
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return _describe_function(value, name, inside)
    if isinstance(value, Trainer):
        return type(value).__qualname__
    if isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"
    return _describe_object(value, name, inside)


def _describe_data(value: Any) -> list[Any] | None:
    """Describe arrays, tables, patterns and random generators, whose repr omits values.

    Returns:
        The description; None for values of other types.
    """
    kind = type(value).__module__.partition(".")[0]
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return [str(value.dtype), list(value.shape), _hash(content.numpy().tobytes())]
    if isinstance(value, torch.Generator):
        return ["Generator", _hash(value.get_state().numpy().tobytes())]
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if kind == "numpy" and hasattr(value, "tobytes"):
        return [str(value.dtype), list(value.shape), _hash(value.tobytes())]
    if kind == "pandas" and hasattr(value, "to_csv"):
        return [type(value).__name__, _hash(value.to_csv().encode())]
    return None


def _describe_function(value: Any, name: str, inside: Callable[..., Any]) -> list[Any]:
    """Describe a function by its code and all values that are bound to it."""
    if isinstance(value, functools.partial):
        return ["partial", inside(value.func, name), inside([value.args, value.keywords], name)]
    if isinstance(value, types.MethodType):
        return ["method", inside(value.__func__, name), inside(value.__self__, name)]
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    bound = [cells, value.__defaults__, value.__kwdefaults__]
    return [value.__qualname__, code_of(value), inside(bound, name)]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (raises if the cell is empty)
    except ValueError:
        return False
    return True


def _describe_object(value: Any, name: str, inside: Callable[..., Any]) -> Any:
    """Describe an object by its class and its attributes; without attributes, by its repr."""
    cls = type(value)
    if cls.__module__.partition(".")[0] in ("pathlib",):
        return str(value)
    if _IGNORED.match(cls.__module__):
        return cls.__qualname__
    slots = [s for base in cls.__mro__ for s in _as_tuple(getattr(base, "__slots__", ()))]
    attributes = {s: getattr(value, s) for s in slots if s != "__dict__" and hasattr(value, s)}
    attributes |= getattr(value, "__dict__", {})
    if attributes or hasattr(value, "__dict__"):
        return [cls.__qualname__, sources(cls), inside(attributes, name)]
    text = repr(value)
    if _ADDRESS.search(text):
        # The address differs in every process, so no stored entry would ever be found again.
        raise InputError(
            f"trainer.callbacks: {name} is of type {cls.__name__}, expected a type whose content "
            "can be read: attributes, or a repr without an address. In __init__, keep the values "
            "it is made from, such as a seed, and create it in on_train_start."
        )
    return text


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
