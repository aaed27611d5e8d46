"""Merge configurations: a later file or argument changes only the keys that it names."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.strict_yaml import Path, line_in, line_of, read_yaml, write_yaml


class MissingValue(InputError):
    """An argument without a value.

    Args:
        key: the argument without its dashes.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"--{key}: found nothing after it, expected a value.")
        self.key = key


def read_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the keys and values of a command line.

    Args:
        arguments: arguments of a command, without its configuration files.

    Yields:
        Key without its dashes, and value; the value is None if the key takes no value.

    Raises:
        InputError: if an argument is not of the form --KEY VALUE.
        MissingValue: if a key has no value but needs one.
    """
    rest = iter(arguments)
    following = next(rest, None)
    while following is not None:
        argument, following = following, next(rest, None)
        if not argument.startswith("--") or argument in ("--", "--="):
            raise InputError(f"found the argument {argument!r}, expected --KEY VALUE.")
        key, assigned, value = argument[2:].partition("=")
        if assigned:
            yield key, value
        elif key in ("print_config", "help") or key.endswith(".help"):
            yield key, None
        elif following is None or following.startswith("--"):
            raise MissingValue(key)
        else:
            yield key, following
            following = next(rest, None)


def set_key(content: Any, keys: Sequence[str], value: Any) -> Any:
    """Set one value of a configuration by the rules of the command line.

    Args:
        content: the configuration.
        keys: the path to the value. At a list, the next key applies to its last item. At a class,
            the next key applies to its init_args. If the last key ends in +, append to a list.
        value: the new value.

    Returns:
        The changed configuration; the argument `content` is not modified.
    """
    if not keys:
        return value
    key, *inner = keys
    if isinstance(content, list) and content:
        return [*content[:-1], set_key(content[-1], keys, value)]
    if isinstance(content, str):
        content = {"class_path": content}
    content = dict(content) if isinstance(content, dict) else {}
    if "class_path" in content and key not in ("class_path", "init_args"):
        return {**content, "init_args": set_key(content.get("init_args"), keys, value)}
    if key.endswith("+") and not inner:
        key = key.removesuffix("+")
        before = content.get(key)
        before = before if isinstance(before, list) else [] if before is None else [before]
        return {**content, key: [*before, *(value if isinstance(value, list) else [value])]}
    return {**content, key: set_key(content.get(key), inner, value)}


# Mappings whose keys the user names. null in a later file removes what an earlier one has there.
_NAMED = (("data", "stages"), ("data", "eval_sets"), ("methods",))
REPLACE = "replace"


def merge(base: Any, later: Any) -> Any:
    """Merge two configurations: mappings key by key; `later` replaces every other value.

    A mapping with another class_path than in `base` replaces the whole class, init_args included,
    and a mapping with ``replace: true`` replaces the whole mapping. A stage, an evaluation set or a
    method that `base` has and `later` sets to null is removed.
    """
    return _merge(base, later, (), [])


def _merge(base: Any, later: Any, path: Path, lost: list[tuple[Path, str]]) -> Any:
    """Merge as `merge` does; append what `later` removes or replaces whole to `lost`."""
    if not isinstance(later, dict):
        return later
    if later.get(REPLACE) is True and "init_args" not in path:
        if isinstance(base, dict):
            lost.append((path, "replaced"))
        base, later = None, {key: value for key, value in later.items() if key != REPLACE}
    if not isinstance(base, dict):
        base = {}
    if "class_path" in later and later.get("class_path") != base.get("class_path"):
        return later
    removed = set()
    if any(path[-len(named) :] == named for named in _NAMED):
        removed = {key for key, value in later.items() if value is None and key in base}
        lost += [((*path, key), "removed") for key in later if key in removed]
    changed = {
        key: _merge(base.get(key), value, (*path, key), lost) for key, value in later.items()
    }
    return {key: value for key, value in {**base, **changed}.items() if key not in removed}


def split_config_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate the configuration files from the other arguments.

    Args:
        arguments: arguments of a command.

    Returns:
        The files in order, and all other arguments.

    Raises:
        InputError: if the last argument is --config without a file.
    """
    files, others = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-c", "--config"):
            file = next(rest, None)
            if file is None:
                raise InputError("--config: found nothing after it, expected a YAML file.")
            files.append(file)
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            others.append(argument)
    return files, others


def load_configs(files: list[str], key: str = "--config") -> dict[str, Any]:
    """Read and merge configuration files, in order; `key` names them in error messages."""
    content: dict[str, Any] = {}
    for file in files:
        content = merge(content, read_yaml(file, key))
    return content


def lost_parts(files: list[str]) -> list[str]:
    """Return a line for each stage or mapping that a later file removes or replaces whole.

    Args:
        files: configuration files, in order.
    """
    content: dict[str, Any] = {}
    lines = []
    for file in files:
        lost: list[tuple[Path, str]] = []
        content = _merge(content, read_yaml(file, "--config"), (), lost)
        lines += [f"{'.'.join(map(str, path))}: {what} by {file}" for path, what in lost]
    return lines


def with_place(error: InputError, files: list[str], arguments: list[str]) -> str:
    """Add file and line of the wrong key to a message, if a configuration file contains the key.

    Args:
        error: an error whose message begins with the key, or whose `path` leads to it.
        files: the configuration files; later files override earlier ones.
        arguments: arguments of the command line, which override the files.

    Returns:
        The message.
    """
    leading = re.match(r"([\w.+]+)(?=: )", str(error))
    path: Path = getattr(error, "path", tuple(leading[1].split(".")) if leading else ())
    # The overrides of a study take precedence over its fit configuration. The study file may
    # contain that configuration under the key fit.
    for wanted in (("overrides", *path), path, ("fit", *path)) if path else ():
        text = f"overrides.{error}" if wanted[0] == "overrides" != path[0] else str(error)
        for key, _ in read_arguments(arguments):
            given = tuple(key.rstrip("+").split("."))
            if all(a == b for a, b in zip(wanted, given, strict=False)):
                return text
        for number, file in reversed(list(enumerate(files))):
            if line := line_of(file, wanted) or _line_that_removes(files[: number + 1], wanted):
                return f"{text} ({file}, line {line})"
    return str(error)


def _line_that_removes(files: list[str], path: Path) -> int | None:
    """Find the line on which the last file removes a value that the files before it set.

    Args:
        files: the configuration files, in order.
        path: keys that lead to the value.

    Returns:
        Line number of the nearest key above the value; None if the last file does not remove it.
    """
    before, after = (write_yaml(load_configs(some)) for some in (files[:-1], files))
    if line_in(before, path) is None or line_in(after, path) is not None:
        return None
    lines = (line_of(files[-1], path[:count]) for count in range(len(path) - 1, 0, -1))
    return next(filter(None, lines), None)
