"""Hash the code that comes with a model."""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_unlearn.model.weights_check import find_file

# Entries of auto_map that are loaded: configuration, weights, tokenizer.
OPENED = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
CONFIGURATIONS = ("config.json", "tokenizer_config.json")


def remote_code_identity(located: str) -> str:
    """Hash the code that comes with a model and runs when the model is loaded.

    The code is the modules that ``auto_map`` in its configurations names; they may be in another
    repository of the hub. All modules that they import from their own repository belong to it too.

    Args:
        located: folder or hub name.

    Returns:
        Hexadecimal digest; "" for a model without code.
    """
    named = (find_file(located, name) for name in CONFIGURATIONS)
    waiting = [file for configuration in named for file in _named(configuration, located)]
    found: dict[tuple[str, str], str] = {}
    while waiting:
        repository, module = file = waiting.pop()
        if file in found:
            continue
        path = find_file(repository, module)
        if path is None:
            continue  # Loading the model reports the missing file.
        content = path.read_bytes()
        found[file] = hashlib.sha256(content).hexdigest()
        waiting += [(repository, name) for name in _imports(content, PurePosixPath(module))]
    # Omit the folder from the hash: two copies of the same files are the same model.
    parts = sorted(
        ("" if repository == located else repository, module, digest)
        for (repository, module), digest in found.items()
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest() if parts else ""


def _named(configuration: Path | None, located: str) -> Iterator[tuple[str, str]]:
    """Yield repository and file of the modules that a configuration names."""
    if configuration is None:
        return
    content = json.loads(configuration.read_text(encoding="utf-8"))
    chosen: Any = content.get("auto_map") or {} if isinstance(content, dict) else {}
    if not isinstance(chosen, dict):
        # Older tokenizers have only a list of class names.
        chosen = {"AutoTokenizer": chosen}
    for kind in OPENED:
        names = chosen.get(kind) or []
        for name in [names] if isinstance(names, str) else names:
            if name:
                repository, apart, inner = name.rpartition("--")
                yield repository if apart else located, f"{inner.rpartition('.')[0]}.py"


def _imports(content: bytes, module: PurePosixPath) -> Iterator[str]:
    """Yield the files of the same repository that a module may import."""
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
        for path in [start, *(start / alias.name for alias in node.names)]:
            if path.name:
                yield f"{path}.py"
            yield f"{path}/__init__.py"
