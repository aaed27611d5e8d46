"""Base models and tokenizers from a path, an embedded name or the Hugging Face hub."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.demo import resolve
from lightning_unlearn.errors import InputError


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
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def load_config(name: str, trust_remote_code: bool, key: str = "model.base") -> Any:
    """The configuration of a model, without its weights.

    Raises:
        InputError: if there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(name, key), trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{key}: found {name!r}, which is no model that can be opened: {_reason(error)}"
        ) from None


def load_tokenizer(name: str, trust_remote_code: bool, key: str = "model.base") -> Any:
    """The tokenizer of a model.

    Raises:
        InputError: if there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(locate(name, key), trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{key}: found {name!r}, which has no tokenizer that can be opened: {_reason(error)}"
        ) from None


def load_causal_lm(
    name: str,
    dtype: torch.dtype,
    attention: str,
    trust_remote_code: bool,
    key: str = "model.base",
    **options: Any,
) -> Any:
    """A causal LM from safetensors, never from pickled weights.

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
        InputError: if it can't be opened.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            locate(name, key),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **options,
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{key}: found {name!r}, which can't be opened as a causal language model: "
            f"{_reason(error)}"
        ) from None


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
    except (ValueError, ImportError) as error:
        raise InputError(
            f"model.base, with model.attention {attention}: the model can't be made: "
            f"{_reason(error)}"
        ) from None


def base_identity(name: str, trust_remote_code: bool) -> str:
    """Hash of a model's configuration and weights, for the stage store's key.

    Two names of the same files have one identity; a file that was trained further has another.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        trust_remote_code: as the model is loaded.

    Returns:
        Hexadecimal digest.
    """
    from transformers.utils import cached_file

    located = locate(name, "model.base")
    config = cached_file(located, "config.json")
    assert config is not None
    folder = Path(config).parent
    if not any(folder.glob("*.safetensors")):
        # A hub model whose weights are not there yet: fetch what from_pretrained would fetch.
        load_causal_lm(name, torch.float32, "sdpa", trust_remote_code)
    digest = hashlib.sha256()
    digest.update(json.dumps(_architecture(folder / "config.json"), sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        _hash_weights(file, digest)
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
