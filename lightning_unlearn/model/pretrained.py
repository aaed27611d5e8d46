"""PretrainedModel: the base model on disk or on the hub; and how causal LMs are loaded."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.errors import InputError
from lightning_unlearn.model import hf_config
from lightning_unlearn.model.base_dropout import switch_off
from lightning_unlearn.model.hf_config import load_config, reason_of
from lightning_unlearn.model.model_files import locate, model_fingerprint, weight_files
from lightning_unlearn.model.quantization import check_base, keep_packed, loading_options
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.model.sharded_loading import load_sharded_weights
from lightning_unlearn.model.weights_check import (
    check_depth,
    check_json,
    check_loaded,
    check_numbers,
    without_masks,
)

OF_TOKENIZER = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)


class PretrainedModel:
    """The base model as it is on disk or on the hub; holds no weights.

    Args:
        settings: name the model, and say how it is loaded.

    Attributes:
        settings: as given.
        config: the model's configuration, with dropout set to zero.
        dropout: the dropout that the configuration had.

    Raises:
        InputError: if there is no such model, or if it cannot be quantized as the settings say.
    """

    def __init__(self, settings: ModelSettings) -> None:
        quiet_transformers()
        self.settings = settings
        self.config = load_config(settings.base, settings.trust_remote_code)
        self.dropout = switch_off(self.config)
        has_adapters = settings.lora is not None
        check_base(settings.quantization, settings.base, self.config, has_adapters)
        self._tokenizer: Any = None
        self._fingerprint: str | None = None

    @property
    def name(self) -> str:
        """The model's name: a folder, ``demo:NAME``, or a hub name."""
        return self.settings.base

    @property
    def location(self) -> str:
        """The name that ``from_pretrained`` takes."""
        return locate(self.name, "model.base")

    @property
    def context_length(self) -> int:
        """The longest sequence that the model takes, in tokens."""
        return hf_config.context_length(self.config)

    @property
    def vocabulary_size(self) -> int | None:
        """Rows of the model's embedding, one for each token id; None if it does not say."""
        return hf_config.vocabulary_size(self.config)

    def tokenizer(self) -> Any:
        """Return the model's tokenizer, the same object each time."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.name, self.settings.trust_remote_code)
        return self._tokenizer

    def fingerprint(self) -> str:
        """Return a hash of the model's configuration and weights."""
        if self._fingerprint is None:
            self._fingerprint = model_fingerprint(self.name, self.settings.trust_remote_code)
        return self._fingerprint

    def check_files(self, dtype: torch.dtype, numbers: bool = False) -> None:
        """Refuse a model whose files do not hold its weights, without loading it.

        Args:
            dtype: the type in which the weights are going to be.
            numbers: read all weights, and refuse those that are not finite; else only their names
                and shapes.

        Raises:
            InputError: naming the weights.
        """
        settings = self.settings
        check_weights(
            self.name,
            self.config,
            dtype,
            settings.attn_implementation,
            settings.trust_remote_code,
            numbers,
        )

    def open(self, placement: Placement) -> Any:
        """Return the base model with its weights, quantized if the settings say so.

        Args:
            placement: gives precision and device.
        """
        if self.settings.quantization is None:
            return self.load(placement.weight_dtype)
        options = loading_options(placement.precision, placement.root_device)
        hf_model = self.load(placement.weight_dtype, **options)
        keep_packed(hf_model)
        return hf_model

    def load(self, dtype: torch.dtype, name: str | None = None, **options: Any) -> Any:
        """Return a causal LM of this architecture with the weights of a folder.

        Args:
            dtype: of the weights.
            name: folder, ``demo:NAME``, or hub name; None for the base model.
            options: further ones of ``from_pretrained``.

        Raises:
            InputError: if it cannot be opened, or its files do not hold its weights.
        """
        name = self.name if name is None else name
        return load_causal_lm(
            name,
            dtype,
            self.settings.attn_implementation,
            self.settings.trust_remote_code,
            "model.base" if name == self.name else "trainer.store",
            **{"config": self.config, **options},
        )

    def load_into(self, hf_model: Any, placement: Placement, name: str | None = None) -> None:
        """Give a model the weights of a folder; of a sharded one each process reads its own part.

        Args:
            hf_model: of this architecture.
            placement: of the model.
            name: folder, ``demo:NAME``, or hub name; None for the base model.

        Raises:
            InputError: as of `load`.
        """
        dtype = placement.weight_dtype
        if not placement.is_sharded:
            # Not on the model's device, where Lightning would have a second one made.
            with torch.device("cpu"):
                hf_model.load_state_dict(self.load(dtype, name).state_dict())
            return
        # Refuse the whole model first: a process that reads its part sees no other one.
        self.load(dtype, name, device_map="meta")
        load_sharded_weights(
            hf_model,
            self.name if name is None else name,
            lambda: self.load(dtype, name).state_dict(),
            placement.warn,
        )

    def empty(self, dtype: torch.dtype) -> Any:
        """Return the model without memory for its weights, on the meta device.

        Args:
            dtype: of the weights.

        Raises:
            InputError: if it does not take the settings' implementation of attention.
        """
        settings = self.settings
        return empty_causal_lm(
            self.config, dtype, settings.attn_implementation, settings.trust_remote_code
        )


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
            f"{key}: found {name!r}, which has no tokenizer that can be opened: {reason_of(error)}"
        ) from error


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
            f"{reason_of(error)}"
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
            f"{reason_of(error)}"
        ) from error


def quiet_transformers() -> None:
    """Keep loading bars and notes of transformers and its kin out of the progress display."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # On some CPUs it asks for a package that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
