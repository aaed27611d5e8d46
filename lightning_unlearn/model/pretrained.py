"""PretrainedModel: a base model on disk or on the hub; loading of causal LMs and tokenizers."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.errors import InputError
from lightning_unlearn.model import hf_config
from lightning_unlearn.model.adapters import Adapters
from lightning_unlearn.model.base_dropout import switch_off
from lightning_unlearn.model.given_adapters import find_given
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
    """A base model on disk or on the hub, without its weights in memory.

    Args:
        settings: settings with the name of the model and the way of loading.

    Attributes:
        settings: settings of the model; ``base`` is never an adapter.
        given: adapters from which ``learn`` starts; None for a new adapter.
        config: configuration of the model, with dropout set to zero.
        dropout: dropout in the configuration before that.

    Raises:
        InputError: if there is no such model, or if its quantization is not possible.
    """

    def __init__(self, settings: ModelSettings) -> None:
        quiet_transformers()
        self.settings, self.given = find_given(settings)
        settings = self.settings
        self.config = load_config(settings.base, settings.trust_remote_code)
        self.dropout = switch_off(self.config)
        has_adapters = settings.lora is not None
        check_base(settings.quantization, settings.base, self.config, has_adapters)
        self._tokenizer: Any = None
        self._fingerprint: str | None = None

    @property
    def name(self) -> str:
        """Name of the model: a folder, ``demo:NAME``, or a hub name."""
        return self.settings.base

    @property
    def location(self) -> str:
        """The argument of ``from_pretrained``."""
        return locate(self.name, "model.base")

    @property
    def context_length(self) -> int:
        """The longest sequence that the model supports, in tokens."""
        return hf_config.context_length(self.config)

    @property
    def vocabulary_size(self) -> int | None:
        """Number of rows of the embedding, one per token id; None if it is not in the config."""
        return hf_config.vocabulary_size(self.config)

    def tokenizer(self) -> Any:
        """Return the model's tokenizer, the same object each time."""
        if self._tokenizer is None:
            own = self.given.tokenizer if self.given is not None else None
            trusts = self.settings.trust_remote_code
            self._tokenizer = load_tokenizer(self.name, trusts, located=own)
        return self._tokenizer

    def fingerprint(self) -> str:
        """Return a hash of the model's configuration, weights and own code."""
        if self._fingerprint is None:
            self._fingerprint = model_fingerprint(self.name, self.settings.trust_remote_code)
        return self._fingerprint

    def check_files(self, dtype: torch.dtype, numbers: bool = False) -> None:
        """Refuse a model whose files lack weights or contain others, without loading it.

        Args:
            dtype: dtype of the weights after loading.
            numbers: also read the weights, and refuse those that are not finite.

        Raises:
            InputError: with the names of the weights.
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
        if numbers and self.given is not None:
            self.given.check_values(weight_files(self.name))

    def attach_adapters(self, hf_model: Any, base_name: str) -> Adapters:
        """Put the adapters ``learn`` and ``unlearn`` on a model of this architecture.

        Args:
            hf_model: a Hugging Face causal LM; its layers are replaced in place.
            base_name: see `Adapters.attach`.

        Returns:
            The adapters. ``learn`` has the shape of the given adapter, if there is one.

        Raises:
            InputError: if they do not fit the model.
        """
        assert self.settings.lora is not None
        learn = self.given.lora_config() if self.given is not None else None
        return Adapters.attach(hf_model, self.settings.lora, base_name, learn)

    def open(self, placement: Placement) -> Any:
        """Load the base model, quantized if the settings require it.

        Args:
            placement: placement with precision and device.

        Returns:
            The Hugging Face model.
        """
        if self.settings.quantization is None:
            return self.load(placement.weight_dtype)
        options = loading_options(placement.precision, placement.root_device)
        hf_model = self.load(placement.weight_dtype, **options)
        keep_packed(hf_model)
        return hf_model

    def load(self, dtype: torch.dtype, name: str | None = None, **options: Any) -> Any:
        """Load a causal LM of this architecture with the weights of a folder.

        Args:
            dtype: dtype of the weights.
            name: folder, ``demo:NAME``, or hub name; None for the base model.
            options: further arguments of ``from_pretrained``.

        Returns:
            The Hugging Face model, in eval mode.

        Raises:
            InputError: if it cannot be loaded, or its files do not match its weights.
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
        """Load the weights of a folder into a model; each process reads only its own shard.

        Args:
            hf_model: a model of this architecture.
            placement: placement of the model.
            name: folder, ``demo:NAME``, or hub name; None for the base model.

        Raises:
            InputError: see `load`.
        """
        dtype = placement.weight_dtype
        if not placement.is_sharded:
            # Load on the CPU: Lightning would create a second model on the model's device.
            with torch.device("cpu"):
                hf_model.load_state_dict(self.load(dtype, name).state_dict())
            return
        # Check all files first: a process that reads only its shard does not see other faults.
        self.load(dtype, name, device_map="meta")
        load_sharded_weights(
            hf_model,
            self.name if name is None else name,
            lambda: self.load(dtype, name).state_dict(),
            placement.warn,
        )

    def empty(self, dtype: torch.dtype) -> Any:
        """Create the model without memory for its weights, on the meta device.

        Args:
            dtype: dtype of the weights.

        Returns:
            The Hugging Face model.

        Raises:
            InputError: if the model cannot be created, such as with this attention implementation.
        """
        settings = self.settings
        return empty_causal_lm(
            self.config, dtype, settings.attn_implementation, settings.trust_remote_code
        )


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


def load_tokenizer(
    name: str, trust_remote_code: bool, key: str = "model.base", located: str | None = None
) -> Any:
    """Load the tokenizer of a model.

    Args:
        name: folder, ``demo:NAME``, or hub name.
        trust_remote_code: run code that comes with the model.
        key: YAML key, for messages.
        located: folder or hub name of an adapter with its own tokenizer; None for the model's.

    Raises:
        InputError: if there is no valid one.
    """
    from transformers import AutoTokenizer

    located = locate(name, key) if located is None else located
    check_json(Path(located), OF_TOKENIZER, key)
    try:
        return AutoTokenizer.from_pretrained(located, trust_remote_code=trust_remote_code)
    except Exception as error:  # A wrong value in its files may raise anything.
        raise InputError(
            f"{key}: found {name!r}, which has no tokenizer that can be loaded: {reason_of(error)}"
        ) from error


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
            f"{reason_of(error)}"
        ) from error


def quiet_transformers() -> None:
    """Silence loading bars and log lines of transformers and related libraries."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # On some CPUs it proposes a package that is not needed here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
