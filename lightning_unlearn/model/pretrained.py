"""Base models and tokenizers from a path, an embedded name or the Hugging Face hub."""

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

# Characters of a library's message that are passed on.
_LONGEST = 300


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


def _reason(error: Exception) -> str:
    """The first line of a library's message: the rest is advice about its own arguments."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:
        lines[0] += f" {lines[1]}"
    # Of some the message is only a value, such as a key.
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + (lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][:_LONGEST]} ...")


def _refuse_attention(error: Exception, attention: str, name: str) -> None:
    """Name the way out where a model has no such implementation of attention.

    Raises:
        InputError: in that case.
    """
    text = str(error)
    if attention != "eager" and "does not support" in text and "attention" in text.lower():
        raise InputError(
            f"model.attn_implementation: found {attention}, which the model {name} "
            f"({text.split()[0]}) does not have, expected another. Set "
            "model.attn_implementation: eager."
        ) from error


def load_config(name: str, trust_remote_code: bool, key: str = "model.base") -> Any:
    """The configuration of a model, without its weights.

    Raises:
        InputError: if there is none, or an adapter beside it.
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
    except Exception as error:  # whatever a wrong value in config.json leads to
        raise InputError(
            f"{key}: found {name!r}, which is no model that can be opened: {_reason(error)}"
        ) from error


def load_tokenizer(name: str, trust_remote_code: bool, key: str = "model.base") -> Any:
    """The tokenizer of a model.

    Raises:
        InputError: if there is none.
    """
    from transformers import AutoTokenizer

    located = locate(name, key)
    check_json(Path(located), OF_TOKENIZER, key)
    try:
        return AutoTokenizer.from_pretrained(located, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a wrong value in its files leads to
        raise InputError(
            f"{key}: found {name!r}, which has no tokenizer that can be opened: {_reason(error)}"
        ) from error


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


def check_weights(
    name: str,
    config: Any,
    dtype: torch.dtype,
    attention: str,
    trust_remote_code: bool,
    numbers: bool,
) -> None:
    """Refuse a model whose files do not hold all of its weights, and nothing else.

    Reads names and shapes, as transformers would fill the model with them.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        config: of the model.
        dtype: of the weights.
        attention: as of `load_causal_lm`.
        trust_remote_code: the same.
        numbers: also read the weights, and refuse those that are not finite.

    Raises:
        InputError: naming the weights.
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
    """A causal LM from safetensors, never from pickled weights, and never from random numbers.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        dtype: of the weights.
        attention: "sdpa", "eager" or another implementation of transformers.
        trust_remote_code: run code that comes with the model.
        key: YAML key, for messages.
        options: further ones of ``from_pretrained``.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: if it can't be opened, or its files do not hold its weights.
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
            # Told below, with their names.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever wrong values in config.json or the files lead to
        _refuse_attention(error, attention, name)
        raise InputError(
            f"{key}: found {name!r}, which can't be opened as a causal language model: "
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
    """A causal LM without memory for its weights.

    Args:
        config: of the model; left as it is.
        dtype: of the weights.
        attention: as of `load_causal_lm`.
        trust_remote_code: run code that comes with the model.

    Returns:
        The model, on the meta device.

    Raises:
        InputError: if it does not take the attention asked for.
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
    except Exception as error:  # whatever wrong values in config.json lead to
        _refuse_attention(error, attention, config.name_or_path)
        raise InputError(
            f"model.base, with model.attn_implementation {attention}: the model can't be made: "
            f"{_reason(error)}"
        ) from error


def base_identity(name: str, trust_remote_code: bool) -> str:
    """Hash of a model's configuration, weights and own code, for the stage store's key.

    Two names of the same files have one identity; a file that was trained further has another.

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


def quiet_transformers() -> None:
    """Keep loading bars and notes of transformers and its kin out of the progress display."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # On some CPUs it asks for a package that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
