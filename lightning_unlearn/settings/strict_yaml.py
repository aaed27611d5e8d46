"""YAML read strictly, written, and the lines on which a file gives its values."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from lightning_unlearn.errors import InputError

# Keys, and numbers of places in lists, that lead to a value.
Path = tuple[str | int, ...]


# More than a configuration has, and less than what Python's stack holds.
MOST_LEVELS, MOST_VALUES = 100, 100_000


class _StrictLoader(yaml.SafeLoader):
    """Refuses duplicate keys, keys that are no text and the word None; as in YAML 1.2, 1e-5 is a
    number and 2024-01-01 is text. What is deeper or larger than any configuration, aliases written
    out, is refused before it is made."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._level += 1
        if self._level > MOST_LEVELS:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise InputError(
                f"{self.name}, line {line}: found more than {MOST_LEVELS} levels, one in another."
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
        """How many values a node has, aliases written out."""
        number = counted.get(id(node), 0)
        if number is None:
            line = node.start_mark.line + 1
            raise InputError(f"{self.name}, line {line}: found an alias of what it is in.")
        if number:
            return number
        counted[id(node)] = None
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        number = 1 + sum(self._count(part, counted) for part in parts)
        if number > MOST_VALUES:
            line = node.start_mark.line + 1
            raise InputError(
                f"{self.name}, line {line}: found more than {MOST_VALUES} values, aliases written "
                "out."
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
                raise InputError(f"{self.name}, line {line}: found a key that is no single word.")
            if not isinstance(key, str):
                raise InputError(
                    f"{self.name}, line {line}: found the key {key_node.value or 'null'}, which "
                    "YAML does not take for text; put it in quotes."
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
        f"{loader.name}, line {node.start_mark.line + 1}: found {node.value}, which YAML takes for "
        'text; write null for nothing, or "None" in quotes for the text.'
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
    """Puts into quotes what the loader above would not take for text."""


_StrictDumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *resolvers]
    for first, resolvers in _StrictLoader.yaml_implicit_resolvers.items()
}


def write_yaml(content: dict[str, Any], comments: Sequence[str] = ()) -> str:
    """A configuration as text from which `read_yaml` reads the same values.

    Args:
        content: its keys and values.
        comments: lines that come first.
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
        key: what names the file, for messages.

    Returns:
        Its content.

    Raises:
        InputError: if it can't be read, is no YAML, repeats a key, or holds no mapping.
    """
    try:
        path = pathlib.Path(file)
        # A pipe or a terminal may never end, or be read but once.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{key}: found {str(file)!r}, which is no ordinary file.")
        text = path.read_text(encoding="utf-8")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        if isinstance(error, ValueError) and "\0" in str(file):
            reason = "no name of a file has a null character"
        raise InputError(f"{key}: found {str(file)!r}, which can't be read: {reason}.") from None
    try:
        content = _load(text, str(file))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{file}, line {line}: found no valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: found no valid YAML: {error}.") from None
    if not isinstance(content, dict):
        kinds = {list: "a list", type(None): "nothing"}
        found = kinds.get(type(content), "a single value")
        raise InputError(f"{file}: found {found}, expected keys and values.")
    try:
        json.dumps(content)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{file}: found a value that is no text, number, list or mapping: {error}."
        ) from None
    return content


def read_value(text: str) -> Any:
    """A value as YAML; the text itself where it is none."""
    try:
        return _load(text, "")
    except (yaml.YAMLError, InputError):
        return text


def read_argument(text: str) -> Any:
    """A value of the command line, for `change`.

    What is no null, list or mapping stays text: which number or word it is follows from its key.
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
    """The line on which a file gives a value.

    Args:
        file: a YAML file.
        path: keys and places that lead there. A key may be cut at its dots.

    Returns:
        Line number from 1; None if the file does not hold it.
    """
    text = pathlib.Path(file).read_text(encoding="utf-8")
    return _line(yaml.compose(text, Loader=_StrictLoader), list(map(str, path)))


def _line(node: yaml.Node | None, keys: list[str]) -> int | None:
    if isinstance(node, yaml.SequenceNode) and keys and keys[0].isdigit():
        for place, item in enumerate(node.value):
            if str(place) == keys[0]:
                return _line(item, keys[1:]) if keys[1:] else item.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            for count in range(1, len(keys) + 1):
                if key_node.value == ".".join(keys[:count]):
                    if count == len(keys):
                        return int(key_node.start_mark.line) + 1
                    return _line(value, keys[count:])
    return None
