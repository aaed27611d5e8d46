"""YAML files read strictly, and composed: a later file changes only what it names."""

import re
from pathlib import Path
from typing import Any

import yaml

from lightning_unlearn.errors import InputError


class _StrictLoader(yaml.SafeLoader):
    """Refuses duplicate keys and the word None; reads 1e-5 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
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


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
_StrictLoader.add_implicit_resolver("!none", re.compile(r"^None$"), ["N"])
_StrictLoader.add_constructor("!none", _refuse_none)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Read a configuration file.

    Args:
        file: a YAML file with a mapping.

    Returns:
        Its content.

    Raises:
        InputError: if it can't be read, is no YAML, repeats a key, or holds no mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"--config: found {str(file)!r}, which can't be read: {reason}.") from None
    loader = _StrictLoader(text)
    loader.name = str(file)
    try:
        content = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{file}, line {line}: found no valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: found no valid YAML: {error}.") from None
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise InputError(f"{file}: found {type(content).__name__}, expected keys and values.")
    return content


def compose(base: Any, change: Any) -> Any:
    """A configuration changed by another: mappings key by key, everything else replaced."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    if "class_path" in change and change.get("class_path") != base.get("class_path"):
        return change
    return {**base, **{key: compose(base.get(key), value) for key, value in change.items()}}
