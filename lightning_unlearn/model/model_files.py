"""The files of a base model: their location, the file of each weight, and their fingerprint."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lightning_unlearn.demo import resolve
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.remote_code import remote_code_identity
from lightning_unlearn.model.weights_check import (
    ADAPTER,
    INDEX,
    WEIGHTS,
    adapter_error,
    find_file,
    opened,
    read_index,
)


def locate(name: str, key: str) -> str:
    """Find a model: a folder for paths and embedded names, the name itself for the hub.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        key: YAML key, for messages.

    Returns:
        The argument of ``from_pretrained``.

    Raises:
        InputError: if the name looks like a path and is not a folder with a model.
    """
    if name.startswith("demo:"):
        try:
            return str(resolve(name))
        except ValueError as error:
            raise InputError(f"{key}: {error}") from None
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            if (folder / ADAPTER).is_file():
                raise adapter_error(name, key, has_model=False)
            raise InputError(
                f"{key}: found the folder {name} without config.json, expected a Hugging Face "
                "model folder (config.json, model.safetensors, tokenizer.json)."
            )
        return str(folder)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists()
    if looks_like_path or not name:
        raise InputError(
            f"{key}: found {name!r}, which is not a folder, expected a Hugging Face model folder, "
            "a hub name such as meta-llama/Llama-3.2-1B, or demo:tiny-llama."
        )
    return name


def weight_files(name: str, key: str = "model.base") -> dict[str, Path]:
    """Find the file of each weight of a model.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        key: YAML key, for messages.

    Returns:
        Files by name of the weight.

    Raises:
        InputError: if a file is missing, or is not a safetensors file.
    """
    located = locate(name, key)
    # The same order of search as in transformers.
    if (single := find_file(located, WEIGHTS)) is not None:
        with opened(single, key) as weights:
            return dict.fromkeys(weights.keys(), single)
    if (index := find_file(located, INDEX)) is None:
        raise InputError(
            f"{key}: found {name!r} without {WEIGHTS} and without {INDEX}, expected weights as "
            "safetensors (for a hub name, also check the connection to the hub)."
        )
    files: dict[str, Path] = {}
    names = read_index(index, key)
    for file in sorted(set(names.values())):
        found = find_file(located, file)
        if found is None:
            raise InputError(
                f"{key}: {name}: found no {file}, which {INDEX} lists; download the model again."
            )
        with opened(found, key) as weights:
            held = set(weights.keys())
        if absent := sorted(n for n, place in names.items() if place == file and n not in held):
            raise InputError(
                f"{key}: {name}: found no {absent[0]} in {file}, where {INDEX} lists it; "
                "download the model again."
            )
        files |= dict.fromkeys(held, found)
    return files


def model_fingerprint(name: str, trust_remote_code: bool) -> str:
    """Hash a model's configuration, weights and own code, for the key of the stage store.

    Two names of the same files have one fingerprint; a model that was trained further has another.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        trust_remote_code: whether the model is loaded with its own code, which is then hashed too.

    Returns:
        Hexadecimal digest.
    """
    located = locate(name, "model.base")
    files = weight_files(name)
    config = find_file(located, "config.json")
    assert config is not None, "load_config() comes first"
    digest = hashlib.sha256()
    digest.update(json.dumps(_architecture(config), sort_keys=True).encode())
    for file in sorted(set(files.values())):
        digest.update(file.name.encode())
        _hash_weights(file, digest)
    if trust_remote_code:
        digest.update(remote_code_identity(located).encode())
    return digest.hexdigest()


def _architecture(config: Path) -> dict[str, Any]:
    """Read a configuration without the keys that only describe the writer of the file."""
    values: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("_name_or_path", "transformers_version")}


def _hash_weights(file: Path, digest: Any) -> None:
    # In the cache of the hub, a file is a link to a blob whose name is its SHA-256.
    name = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        digest.update(name.encode())
        return
    with file.open("rb") as handle:
        while block := handle.read(2**22):
            digest.update(block)
