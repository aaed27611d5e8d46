"""Load base models and tokenizers from a path, an embedded name or the Hugging Face hub."""

import copy
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.demo import resolve
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.remote_code import remote_code_identity
from lightning_unlearn.model.weights_check import (
    ADAPTER,
    INDEX,
    WEIGHTS,
    adapter_error,
    check_depth,
    check_json,
    check_loaded,
    check_numbers,
    find_file,
    opened,
    read_index,
    without_masks,
)

SETTINGS = ("config.json", "generation_config.json")
OF_TOKENIZER = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)

# Longest part of a library's message that is shown, in characters.
_LONGEST = 300


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


def _reason(error: Exception) -> str:
    """Return the first line of a library's message; further lines explain its own arguments."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:
        lines[0] += f" {lines[1]}"
    # Some messages are only a value, such as a key; then the type is needed.
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + (lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][:_LONGEST]} ...")


def _refuse_attention(error: Exception, attention: str, name: str) -> None:
    """Explain the error of a model that does not have the requested attention implementation.

    Raises:
        InputError: if that is the error.
    """
    text = str(error)
    if attention != "eager" and "does not support" in text and "attention" in text.lower():
        raise InputError(
            f"model.attn_implementation: found {attention}, which the model {name} "
            f"({text.split()[0]}) does not support, expected another. Set "
            "model.attn_implementation: eager."
        ) from error


def load_config(name: str, trust_remote_code: bool, key: str = "model.base") -> Any:
    """Load the configuration of a model, without its weights.

    Raises:
        InputError: if there is no valid one, or an adapter in the same folder.
    """
    from transformers import AutoConfig

    located = locate(name, key)
    check_json(Path(located), SETTINGS, key)
    try:
        if find_file(located, ADAPTER) is not None:
            raise adapter_error(name, key, find_file(located, "config.json") is not None)
        return AutoConfig.from_pretrained(located, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except Exception as error:  # A wrong value in config.json may raise anything.
        raise InputError(
            f"{key}: found {name!r}, whose configuration can't be loaded: {_reason(error)}"
        ) from error


def load_tokenizer(name: str, trust_remote_code: bool, key: str = "model.base") -> Any:
    """Load the tokenizer of a model.

    Raises:
        InputError: if there is no valid one.
    """
    from transformers import AutoTokenizer

    located = locate(name, key)
    check_json(Path(located), OF_TOKENIZER, key)
    try:
        return AutoTokenizer.from_pretrained(located, trust_remote_code=trust_remote_code)
    except Exception as error:  # A wrong value in its files may raise anything.
        raise InputError(
            f"{key}: found {name!r}, which has no tokenizer that can be loaded: {_reason(error)}"
        ) from error


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


def check_weights(
    name: str,
    config: Any,
    dtype: torch.dtype,
    attention: str,
    trust_remote_code: bool,
    numbers: bool,
) -> None:
    """Refuse a model whose files lack weights or contain others.

    It reads names and shapes, and matches them to the model in the same way as transformers.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        config: configuration of the model.
        dtype: dtype of the weights.
        attention: see `load_causal_lm`.
        trust_remote_code: see `load_causal_lm`.
        numbers: also read the weights, and refuse those that are not finite.

    Raises:
        InputError: with the names of the weights.
    """
    files = weight_files(name)
    check_depth(config, len(files), name, "model.base")
    load_causal_lm(name, dtype, attention, trust_remote_code, config=config, device_map="meta")
    if numbers:
        check_numbers(files, dtype, name, "model.base")


def load_causal_lm(
    name: str,
    dtype: torch.dtype,
    attention: str,
    trust_remote_code: bool,
    key: str = "model.base",
    **options: Any,
) -> Any:
    """Load a causal LM from safetensors: no pickled weights, and no random numbers.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        dtype: dtype of the weights.
        attention: "sdpa", "eager" or another implementation of transformers.
        trust_remote_code: run code that comes with the model.
        key: YAML key, for messages.
        options: further arguments of ``from_pretrained``.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: if it cannot be loaded, or its files do not match its weights.
    """
    from transformers import AutoModelForCausalLM

    located = locate(name, key)
    try:
        lm, info = AutoModelForCausalLM.from_pretrained(
            located,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            # check_loaded() refuses them below, with their names.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # Wrong values in config.json or the files may raise anything.
        _refuse_attention(error, attention, name)
        raise InputError(
            f"{key}: found {name!r}, which can't be loaded as a causal language model: "
            f"{_reason(error)}"
        ) from error
    if info["unexpected_keys"]:
        files = weight_files(name, key)
        info["unexpected_keys"] = without_masks(info["unexpected_keys"], files, key)
    check_loaded(info, lm.config, name, key)
    return lm


def empty_causal_lm(
    config: Any, dtype: torch.dtype, attention: str, trust_remote_code: bool
) -> Any:
    """Create a causal LM without memory for its weights.

    Args:
        config: configuration of the model; it is not modified.
        dtype: dtype of the weights.
        attention: see `load_causal_lm`.
        trust_remote_code: run code that comes with the model.

    Returns:
        The model, on the meta device.

    Raises:
        InputError: if the model cannot be created, such as with this attention implementation.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                copy.deepcopy(config),
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:  # Wrong values in config.json may raise anything.
        _refuse_attention(error, attention, config.name_or_path)
        raise InputError(
            f"model.base, with model.attn_implementation {attention}: the model can't be created: "
            f"{_reason(error)}"
        ) from error


def base_identity(name: str, trust_remote_code: bool) -> str:
    """Hash a model's configuration, weights and own code, for the key of the stage store.

    Two names of the same files have one identity; a model that was trained further has another.

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


def quiet_transformers() -> None:
    """Silence loading bars and log lines of transformers and related libraries."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # On some CPUs it proposes a package that is not needed here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
