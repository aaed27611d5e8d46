"""Code that comes with a model: which files of it run, and their hash."""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_unlearn.model.weights_check import find_file

# What is opened of a model: its configuration, its weights, its tokenizer.
OPENED = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
CONFIGURATIONS = ("config.json", "tokenizer_config.json")


def remote_code_identity(located: str) -> str:
    """Hash of the code that a model brings along and that runs when it is opened.

    Those are the modules that ``auto_map`` names in its configurations, which may be in another
    repository of the hub, and all that they import from beside them.

    Args:
        located: folder or hub name.

    Returns:
        Hexadecimal digest; empty for a model without code.
    """
    named = (find_file(located, name) for name in CONFIGURATIONS)
    waiting = [place for configuration in named for place in _named(configuration, located)]
    found: dict[tuple[str, str], str] = {}
    while waiting:
        repository, module = place = waiting.pop()
        if place in found:
            continue
        path = find_file(repository, module)
        if path is None:
            continue  # opening the model tells what is missing
        content = path.read_bytes()
        found[place] = hashlib.sha256(content).hexdigest()
        waiting += [(repository, name) for name in _beside(content, PurePosixPath(module))]
    # Two names of the same files are the same model, so the folder has no part in it.
    parts = sorted(
        ("" if repository == located else repository, module, digest)
        for (repository, module), digest in found.items()
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest() if parts else ""


def _named(configuration: Path | None, located: str) -> Iterator[tuple[str, str]]:
    """Repository and file of the modules that a configuration names."""
    if configuration is None:
        return
    content = json.loads(configuration.read_text(encoding="utf-8"))
    chosen: Any = content.get("auto_map") or {} if isinstance(content, dict) else {}
    if not isinstance(chosen, dict):
        # Older tokenizers give only the names of their classes.
        chosen = {"AutoTokenizer": chosen}
    for kind in OPENED:
        names = chosen.get(kind) or []
        for name in [names] if isinstance(names, str) else names:
            if name:
                repository, apart, inner = name.rpartition("--")
                yield repository if apart else located, f"{inner.rpartition('.')[0]}.py"


def _beside(content: bytes, module: PurePosixPath) -> Iterator[str]:
    """Files of the same repository that a module imports."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = module.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        start = folder.joinpath(*node.module.split(".")) if node.module else folder
        for place in [start, *(start / alias.name for alias in node.names)]:
            if place.name:
                yield f"{place}.py"
            yield f"{place}/__init__.py"
