"""The weights of a language model: given out, written, taken up, lent."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.distributed.tensors import full_tensor
from lightning_unlearn.model import adapters
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.base_dropout import as_it_was
from lightning_unlearn.model.opened_lm import OpenedLM
from lightning_unlearn.model.quantization import dequantize_into


def _fill_whole(lm: Any, weights: dict[str, Tensor]) -> None:
    """Give a model weights that may be without the second name of tied ones."""
    left = lm.load_state_dict(weights, strict=False)
    shared = {id(p) for name, p in lm.named_parameters() if name in weights}
    lost = [n for n in left.missing_keys if id(dict(_all_named(lm))[n]) not in shared]
    assert not lost and not left.unexpected_keys, (lost, left.unexpected_keys)


def _all_named(lm: Any) -> Iterator[tuple[str, Tensor]]:
    yield from lm.named_parameters(remove_duplicate=False)
    yield from lm.named_buffers(remove_duplicate=False)


class StoredLM(OpenedLM):
    """The part of `CausalLM` that knows how its weights are stored."""

    _changed: bool
    _seed: int

    def _take_up(self, name: str) -> None:
        """Give all weights those of a stored model."""
        if self.is_sharded:
            self._load_parts(self.lm, name)
        else:
            # Not on the model's device, where Lightning would have it made: a second one.
            with torch.device("cpu"):
                self.lm.load_state_dict(self._load(name).state_dict())

    def weights(self, which: str) -> dict[str, Tensor]:
        """What training changed, whole; every process must ask.

        Args:
            which: "learn" or "unlearn"; without adapters both are the whole model.

        Returns:
            Tensors on the CPU by name; on other processes than the first nothing, but for the
            asking.
        """
        if self.global_rank and not self.is_sharded:
            return {}
        if self.peft is not None:
            return adapters.adapter_weights(self.peft, which)
        # Tied weights by one of their names: apart they would be written twice.
        twice = set(dict(self.lm.named_parameters(remove_duplicate=False)))
        twice -= set(dict(self.lm.named_parameters()))
        state = {name: v for name, v in self.lm.state_dict().items() if name not in twice}
        parts = ((name, full_tensor(value.detach())) for name, value in state.items())
        return {name: value.cpu() for name, value in parts if self.global_rank == 0}

    def save(self, which: str, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write what training changed.

        Args:
            which: "learn" or "unlearn"; without adapters both are the whole model.
            folder: made if missing. Holds a PEFT adapter, or a model where ``lora`` is null.
            weights: from `weights`; None asks for them, which on several processes all must do.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.weights(which) if weights is None else weights
        if self.peft is None:
            with as_it_was(self.lm.config, self.dropout):
                self.lm.save_pretrained(folder, state_dict=weights)
        else:
            adapters.save_adapter(self.peft, which, folder, weights)

    def load(self, which: str, folder: Path) -> None:
        """Take up what `save` wrote.

        Args:
            which: "learn" or "unlearn".
            folder: where `save` wrote.

        Raises:
            InputError: if it does not fit.
        """
        if self.peft is not None:
            adapters.load_adapter(self.peft, which, folder)
            return
        self._changed = True
        self._take_up(str(folder))

    def save_merged(self, folder: Path, template: str | None = None) -> None:
        """Write the present model as a plain Hugging Face folder with its tokenizer.

        Every process must ask; the first one writes, and puts the whole model into its memory. Of a
        quantized base the weights it computes with are written, adapters added, in the Trainer's
        precision: packed into 4 bits again they would be another model. Where adapters change the
        embedding or the output projection alone, the two are no longer tied.

        Args:
            folder: made if missing; ``AutoModelForCausalLM.from_pretrained`` opens it.
            template: the chat template that it was trained with; None for the tokenizer's own.
        """
        parts = (LEARN, UNLEARN) if self.peft is not None else (LEARN,)
        anew = self.is_sharded or self.quantization is not None
        own = {which: self.weights(which) for which in parts} if anew else {}
        active = list(self.peft.base_model.active_adapters) if self.peft is not None else []
        if self.global_rank:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if anew:
            merged = self._load(self.base)
            if self.quantization is not None:
                dequantize_into(merged, self.lm)
            if self.peft is None:
                _fill_whole(merged, own[LEARN])
            else:
                assert self.lora is not None
                peft = adapters.add_adapters(merged, self.lora, self.base)
                for which, weights in own.items():
                    adapters.fill_adapter(peft, which, weights)
                merged = adapters.merge(peft, active)
        elif self.peft is None:
            merged = self.lm
        else:
            # On its device there may be no room for a second one.
            self.cpu()
            merged = adapters.merge(copy.deepcopy(self.peft), active)
        use_cache, merged.config.use_cache = merged.config.use_cache, True
        with as_it_was(merged.config, self.dropout):
            merged.save_pretrained(folder)
        merged.config.use_cache = use_cache
        tokenizer = copy.deepcopy(self.tokenizer())
        if template is not None:
            tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)

    @property
    def shares_head(self) -> bool:
        """Whether all weights that `borrowed` gives have the same output projection."""
        if self.peft is None:
            return False
        names = (name for name, _ in self.lm.get_output_embeddings().named_parameters())
        return not any("lora_" in name for name in names)

    @contextmanager
    def borrowed(self, folder: Path | None) -> Iterator[None]:
        """The weights of another stored model for a while, then its own again, bit by bit.

        Args:
            folder: what `save` wrote of "learn"; None for the base model untouched.
        """
        if self.peft is None:
            state = self.lm.state_dict()
            own = {name: value.clone() for name, value in state.items()}
            try:
                self._take_up(str(folder or self.base))
                yield
            finally:
                with torch.no_grad():
                    for name, value in own.items():
                        state[name].copy_(value)
            return
        parameters = [
            parameter
            for which in (LEARN, UNLEARN)
            for parameter in adapters.adapter_parameters(self.peft, which).values()
        ]
        kept = [parameter.detach().clone() for parameter in parameters]
        try:
            # Without effect, and not 0 all over: gradients tell of the base model too.
            for which in (LEARN, UNLEARN):
                adapters.start_adapter(self.peft, which, self._seed)
            if folder is not None:
                adapters.load_adapter(self.peft, LEARN, folder)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)
