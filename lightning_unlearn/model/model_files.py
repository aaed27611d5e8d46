"""The files of a base model: where they are, which weight is in which, and their fingerprint."""

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
    """Where a model is: a folder for paths and embedded names, the name itself for the hub.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        key: YAML key, for messages.

    Returns:
        What ``from_pretrained`` takes.

    Raises:
        InputError: if it looks like a path and is no folder with a model.
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
            f"{key}: found {name!r}, which is no folder, expected a Hugging Face model folder, a "
            "hub name such as meta-llama/Llama-3.2-1B, or demo:tiny-llama."
        )
    return name


def weight_files(name: str, key: str = "model.base") -> dict[str, Path]:
    """Which file of a model holds which weight.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        key: YAML key, for messages.

    Raises:
        InputError: if a file is missing, or is no safetensors file.
    """
    located = locate(name, key)
    # In the order in which transformers looks for them.
    if (single := find_file(located, WEIGHTS)) is not None:
        with opened(single, key) as weights:
            return dict.fromkeys(weights.keys(), single)
    if (index := find_file(located, INDEX)) is None:
        raise InputError(
            f"{key}: found {name!r} without {WEIGHTS} and without {INDEX}, expected weights as "
            "safetensors (of a hub name: and a connection to the hub)."
        )
    files: dict[str, Path] = {}
    names = read_index(index, key)
    for file in sorted(set(names.values())):
        found = find_file(located, file)
        if found is None:
            raise InputError(
                f"{key}: {name}: found no {file}, which {INDEX} names; download the model again."
            )
        with opened(found, key) as weights:
            held = set(weights.keys())
        if absent := sorted(n for n, place in names.items() if place == file and n not in held):
            raise InputError(
                f"{key}: {name}: found no {absent[0]} in {file}, where {INDEX} says it is; "
                "download the model again."
            )
        files |= dict.fromkeys(held, found)
    return files


def model_fingerprint(name: str, trust_remote_code: bool) -> str:
    """Hash of a model's configuration, weights and own code, for the stage store's key.

    Two names of the same files have one fingerprint; a file that was trained further has another.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        trust_remote_code: as the model is loaded; if so, its code counts.

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
    """A configuration without the keys that only say who wrote the file."""
    values: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if k not in ("_name_or_path", "transformers_version")}


def _hash_weights(file: Path, digest: Any) -> None:
    # In the hub's cache a file is a link to a blob that is named by its own SHA-256.
    name = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        digest.update(name.encode())
        return
    with file.open("rb") as handle:
        while block := handle.read(2**22):
            digest.update(block)
