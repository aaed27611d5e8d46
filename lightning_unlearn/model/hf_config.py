"""The configuration of a causal LM: loading it, and its context length and vocabulary size."""

from pathlib import Path
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.model_files import locate
from lightning_unlearn.model.weights_check import ADAPTER, adapter_error, check_json, find_file

SETTINGS = ("config.json", "generation_config.json")
# Longest part of a library's message that is shown, in characters.
_LONGEST = 300


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
            f"{key}: found {name!r}, whose configuration can't be loaded: {reason_of(error)}"
        ) from error


def context_length(config: Any) -> int:
    """Return the longest sequence that a model supports, in tokens."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or 2**20)


def vocabulary_size(config: Any) -> int | None:
    """Return the number of rows of a model's embedding; None if the configuration has none."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def reason_of(error: Exception) -> str:
    """Return the first line of a library's message; further lines explain its own arguments."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:
        lines[0] += f" {lines[1]}"
    # Some messages are only a value, such as a key; then the type is needed.
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + (lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][:_LONGEST]} ...")
