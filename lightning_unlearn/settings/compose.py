"""Configurations composed: a later file or argument changes only what it names."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.strict_yaml import Path, line_of, read_yaml


class MissingValue(InputError):
    """An argument without a value.

    Args:
        key: the argument without its dashes.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"--{key}: found nothing after it, expected a value.")
        self.key = key


def read_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Keys and values of a command line.

    Args:
        arguments: of a command, without its configuration files.

    Yields:
        Key without its dashes, and value; None for one that takes no value.

    Raises:
        InputError: for an argument that is no --KEY VALUE.
        MissingValue: for one that lacks it.
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


def change(content: Any, keys: Sequence[str], value: Any) -> Any:
    """A configuration with one value changed, as the command line does it.

    Args:
        content: the configuration.
        keys: leading to the value. Behind a list they lead into its last item, behind a class to
            its init_args; the last one may end in + to append to a list.
        value: the new value.

    Returns:
        The changed configuration; the given one is as it was.
    """
    if not keys:
        return value
    key, *inner = keys
    if isinstance(content, list) and content:
        return [*content[:-1], change(content[-1], keys, value)]
    if isinstance(content, str):
        content = {"class_path": content}
    content = dict(content) if isinstance(content, dict) else {}
    if "class_path" in content and key not in ("class_path", "init_args"):
        return {**content, "init_args": change(content.get("init_args"), keys, value)}
    if key.endswith("+") and not inner:
        key = key.removesuffix("+")
        before = content.get(key)
        before = before if isinstance(before, list) else [] if before is None else [before]
        return {**content, key: [*before, *(value if isinstance(value, list) else [value])]}
    return {**content, key: change(content.get(key), inner, value)}


def compose(base: Any, later: Any) -> Any:
    """A configuration changed by another: mappings key by key, everything else replaced."""
    if not (isinstance(base, dict) and isinstance(later, dict)):
        return later
    if "class_path" in later and later.get("class_path") != base.get("class_path"):
        return later
    return {**base, **{key: compose(base.get(key), value) for key, value in later.items()}}


def split_config_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate the configuration files from the other arguments.

    Args:
        arguments: of a command.

    Returns:
        The files in order, and what is left.

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
    """The content of configuration files, each changing what the ones before it said."""
    content: dict[str, Any] = {}
    for file in files:
        content = compose(content, read_yaml(file, key))
    return content


def with_place(error: InputError, files: list[str], arguments: list[str]) -> str:
    """A message with the place of the key it complains about, where a file holds it.

    Args:
        error: its message begins with the key, or it has the path to it.
        files: the configuration files, later ones changing earlier ones.
        arguments: of the command line, which change the files.

    Returns:
        The message.
    """
    leading = re.match(r"([\w.+]+)(?=: )", str(error))
    path: Path = getattr(error, "path", tuple(leading[1].split(".")) if leading else ())
    # What a study changes in a fit configuration wins over the configuration, which may be in it.
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
    """The line of the last file that takes away what the ones before it held.

    Args:
        files: in order.
        path: of a value.

    Returns:
        Line number of the nearest key above the value; None if the file takes nothing away.
    """
    before, after = load_configs(files[:-1]), load_configs(files)
    if not _holds(before, list(path)) or _holds(after, list(path)):
        return None
    lines = (line_of(files[-1], path[:count]) for count in range(len(path) - 1, 0, -1))
    return next(filter(None, lines), None)


def _holds(content: Any, keys: list[str | int]) -> bool:
    """Whether a configuration has a value at a path, of which a key may be cut at its dots."""
    if not keys:
        return True
    if isinstance(content, list):
        place = int(keys[0]) if str(keys[0]).isdigit() else len(content)
        return place < len(content) and _holds(content[place], keys[1:])
    if not isinstance(content, dict):
        return False
    joined = (".".join(map(str, keys[:count])) for count in range(1, len(keys) + 1))
    return any(
        key in content and _holds(content[key], keys[count:])
        for count, key in enumerate(joined, start=1)
    )
