"""Read YAML strictly, write it, and find the line of a value in a file."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from lightning_unlearn.errors import InputError

# Keys, and positions in lists, that lead to a value.
Path = tuple[str | int, ...]


# More than any configuration needs, and few enough for Python's recursion limit.
MAX_LEVELS, MAX_VALUES = 100, 100_000


class _StrictLoader(yaml.SafeLoader):
    """Loader that refuses duplicate keys, keys that are not text, and the word None.

    As in YAML 1.2, 1e-5 is a number and 2024-01-01 is text. The loader counts levels and values
    with expanded aliases, and refuses a file with too many before it builds any object.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._level += 1
        if self._level > MAX_LEVELS:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise InputError(
                f"{self.name}, line {line}: found more than {MAX_LEVELS} nested levels, expected "
                "fewer."
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self._level -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            self._count(node, {})
        return node

    def _count(self, node: yaml.Node, counted: dict[int, int | None]) -> int:
        """Count the values of a node, with expanded aliases."""
        number = counted.get(id(node), 0)
        if number is None:
            line = node.start_mark.line + 1
            raise InputError(
                f"{self.name}, line {line}: found an alias inside the value that it refers to."
            )
        if number:
            return number
        counted[id(node)] = None
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        number = 1 + sum(self._count(part, counted) for part in parts)
        if number > MAX_VALUES:
            line = node.start_mark.line + 1
            raise InputError(
                f"{self.name}, line {line}: found more than {MAX_VALUES} values (with expanded "
                "aliases), expected fewer."
            )
        counted[id(node)] = number
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, (list, dict)):
                raise InputError(
                    f"{self.name}, line {line}: found a list or mapping as a key, expected text."
                )
            if not isinstance(key, str):
                raise InputError(
                    f"{self.name}, line {line}: found the key {key_node.value or 'null'}, which "
                    "YAML does not read as text; put it in quotes."
                )
            if key in seen:
                raise InputError(
                    f"{self.name}, line {line}: found the key {key!r} again (first in line "
                    f"{seen[key]}), expected each key once."
                )
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


def _refuse_none(loader: _StrictLoader, node: yaml.ScalarNode) -> None:
    raise InputError(
        f"{loader.name}, line {node.start_mark.line + 1}: found {node.value}, which YAML reads as "
        'text; write null for no value, or "None" in quotes for the text.'
    )


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
_StrictLoader.add_implicit_resolver("!none", re.compile(r"^None$"), ["N"])
_StrictLoader.add_constructor("!none", _refuse_none)


class _StrictDumper(yaml.SafeDumper):
    """Dumper that quotes every text that the loader above would not read as text."""


_StrictDumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *resolvers]
    for first, resolvers in _StrictLoader.yaml_implicit_resolvers.items()
}


def write_yaml(content: dict[str, Any], comments: Sequence[str] = ()) -> str:
    """Write a configuration as text from which `read_yaml` reads the same values.

    Args:
        content: keys and values of the configuration.
        comments: lines of the comment at the top.

    Returns:
        The text.
    """
    text = yaml.dump(
        content,
        Dumper=_StrictDumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
    )
    return "\n".join([*(f"# {line}" for line in comments), text])


def read_yaml(file: str | pathlib.Path, key: str = "--config") -> dict[str, Any]:
    """Read a configuration file.

    Args:
        file: a YAML file with a mapping.
        key: argument that names the file, for messages.

    Returns:
        The content of the file.

    Raises:
        InputError: if the file cannot be read, is not YAML, repeats a key, or has no mapping.
    """
    try:
        path = pathlib.Path(file)
        # A pipe or a terminal may never end, and can be read only once.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{key}: found {str(file)!r}, expected a regular file.")
        text = path.read_text(encoding="utf-8")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        if isinstance(error, ValueError) and "\0" in str(file):
            reason = "a file name cannot contain a null character"
        raise InputError(f"{key}: found {str(file)!r}, which can't be read: {reason}.") from None
    try:
        content = _load(text, str(file))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{file}, line {line}: found invalid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: found invalid YAML: {error}.") from None
    if not isinstance(content, dict):
        kinds = {list: "a list", type(None): "nothing"}
        found = kinds.get(type(content), "a single value")
        raise InputError(f"{file}: found {found}, expected keys and values.")
    try:
        json.dumps(content)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{file}: found a value that is not text, a number, a list or a mapping: {error}."
        ) from None
    return content


def read_value(text: str) -> Any:
    """Read a value as YAML; return the text itself if it is not valid YAML."""
    try:
        return _load(text, "")
    except (yaml.YAMLError, InputError):
        return text


def read_argument(text: str) -> Any:
    """Read a value of the command line, for `set_key`.

    Returns:
        None, a list or a mapping if the text is one of these, else the text itself: the type hint
        of the key decides later whether it is a number, true or false, or text.
    """
    value = read_value(text)
    return value if isinstance(value, list | dict) or (value is None and text.strip()) else text


def _load(text: str, name: str) -> Any:
    loader = _StrictLoader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def line_of(file: str | pathlib.Path, path: Path) -> int | None:
    """Find the line of a value in a file.

    Args:
        file: a YAML file.
        path: keys and positions that lead to the value. A key of the file that contains dots, such
            as ``trainer.epochs``, matches several keys of the path.

    Returns:
        Line number from 1; None if the file does not contain the value.
    """
    return line_in(pathlib.Path(file).read_text(encoding="utf-8"), path)


def line_in(text: str, path: Path) -> int | None:
    """Find the line of a value in YAML text; see `line_of`."""
    return _line(yaml.compose(text, Loader=_StrictLoader), list(map(str, path)))


def _line(node: yaml.Node | None, keys: list[str]) -> int | None:
    if isinstance(node, yaml.SequenceNode) and keys and keys[0].isdigit():
        for position, item in enumerate(node.value):
            if str(position) == keys[0]:
                return _line(item, keys[1:]) if keys[1:] else item.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            for count in range(1, len(keys) + 1):
                if key_node.value != ".".join(keys[:count]):
                    continue
                if count == len(keys):
                    return int(key_node.start_mark.line) + 1
                if line := _line(value, keys[count:]):
                    return line
    return None
