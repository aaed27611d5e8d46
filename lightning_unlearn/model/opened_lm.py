"""A language model that is opened: the base from disk, adapters on it, and whatever cuts it up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from typing_extensions import Self

from lightning_unlearn.distributed import sharding
from lightning_unlearn.distributed.tensor_parallel import (
    check_adapted_layers,
    check_tensor_parallel,
)
from lightning_unlearn.errors import InputError
from lightning_unlearn.model import adapters, base_dropout, lora_targets
from lightning_unlearn.model.adapters import LEARN, LoRA
from lightning_unlearn.model.attention import check_attention, fuse_in_fp32
from lightning_unlearn.model.compat import compute_experts_in_fp64, enable_gradient_checkpointing
from lightning_unlearn.model.compiling import check_compiling, compile_layers
from lightning_unlearn.model.decoder import decoder_layers
from lightning_unlearn.model.log_probs import at_least_fp32
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.pretrained import (
    base_identity,
    check_weights,
    empty_causal_lm,
    load_causal_lm,
    load_tokenizer,
    locate,
)
from lightning_unlearn.model.quantization import (
    Quantization,
    check_quantization,
    loading_options,
    settle,
)
from lightning_unlearn.model.sharded_loading import load_sharded_weights

# Weights are in the Trainer's precision where it is a "true" one, else in fp32.
_DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


def dtype_of(precision: str) -> torch.dtype:
    """What the base model's weights are kept in.

    Args:
        precision: of the Trainer.
    """
    return _DTYPES.get(precision, torch.float32)


class OpenedLM(LightningModule):
    """The part of `CausalLM` that opens a model, and refuses what can't be opened."""

    base: str
    lora: LoRA | None
    quantization: Quantization | None
    gradient_checkpointing: bool
    attn_implementation: str
    compiles: bool
    trust_remote_code: bool
    model_config: Any
    dropout: base_dropout.Settings
    net: LogProbModel | None
    peft: Any
    _tokenizer: Any
    _identity: str | None
    _fits: bool
    _looked: set[bool]
    _left: list[str]
    _stays: bool

    @contextmanager
    def staying(self) -> Iterator[None]:
        """Stay on the device, whence a Trainer moves a model at the end of every fit.

        The next stage would only bring it back: 28 GB each way for 14 billion weights in 16 bits.
        """
        self._stays = True
        try:
            yield
        finally:
            self._stays = False

    def cpu(self) -> Self:
        """Move to the computer's own memory; parts of one that is cut up stay."""
        return self if self._stays or self.is_sharded else super().cpu()

    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.base, self.trust_remote_code)
        return self._tokenizer

    @property
    def context(self) -> int:
        """Longest sequence the base model takes, in tokens."""
        text = self.model_config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or 2**20)

    @property
    def vocabulary(self) -> int | None:
        """Rows of the base model's embedding, one for each token id; None if it does not say."""
        size = getattr(self.model_config.get_text_config(), "vocab_size", None)
        return size if isinstance(size, int) else None

    def check_weights(self, precision: str, numbers: bool = False) -> None:
        """Refuse a base model whose files do not hold its weights, without opening it.

        Args:
            precision: of the Trainer.
            numbers: read all weights, and refuse those that are not finite; else only their names
                and shapes.

        Raises:
            InputError: naming the weights.
        """
        if self.net is None and numbers not in self._looked:
            check_weights(
                self.base,
                self.model_config,
                dtype_of(precision),
                self.attn_implementation,
                self.trust_remote_code,
                numbers,
            )
            self._looked.add(numbers)

    def check_adapters(self) -> None:
        """Refuse adapters that do not fit the model, without loading its weights.

        Raises:
            InputError: if the targets match nothing, or the rank is higher than any layer's.
        """
        if self.lora is None or self._fits:
            return
        lm = self._empty_lm()
        adapters.add_adapters(lm, self.lora, lm.name_or_path)
        if self.lora.target_modules == lora_targets.ALL:
            self._left = lora_targets.remark(lm)
        self._fits = True

    def remarks(self) -> list[str]:
        """What the user should know of the model; see `check_adapters`."""
        return base_dropout.remark(self.base, self.dropout) + self._left

    def check_device(self, precision: str, device: torch.device) -> None:
        """Refuse settings that can't be used on a device.

        Args:
            precision: of the Trainer.
            device: of this process.

        Raises:
            InputError: naming what is missing.
        """
        check_attention(self.attn_implementation, precision, device, self.trust_remote_code)
        if self.compiles:
            check_compiling(device)

    def check_layers(self, names: list[str] | None, tensor_parallel_size: int = 1) -> None:
        """Refuse to cut up a model whose layers can't be found or shared out; loads no weights.

        Args:
            names: of the classes of decoder layers, as of `FSDP2`.
            tensor_parallel_size: processes that share a layer.

        Raises:
            InputError: naming what there is.
        """
        lm = self._empty_lm()
        decoder_layers(lm, names)
        if tensor_parallel_size > 1:
            if self.compiles:
                raise InputError(
                    "model.compile: found true with tensor_parallel_size "
                    f"{tensor_parallel_size}, expected false, or 1."
                )
            dropout = None if self.lora is None else self.lora.dropout
            check_tensor_parallel(lm.config, dropout, tensor_parallel_size)
            assert self.lora is not None
            adapters.add_adapters(lm, self.lora, lm.name_or_path)
            check_adapted_layers(lm)

    def check_quantization(self, trainer: Any) -> None:
        """Refuse to quantize where it can't be done; loads no weights.

        Args:
            trainer: gives precision and strategy.

        Raises:
            InputError: naming what is in the way.
        """
        if self.quantization is not None:
            if self.compiles:
                raise InputError(
                    f"model.compile: found true with model.quantization {self.quantization}, "
                    "expected false."
                )
            check_quantization(self._empty_lm(), str(trainer.precision), trainer.strategy)

    def identity(self) -> str:
        """Hash of the base model's configuration and weights."""
        if self._identity is None:
            self._identity = base_identity(self.base, self.trust_remote_code)
        return self._identity

    def _build(self) -> None:
        lm = self._empty_lm() if self.is_sharded else self._open()
        lm.config.use_cache = False
        if silenced := base_dropout.silence(lm):
            self.warn(
                f"model.base: dropout of {len(silenced)} layers ({silenced[0]}), which is not in "
                "config.json, is set to zero."
            )
        if self._weight_dtype() == torch.float64:
            compute_experts_in_fp64(lm)
        if self.attn_implementation == "sdpa":
            fuse_in_fp32(lm)
        if self.gradient_checkpointing:
            enable_gradient_checkpointing(lm)
        if self.lora is not None:
            name = locate(self.base, "model.base")
            peft_model = adapters.add_adapters(lm, self.lora, name)
            adapters.choose_adapters(peft_model, [LEARN], LEARN)
            # Kept out of the module tree: its layers are lm's own.
            object.__setattr__(self, "peft", peft_model)
        net = LogProbModel(lm, self.compiles)
        if self.is_sharded:
            assert self._device_mesh is not None
            strategy = self.trainer.strategy
            layers = decoder_layers(lm, getattr(strategy, "layer_classes", None))
            sharding.shard(net, lm, layers, self._device_mesh, strategy, at_least_fp32(lm.dtype))
            self._fill(net, lm)
        if self.compiles:
            names = getattr(self._strategy, "layer_classes", None)
            compile_layers(decoder_layers(lm, names))
        self.net = net

    def _fill(self, net: LogProbModel, lm: Any) -> None:
        """Give a model that is cut up its memory, and of the base weights this process's part."""
        away = getattr(self.trainer.strategy, "cpu_offload", False)
        device = torch.device("cpu") if away else self.trainer.strategy.root_device
        sharding.materialize(net, lm, device)
        self._load_parts(lm, self.base)

    def _open(self) -> Any:
        """The base model as it is computed with."""
        if self.quantization is None:
            return self._load(self.base)
        strategy = self._strategy
        device = strategy.root_device if strategy is not None else torch.device("cpu")
        lm = self._load(self.base, **loading_options(self._precision(), device))
        settle(lm)
        return lm

    def _empty_lm(self) -> Any:
        """The base model without memory for its weights."""
        return empty_causal_lm(
            self.model_config,
            self._weight_dtype(),
            self.attn_implementation,
            self.trust_remote_code,
        )

    def _load_parts(self, lm: Any, name: str) -> None:
        """Fill a model that is cut up with the weights of one on disk."""
        # Whole or refused: who reads parts sees no others.
        self._load(name, device_map="meta")
        load_sharded_weights(lm, name, lambda: self._load(name).state_dict(), self.warn)

    def warn(self, text: str) -> None:
        """Print what must not be missed, on the first process, if there is a Trainer."""
        warn = getattr(self._trainer, "warn", None)
        if warn is not None and self.global_rank == 0:
            warn(text)

    def _load(self, name: str, **options: Any) -> Any:
        """A causal LM as this one is, whole, and not quantized unless options say so."""
        return load_causal_lm(
            name,
            self._weight_dtype(),
            self.attn_implementation,
            self.trust_remote_code,
            "model.base" if name == self.base else "trainer.store",
            **{"config": self.model_config, **options},
        )

    @property
    def _strategy(self) -> Any:
        return self._trainer.strategy if self._trainer is not None else None

    @property
    def is_sharded(self) -> bool:
        """Whether every process holds only a part of the model."""
        return self._device_mesh is not None

    def _weight_dtype(self) -> torch.dtype:
        return dtype_of(self._precision())

    def _precision(self) -> str:
        return str(self._trainer.precision) if self._trainer is not None else "32-true"

    @property
    def lm(self) -> Any:
        """The Hugging Face model with adapters injected."""
        assert self.net is not None, "configure_model() comes first"
        return self.net.lm
