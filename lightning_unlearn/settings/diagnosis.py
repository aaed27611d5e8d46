"""Explain in one sentence what is wrong with a configuration that the parser refused."""

import difflib
import inspect
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Union

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.strict_yaml import Path, read_value

WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


# Integers of torch and of file formats are smaller than this.
LARGEST = 2**63
# Longest text in characters that a message quotes in full.
LONGEST = 100
# Packages that Lightning's loggers import in their constructors.
PACKAGES = {"WandbLogger": "wandb", "CometLogger": "comet_ml", "MLFlowLogger": "mlflow"}
# Base classes whose subclasses a configuration selects by name, such as callbacks.
NAMED_CLASSES = (Callback, Logger, Profiler, Strategy)


class Refused(InputError):
    """A configuration that the parser refuses.

    Args:
        path: keys, and positions in lists, that lead to the mistake.
        text: the message.
        mismatch: the value has a wrong type, and the message says nothing more specific.
    """

    def __init__(self, path: Path, text: str, mismatch: bool = False) -> None:
        super().__init__(text)
        self.path = path
        self.mismatch = mismatch


def diagnose(value: Any, hint: Any, advice: Mapping[str, str] | None = None) -> Refused | None:
    """Find the first value that does not fit its type hint.

    Args:
        value: a configuration.
        hint: type of the configuration; the fields of a dataclass are its keys.
        advice: messages for keys that do not exist but that users may expect, by full name.

    Returns:
        The mistake as an exception that is not raised; None if no mistake is found.
    """
    return _Search(advice or {}).check(value, hint, (), "")


@dataclass(frozen=True)
class _Search:
    advice: Mapping[str, str]

    def check(self, value: Any, hint: Any, path: Path, name: str) -> Refused | None:
        """See `diagnose`."""
        origin, members = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any or hint is inspect.Parameter.empty:
            return None
        if origin in (Union, types.UnionType):
            return self._union(value, hint, path, name)
        if origin is Literal:
            return None if value in members else _mismatch(value, hint, path, name)
        if origin in (list, tuple) or hint in (list, tuple):
            return self._list(value, hint, path, name)
        if origin is dict or hint is dict:
            return self._dict(value, hint, path, name)
        if hint in WORDS:
            return None if _is_a(value, hint) else _mismatch(value, hint, path, name)
        if _is_group(hint):
            return self._keys(value, hint, path, name)
        if _is_named_class(hint):
            return self._instance(value, hint, path, name)
        # The parser itself explains mistakes in values of other types.
        return None

    def _union(self, value: Any, hint: Any, path: Path, name: str) -> Refused | None:
        found = [self.check(value, member, path, name) for member in typing.get_args(hint)]
        mistakes = [mistake for mistake in found if mistake is not None]
        if len(mistakes) < len(found):
            return None
        specific = [m for m in mistakes if not m.mismatch or len(m.path) > len(path)]
        return specific[0] if specific else _mismatch(value, hint, path, name)

    def _list(self, value: Any, hint: Any, path: Path, name: str) -> Refused | None:
        value, members = _parse_text(value), typing.get_args(hint)
        fixed = typing.get_origin(hint) is tuple and ... not in members
        if not isinstance(value, list) or (fixed and len(value) != len(members)):
            return _mismatch(value, hint, path, name)
        hints = members if fixed else [members[0] if members else Any] * len(value)
        for position, (item, item_hint) in enumerate(zip(value, hints, strict=True)):
            if mistake := self.check(item, item_hint, (*path, position), name):
                return mistake
        return None

    def _dict(self, value: Any, hint: Any, path: Path, name: str) -> Refused | None:
        value = _parse_text(value)
        if not isinstance(value, dict):
            return _mismatch(value, hint, path, name)
        for key, item in value.items():
            item_hint = (typing.get_args(hint) or (str, Any))[1]
            if mistake := self.check(item, item_hint, (*path, key), f"{name}.{key}"):
                return mistake
        return None

    def _keys(self, value: Any, hint: type, path: Path, name: str) -> Refused | None:
        """Check keys that are the parameters of a constructor."""
        value = _parse_text(value)
        if not isinstance(value, dict):
            return _mismatch(value, hint, path, name)
        hints, required, is_open = _parameters(hint)
        prefix = f"{name}." if name else ""
        for key, item in value.items():
            where, full = (*path, key), f"{prefix}{key}"
            if full in self.advice:
                return Refused(where, self.advice[full])
            if key not in hints:
                if is_open:
                    continue
                known = [k for k in hints if f"{prefix}{k}" not in self.advice]
                return Refused(where, f"{full}: found an unknown key, {_instead(key, known)}")
            if mistake := self.check(item, hints[key], where, full):
                return mistake
        for key in required:
            if key in value:
                continue
            if not _is_group(hints[key]):
                wanted = _describe(hints[key])
                return Refused(path, f"{prefix}{key}: found nothing, expected {wanted}.")
            # For a missing group of keys, report the first key that the group requires.
            if mistake := self.check({}, hints[key], (*path, key), f"{prefix}{key}"):
                return mistake
        return None

    def _instance(self, value: Any, hint: type, path: Path, name: str) -> Refused | None:
        """Check a class that is given by name, alone or with init_args."""
        arguments: Any = {}
        value = _parse_text(value)
        if isinstance(value, dict):
            for key in value:
                if key not in ("class_path", "init_args", "dict_kwargs"):
                    instead = _instead(key, ["class_path", "init_args"])
                    text = f"{name}: found the unknown key {key!r}, {instead}"
                    return Refused((*path, key), text)
            path, arguments = (*path, "class_path"), value.get("init_args") or {}
            value = value.get("class_path")
        if not isinstance(value, str):
            return _mismatch(value, hint, path, name)
        found = find_class(value, hint)
        if isinstance(found, str):
            return Refused(path, f"{name}: found {value!r}, {found}.")
        package = PACKAGES.get(found.__name__, "")
        if found.__module__.startswith("lightning.") and package and find_spec(package) is None:
            text = f"{name}: {found.__name__} needs the package {package} (pip install {package})."
            return Refused(path, text.replace("comet_ml)", "comet-ml)"))
        if path and path[-1] == "class_path":
            path = (*path[:-1], "init_args")
        return self._keys(arguments, found, path, found.__name__)


