"""ModelChecks: what can be found wrong with a model before its weights are loaded."""

from typing import Any

import torch

from lightning_unlearn.distributed.placement import weight_dtype
from lightning_unlearn.distributed.tensor_parallel import (
    check_adapted_layers,
    check_tensor_parallel,
)
from lightning_unlearn.errors import InputError
from lightning_unlearn.model import base_dropout, lora_targets
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.attention import check_attention
from lightning_unlearn.model.compiling import check_compiling
from lightning_unlearn.model.decoder import decoder_layers
from lightning_unlearn.model.pretrained import PretrainedModel
from lightning_unlearn.model.quantization import check_quantization
from lightning_unlearn.model.settings import ALL, ModelSettings


class ModelChecks:
    """Checks of a model's settings and files; each one loads no weights.

    A check that passed and costs time is not repeated.

    Args:
        settings: settings of the model.
        pretrained: the base model.
    """

    def __init__(self, settings: ModelSettings, pretrained: PretrainedModel) -> None:
        self._settings = settings
        self._pretrained = pretrained
        self._adapters_fit = False
        self._files_fit: set[bool] = set()
        self._untrained: list[str] = []

    def _empty(self) -> Any:
        # No check depends on the type of the weights.
        return self._pretrained.empty(torch.float32)

    def files(self, precision: str, numbers: bool = False) -> None:
        """Refuse a base model whose files do not hold its weights.

        Args:
            precision: precision of the Trainer.
            numbers: read all weights, and refuse those that are not finite; else only their names
                and shapes.

        Raises:
            InputError: naming the weights.
        """
        if numbers not in self._files_fit:
            self._pretrained.check_files(weight_dtype(precision), numbers)
            self._files_fit.add(numbers)

    def adapters(self) -> None:
        """Refuse adapters that do not fit the model.

        Raises:
            InputError: if the targets match nothing, or the rank is higher than any layer's.
        """
        lora = self._settings.lora
        if lora is None or self._adapters_fit:
            return
        hf_model, given = self._empty(), self._pretrained.given
        adapters = self._pretrained.attach_adapters(hf_model, hf_model.name_or_path)
        if given is not None:
            given.check_shapes(adapters.shapes(LEARN))
        if lora.target_modules == ALL:
            self._untrained = lora_targets.remark(hf_model)
        self._adapters_fit = True

    def notes(self) -> list[str]:
        """Return what the user should know about the model, as sentences; after `adapters`."""
        dropout = base_dropout.remark(self._settings.base, self._pretrained.dropout)
        given, lora = self._pretrained.given, self._settings.lora
        if given is None or lora is None:
            return dropout + self._untrained
        return dropout + self._untrained + given.notes(self._settings.base, lora.dropout)

    def device(self, precision: str, device: torch.device) -> None:
        """Refuse settings that cannot be used on a device.

        Args:
            precision: precision of the Trainer.
            device: of this process.

        Raises:
            InputError: naming what is missing.
        """
        settings = self._settings
        check_attention(settings.attn_implementation, precision, device, settings.trust_remote_code)
        if settings.compile:
            check_compiling(device)

    def layers(self, names: list[str] | None, tensor_parallel_size: int = 1) -> None:
        """Refuse to shard a model whose layers cannot be found or split.

        Args:
            names: names of the classes of decoder layers, see `FSDP2`.
            tensor_parallel_size: processes that share a layer.

        Raises:
            InputError: naming what there is.
        """
        hf_model, lora = self._empty(), self._settings.lora
        decoder_layers(hf_model, names)
        if tensor_parallel_size > 1:
            if self._settings.compile:
                raise InputError(
                    "model.compile: found true with tensor_parallel_size "
                    f"{tensor_parallel_size}, expected false, or 1."
                )
            dropout = None if lora is None else lora.dropout
            check_tensor_parallel(hf_model.config, dropout, tensor_parallel_size)
            self._pretrained.attach_adapters(hf_model, hf_model.name_or_path)
            check_adapted_layers(hf_model)

    def quantization(self, trainer: Any) -> None:
        """Refuse to quantize where it cannot be done.

        Args:
            trainer: gives precision and strategy.

        Raises:
            InputError: naming what is in the way.
        """
        settings = self._settings
        if settings.quantization is not None:
            if settings.compile:
                raise InputError(
                    f"model.compile: found true with model.quantization {settings.quantization}, "
                    "expected false."
                )
            check_quantization(self._empty(), str(trainer.precision), trainer.strategy)
