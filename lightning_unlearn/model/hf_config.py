"""What the configuration of a causal LM says of it."""

from pathlib import Path
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.model_files import locate
from lightning_unlearn.model.weights_check import ADAPTER, adapter_error, check_json, find_file

SETTINGS = ("config.json", "generation_config.json")
# Characters of a library's message that are passed on.
_LONGEST = 300


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
            f"{key}: found {name!r}, which is no model that can be opened: {reason_of(error)}"
        ) from error


def context_length(config: Any) -> int:
    """Return the longest sequence that a model takes, in tokens."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or 2**20)


def vocabulary_size(config: Any) -> int | None:
    """Return the rows of a model's embedding, one for each token id; None if it does not say."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def reason_of(error: Exception) -> str:
    """The first line of a library's message: the rest is advice about its own arguments."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    if lines[0].endswith(":") and len(lines) > 1:
        lines[0] += f" {lines[1]}"
    # Of some the message is only a value, such as a key.
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + (lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][:_LONGEST]} ...")
