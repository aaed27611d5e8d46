"""ModelWeights: the weights that training changes, saved, loaded, reset, merged and swapped."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.distributed.tensors import full_tensor
from lightning_unlearn.model.adapters import LEARN, UNLEARN, Adapters
from lightning_unlearn.model.base_dropout import as_it_was
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.pretrained import PretrainedModel
from lightning_unlearn.model.quantization import dequantize_into


class ModelWeights:
    """The weights of a model: two adapters, or without adapters the whole model.

    Args:
        network: the model.
        adapters: its adapters; None if all weights are trained.
        pretrained: the base model.
        placement: placement of the model.

    Attributes:
        are_changed: whether weights of a model without adapters may differ from the base's.
    """

    def __init__(
        self,
        network: LogProbModel,
        adapters: Adapters | None,
        pretrained: PretrainedModel,
        placement: Placement,
    ) -> None:
        self.network = network
        self.adapters = adapters
        self.pretrained = pretrained
        self.placement = placement
        self.are_changed = False

    @property
    def _hf_model(self) -> Any:
        return self.network.hf_model

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """Return the weights that training changes; every process must call it.

        Args:
            name: "learn" or "unlearn"; without adapters both are the whole model.

        Returns:
            Full tensors on the CPU by name, in the first process; in others they may be missing.
        """
        if self.placement.rank and not self.placement.is_sharded:
            return {}
        if self.adapters is not None:
            return self.adapters.state_dict(name)
        # Tied weights by one of their names: apart they would be written twice.
        twice = set(dict(self._hf_model.named_parameters(remove_duplicate=False)))
        twice -= set(dict(self._hf_model.named_parameters()))
        state = {key: v for key, v in self._hf_model.state_dict().items() if key not in twice}
        parts = ((key, full_tensor(value.detach())) for key, value in state.items())
        return {key: value.cpu() for key, value in parts if self.placement.rank == 0}

    def save(self, name: str, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the weights that training changes.

        Args:
            name: "learn" or "unlearn"; without adapters both are the whole model.
            folder: made if missing. Gets a PEFT adapter, or a model if there are no adapters.
            weights: from `state_dict`; None to call it, which on several processes all must do.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.state_dict(name) if weights is None else weights
        if self.adapters is not None:
            self.adapters.save(name, folder, weights)
            return
        with as_it_was(self._hf_model.config, self.pretrained.dropout):
            self._hf_model.save_pretrained(folder, state_dict=weights)

    def load(self, name: str, folder: Path) -> None:
        """Load the weights that `save` wrote.

        Args:
            name: "learn" or "unlearn".
            folder: where `save` wrote.

        Raises:
            InputError: if they do not fit the model.
        """
        if self.adapters is not None:
            self.adapters.load(name, folder)
            return
        self.are_changed = True
        self.pretrained.load_into(self._hf_model, self.placement, str(folder))

    def reset(self, seed: int, after: str | None = None) -> None:
        """Restore the model from which runs start: the base, and the given adapter or a fresh one.

        Args:
            seed: seed of the run.
            after: name of a stage trained elsewhere, after which to take the given adapter; None
                for the last one.
        """
        if self.adapters is not None:
            self.adapters.reset(LEARN, seed)
            self.adapters.reset(UNLEARN, seed)
            if (given := self.pretrained.given) is not None:
                self.adapters.load_state_dict(LEARN, given.after(after), given.last.name)
        elif self.are_changed:
            self.pretrained.load_into(self._hf_model, self.placement)

    def save_merged(self, folder: Path, template: str | None = None) -> None:
        """Write the present model as a plain Hugging Face folder with its tokenizer.

        Every process must call it; the first one writes, and holds the full model in its memory.
        Of a quantized base the weights it computes with are written, adapters added, in the
        Trainer's precision: packed into 4 bits again they would be another model. If an adapter
        changes the embedding or the output projection alone, the two are no longer tied.

        Args:
            folder: made if missing; ``AutoModelForCausalLM.from_pretrained`` opens it.
            template: the chat template that it was trained with; None for the tokenizer's own.
        """
        merged = self._merged()
        if merged is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        use_cache, merged.config.use_cache = merged.config.use_cache, True
        with as_it_was(merged.config, self.pretrained.dropout):
            merged.save_pretrained(folder)
        merged.config.use_cache = use_cache
        tokenizer = copy.deepcopy(self.pretrained.tokenizer())
        if template is not None:
            tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)

    def _merged(self) -> Any:
        """The present model as a Hugging Face model without adapters; None in other processes."""
        adapters = self.adapters
        is_quantized = self.pretrained.settings.quantization is not None
        if self.placement.is_sharded or is_quantized:
            names = (LEARN,) if adapters is None else (LEARN, UNLEARN)
            weights = {name: self.state_dict(name) for name in names}
            return None if self.placement.rank else self._rebuilt(weights)
        if self.placement.rank:
            return None
        if adapters is None:
            return self._hf_model
        # On its device there may be no room for a second one.
        self.placement.move_to_cpu()
        return copy.deepcopy(adapters).merge(adapters.active)

    def _rebuilt(self, weights: dict[str, dict[str, Tensor]]) -> Any:
        """The base model loaded again, with the given weights, merged."""
        settings = self.pretrained.settings
        rebuilt = self.pretrained.load(self.placement.weight_dtype)
        if settings.quantization is not None:
            dequantize_into(rebuilt, self._hf_model)
        if self.adapters is None:
            _load_all(rebuilt, weights[LEARN])
            return rebuilt
        adapters = self.pretrained.attach_adapters(rebuilt, settings.base)
        for name, values in weights.items():
            if name == UNLEARN:
                adapters.exchange(name, values)
            else:
                adapters.load_state_dict(name, values)
        return adapters.merge(self.adapters.active)

    @property
    def has_frozen_head(self) -> bool:
        """Whether no stage trains the output projection, so `swapped` leaves it as it is."""
        if self.adapters is None:
            return False
        names = (name for name, _ in self._hf_model.get_output_embeddings().named_parameters())
        return not any("lora_" in name for name in names)

    @contextmanager
    def swapped(self, folder: Path | None, seed: int) -> Iterator[None]:
        """Load the weights of another stored model for a while, then restore the present ones.

        Args:
            folder: where `save` wrote "learn"; None for the base model.
            seed: seed of the run.
        """
        exchanged = None
        if self.adapters is None:
            present = self._hf_model.state_dict()
        else:
            exchanged = self.adapters.exchanged(UNLEARN)
            self.adapters.restore(UNLEARN)
            present = {
                key: parameter.detach()
                for name in (LEARN, UNLEARN)
                for key, parameter in self.adapters.parameters(name).items()
            }
        kept = {key: value.clone() for key, value in present.items()}
        try:
            self._load_other(folder, seed)
            yield
        finally:
            with torch.no_grad():
                for key, value in kept.items():
                    present[key].copy_(value)
            if exchanged is not None and self.adapters is not None:
                self.adapters.exchange(UNLEARN, exchanged)

    def _load_other(self, folder: Path | None, seed: int) -> None:
        if self.adapters is None:
            name = None if folder is None else str(folder)
            self.pretrained.load_into(self._hf_model, self.placement, name)
            return
        # Without effect, and A not 0: gradients are those of the base model too.
        self.reset(seed)
        if folder is not None:
            self.adapters.load(LEARN, folder)


def _load_all(hf_model: Any, weights: dict[str, Tensor]) -> None:
    """Load weights of which tied ones may have one of their names only."""
    found = hf_model.load_state_dict(weights, strict=False)
    shared = {id(p) for name, p in hf_model.named_parameters() if name in weights}
    tensors = dict(hf_model.named_parameters(remove_duplicate=False))
    tensors |= dict(hf_model.named_buffers(remove_duplicate=False))
    lost = [name for name in found.missing_keys if id(tensors[name]) not in shared]
    assert not lost and not found.unexpected_keys, (lost, found.unexpected_keys)