def _parameters(cls: type) -> tuple[dict[str, Any], list[str], bool]:
    """Inspect the constructor of a class.

    Returns:
        Type hints of its parameters, its parameters without default, and whether it has variable
        arguments (``*args`` or ``**kwargs``).
    """
    constructor = inspect.unwrap(cls.__init__)  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(constructor)
    # Hints of a user's class may name types that only a type checker imports.
    except Exception:
        hints = {}
    named: dict[str, Any] = {}
    required = []
    is_open = False
    for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            is_open = True
            continue
        named[parameter.name] = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return named, required, is_open


def find_class(name: str, base: type) -> type | str:
    """Find a class by its short name or import path.

    Args:
        name: name in a configuration.
        base: class of which the result must be a subclass.

    Returns:
        The class, or text that says what is wrong with the name.
    """
    known = {c.__name__: c for c in _subclasses(base)}
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    ours = sorted(n for n, c in known.items() if _is_ours(c))
    others = [*ours, "or module.Class of your own"] if ours else ["module.Class of your own"]
    # Lightning's short names such as fsdp2 are accepted elsewhere, but take no init_args.
    others = [n for n in known if n.lower() == name.lower()] or others
    expected = f"expected {', '.join(others)}"
    if not module:
        return expected
    try:
        found: object = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        return f"but there is no module {error.name} here; {expected}"
    # The import runs a module of the user, which may raise any exception.
    except Exception as error:
        return f"but importing {module} fails with {type(error).__name__}: {error}"
    if found is None:
        return f"but the module {module} has no {attribute}"
    if isinstance(found, type) and issubclass(found, base):
        return found
    return f"which is not a {base.__name__}; {expected}"


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for found in base.__subclasses__():
        yield found
        yield from _subclasses(found)


def _is_ours(found: type) -> bool:
    packages = ("lightning_unlearn.unlearning.", "lightning_unlearn.monitors.")
    # Base classes, which are no methods or monitors themselves.
    bases = (".base", ".path_aware")
    return found.__module__.startswith(packages) and not found.__module__.endswith(bases)


def _is_group(hint: Any) -> bool:
    """Return whether a configuration gives only the constructor arguments of a class."""
    classes = (Trainer, LightningModule, LightningDataModule)
    return inspect.isclass(hint) and (is_dataclass(hint) or issubclass(hint, classes))


def _is_named_class(hint: Any) -> bool:
    """Return whether a configuration selects a subclass by name, with or without arguments."""
    return inspect.isclass(hint) and issubclass(hint, NAMED_CLASSES)


def _parse_text(value: Any) -> Any:
    """Parse text as YAML, as the parser does: it reads '1e-3' in quotes as a number."""
    return read_value(value) if isinstance(value, str) else value


def _is_a(value: Any, hint: type) -> bool:
    if hint is str:
        return isinstance(value, str)
    value = _parse_text(value)
    if hint is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) < math.inf
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, hint)


def _mismatch(value: Any, hint: Any, path: Path, name: str) -> Refused:
    # Numbers and words of the command line are still text here.
    value = value if (parsed := _parse_text(value)) is None else parsed
    if hint in (int, int | None) and isinstance(value, int) and not isinstance(value, bool):
        return Refused(path, f"{name}: found {value}, which is too large.", True)
    if hint in (float, float | None) and isinstance(value, float):
        # The type is right, so the value is NaN or infinite.
        expected = "a finite number" if hint is float else "a finite number or null"
        return Refused(path, f"{name}: found {value}, expected {expected}.", True)
    return Refused(path, f"{name}: found {show(value)}, expected {_describe(hint)}.", True)


def show(value: Any) -> str:
    """Write a value for a message, in YAML notation; mappings and lists are only named."""
    if isinstance(value, (dict, list)):
        return "keys and values" if isinstance(value, dict) else "a list"
    words = {True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words.get(value, "null")  # type: ignore[arg-type]
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:LONGEST]!r}..."
    return repr(value)


def _describe(hint: Any) -> str:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if hint in WORDS:
        return WORDS[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(member) for member in members))
    if origin is Literal:
        return "one of " + ", ".join(map(str, members)) if len(members) > 1 else str(members[0])
    if origin is tuple and ... not in members:
        return f"a list of {len(members)} values"
    if origin in (list, tuple):
        return "a list"
    if origin is dict or _is_group(hint):
        return "keys and values"
    named = getattr(hint, "__name__", str(hint))
    article = "an" if named[0] in "AEIOU" else "a"
    return f"{article} {named} (its name, or class_path and init_args)"


def _instead(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"expected {'one of ' if len(known) > 1 else ''}{', '.join(known) or 'none'}."
