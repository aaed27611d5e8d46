"""What makes two callbacks the same: class, code, files it reads, and what it was made with.

What a callback was made with is taken down when it is handed to a trainer, before any of its hooks
runs. What it learns or counts later is no part of its identity, and is put back to that state
before each stage, because a stage depends on its start alone.
"""

import copy
import os
import weakref
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.plugins import Precision

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.value_identity import describe, hash_file, sources

# Callbacks of Lightning's that only watch. A subclass may do more.
ONLOOKERS = tuple(
    kind
    for name in (
        "DeviceStatsMonitor",
        "LearningRateMonitor",
        "ModelSummary",
        "ProgressBar",
        "RichModelSummary",
        "RichProgressBar",
        "ThroughputMonitor",
        "Timer",
        "TQDMProgressBar",
    )
    if (kind := getattr(lightning_callbacks, name, None)) is not None
)
# What Lightning and this package put on callbacks besides their own parameters.
ATTACHED = ("log", "log_dict", "_name", "_reference")


def changes_training(callback: Callback) -> bool:
    """Whether a callback may change what training does; what only watches is in no key.

    Args:
        callback: any. A class of your own that only watches says so with the class attribute
            ``changes_training = False``.
    """
    kind = type(callback)
    return kind not in ONLOOKERS and bool(getattr(kind, "changes_training", True))


class Constructed:
    """The attributes of a callback as it was made.

    Args:
        callback: of which no hook has run yet.

    Attributes:
        parameters: descriptions of the attributes, for the stage store's key.

    Raises:
        InputError: for an attribute that nothing tells from others of its kind.
    """

    def __init__(self, callback: Callback) -> None:
        self._kind = type(callback).__qualname__
        # Taken down now: what is edited later does not run.
        sources(type(callback))
        self._values: dict[str, Any] = {}
        self._copies: dict[str, Any] = {}
        self.parameters: dict[str, Any] = {}
        self._left = _look(callback)
        self._take(callback, _names(callback))

    def _take(self, callback: Callback, names: Iterable[str]) -> None:
        for name in sorted(names):
            value = vars(callback)[name]
            self.parameters[name] = describe(value, f"{self._kind}.{name}", callback)
            self._values[name], self._copies[name] = value, _copy(value)

    def notice(self, callback: Callback) -> None:
        """Take down what was set from outside since the callback was made or last used."""
        now = _look(callback)
        for name in set(self.parameters) - set(now):
            if name in self._left:
                self._forget(name)
        self._take(callback, [n for n, value in now.items() if self._left.get(n, self) != value])
        self._left = now

    def leave(self, callback: Callback) -> None:
        """Remember how a run has left the callback: its own changes are not from outside."""
        self._left = _look(callback)

    def restore(self, callback: Callback) -> None:
        """Give the callback the state in which it was made."""
        now = _look(callback)
        for name in set(now) - set(self.parameters):
            delattr(callback, name)
        for name, told in self.parameters.items():
            if now.get(name, self) != told:
                _set(callback, name, self._values[name], _copy(self._copies[name]))

    def _forget(self, name: str) -> None:
        for table in (self.parameters, self._values, self._copies):
            table.pop(name, None)


# By id: a callback may be unhashable.
_KNOWN: dict[int, Constructed] = {}


def constructed(callback: Callback) -> Constructed:
    """What a callback was made with; taken down at the first call.

    Args:
        callback: an unlearning method, a monitor, or another callback.

    Raises:
        InputError: as of `Constructed`.
    """
    if id(callback) not in _KNOWN:
        _KNOWN[id(callback)] = Constructed(callback)
        weakref.finalize(callback, _KNOWN.pop, id(callback), None)
    return _KNOWN[id(callback)]


def callback_identity(callback: Callback) -> dict[str, Any]:
    """A callback as values for the stage store's key.

    Args:
        callback: an unlearning method, a monitor, or another callback.

    Returns:
        Values that JSON can hold.

    Raises:
        InputError: as of `Constructed`, or if a file it declares is missing.
    """
    identity = {
        "class": type(callback).__qualname__,
        "parameters": constructed(callback).parameters,
        "sources": sources(type(callback)),
    }
    if files := declared_files(callback):
        identity["depends_on"] = files
    return identity


def declared_files(callback: Callback) -> dict[str, str]:
    """Hashes of the files that a callback says it reads.

    Args:
        callback: ``depends_on``, an attribute or property, lists files and folders.

    Returns:
        By path as it is declared; of a folder, the files below it.

    Raises:
        InputError: if one is missing or can't be read.
    """
    declared = getattr(callback, "depends_on", ())
    listed = [declared] if isinstance(declared, (str, PurePath)) else list(declared)
    place = f"trainer.callbacks: {type(callback).__qualname__}.depends_on"
    found = {}
    for name in listed:
        if not isinstance(name, (str, PurePath)):
            raise InputError(f"{place}: found {name!r}, expected paths of files or folders.")
        path = Path(name).expanduser()
        try:
            for file in _files(path):
                inner = "" if file == path else file.relative_to(path).as_posix()
                found[os.path.join(name, inner) if inner else str(name)] = hash_file(file)
        except OSError as error:
            raise InputError(
                f"{place}: found {str(name)!r}, which can't be read ({error.strerror or error}), "
                "expected a file or folder that the class reads; correct the path, which is "
                f"relative to {Path.cwd()}."
            ) from error
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    below = (file for file in path.rglob("*") if "__pycache__" not in file.parts)
    return sorted(file for file in below if file.is_file())


def _names(callback: Callback) -> list[str]:
    return [name for name in vars(callback) if name not in ATTACHED]


def _look(callback: Callback) -> dict[str, Any]:
    """The attributes as they are now; what has no description, by its address in this process."""
    found = {}
    for name in _names(callback):
        value = vars(callback)[name]
        try:
            found[name] = describe(value, name, callback)
        except InputError:
            found[name] = id(value)
    return found


def _copy(value: Any) -> Any:
    """A copy that nobody else changes; of what can't be copied, the value itself."""
    if isinstance(value, Trainer):
        return value
    try:
        return copy.deepcopy(value)
    # Whatever its class may raise: a lock, an open file, a tensor inside a graph.
    except Exception:
        return value


def _set(callback: Callback, name: str, value: Any, fresh: Any) -> None:
    """Set an attribute; a container that others hold too stays the same object."""
    own = vars(callback).get(name)
    if own is value and isinstance(own, list):
        own[:] = fresh
    elif own is value and isinstance(own, (dict, set)):
        own.clear()
        own.update(fresh)
    else:
        setattr(callback, name, fresh)


def plugin_identity(plugins: Any) -> Any:
    """A precision plugin of the user's own as values for the stage store's key; None for none.

    Args:
        plugins: given by the user. Those of other kinds connect processes and write files.
    """
    given = plugins if isinstance(plugins, list) else [plugins]
    own = [plugin for plugin in given if isinstance(plugin, Precision)]
    return describe(own, "trainer.plugins") if own else None
