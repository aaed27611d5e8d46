"""Identity of a callback: class, code, files it reads, and attributes after construction.

The trainer records the attributes when it receives the callback, before any hook runs. Values that
the callback learns or counts later are not part of its identity. Before each stage the trainer
restores the recorded attributes, because a stage may depend only on its start.
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

# Lightning's callbacks that do not change training. A subclass may change it.
OBSERVERS = tuple(
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
# Attributes that Lightning and this package set on callbacks.
ATTACHED = ("log", "log_dict", "_name", "_reference", "_alternates_reference")


def changes_training(callback: Callback) -> bool:
    """Return whether a callback may change training. If not, it is in no key.

    Args:
        callback: any callback. A class of your own that does not change training declares it with
            the class attribute ``changes_training = False``.
    """
    kind = type(callback)
    return kind not in OBSERVERS and bool(getattr(kind, "changes_training", True))


class Constructed:
    """The attributes of a callback after its construction.

    Args:
        callback: a callback of which no hook has run yet.

    Attributes:
        parameters: descriptions of the attributes, for the key of the stage store.

    Raises:
        InputError: if an attribute cannot be described by its content; see `describe`.
    """

    def __init__(self, callback: Callback) -> None:
        self._kind = type(callback).__qualname__
        # Hash the code now: edits of the files after the import do not run.
        sources(type(callback))
        self._values: dict[str, Any] = {}
        self._copies: dict[str, Any] = {}
        self.parameters: dict[str, Any] = {}
        self._last_state = _describe_attributes(callback)
        self._record(callback, _names(callback))

    def _record(self, callback: Callback, names: Iterable[str]) -> None:
        for name in sorted(names):
            value = vars(callback)[name]
            self.parameters[name] = describe(value, f"{self._kind}.{name}", callback)
            self._values[name], self._copies[name] = value, _copy(value)

    def record_user_changes(self, callback: Callback) -> None:
        """Record attributes that the user set after the construction or after the last run."""
        now, last = _describe_attributes(callback), self._last_state
        for name in set(self.parameters) - set(now):
            if name in last:
                self._forget(name)
        self._record(callback, [n for n, value in now.items() if last.get(n, self) != value])
        self._last_state = now

    def record_end_of_run(self, callback: Callback) -> None:
        """Record the state after a run, so that changes by the run do not count as the user's."""
        self._last_state = _describe_attributes(callback)

    def restore(self, callback: Callback) -> None:
        """Set the attributes of the callback to their values after construction."""
        now = _describe_attributes(callback)
        for name in set(now) - set(self.parameters):
            delattr(callback, name)
        for name, recorded in self.parameters.items():
            if now.get(name, self) != recorded:
                _set(callback, name, self._values[name], _copy(self._copies[name]))

    def _forget(self, name: str) -> None:
        for table in (self.parameters, self._values, self._copies):
            table.pop(name, None)


# By id, because a callback may be unhashable.
_KNOWN: dict[int, Constructed] = {}


def constructed(callback: Callback) -> Constructed:
    """Return the attributes of a callback after construction; the first call records them.

    Args:
        callback: an unlearning method, a monitor, or another callback.

    Raises:
        InputError: see `Constructed`.
    """
    if id(callback) not in _KNOWN:
        _KNOWN[id(callback)] = Constructed(callback)
        weakref.finalize(callback, _KNOWN.pop, id(callback), None)
    return _KNOWN[id(callback)]


def callback_identity(callback: Callback) -> dict[str, Any]:
    """Describe a callback for the key of the stage store.

    Args:
        callback: an unlearning method, a monitor, or another callback.

    Returns:
        Values that JSON can represent.

    Raises:
        InputError: see `Constructed`; also if a file in ``depends_on`` is missing.
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
    """Hash the files that a callback declares in ``depends_on``.

    Args:
        callback: its attribute or property ``depends_on`` lists files and folders.

    Returns:
        Hashes by declared path; for a folder, by the path of each file below it.

    Raises:
        InputError: if a file is missing or cannot be read.
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


def _describe_attributes(callback: Callback) -> dict[str, Any]:
    """Describe the current attributes; by its address in this process what `describe` refuses."""
    found = {}
    for name in _names(callback):
        value = vars(callback)[name]
        try:
            found[name] = describe(value, name, callback)
        except InputError:
            found[name] = id(value)
    return found


def _copy(value: Any) -> Any:
    """Return a deep copy; for a value that cannot be copied, the value itself."""
    if isinstance(value, Trainer):
        return value
    try:
        return copy.deepcopy(value)
    # A class may raise anything here: locks, open files and tensors inside a graph do.
    except Exception:
        return value


def _set(callback: Callback, name: str, value: Any, fresh: Any) -> None:
    """Set an attribute. If it is a container, fill the same object: others may refer to it."""
    own = vars(callback).get(name)
    if own is value and isinstance(own, list):
        own[:] = fresh
    elif own is value and isinstance(own, (dict, set)):
        own.clear()
        own.update(fresh)
    else:
        setattr(callback, name, fresh)


def plugin_identity(plugins: Any) -> Any:
    """Describe the user's precision plugins for the key of the stage store.

    Args:
        plugins: plugins of the user. Plugins of other types connect processes or write files; they
            do not change numbers.

    Returns:
        Values that JSON can represent; None if there is no precision plugin.
    """
    given = plugins if isinstance(plugins, list) else [plugins]
    own = [plugin for plugin in given if isinstance(plugin, Precision)]
    return describe(own, "trainer.plugins") if own else None
