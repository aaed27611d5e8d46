"""Adapters: the two LoRA adapters of a causal LM, saved and loaded in PEFT's format.

Both sit on one base. ``learn`` is trained in all training stages. ``unlearn`` starts with zero
effect on top of ``learn``, which is the same function as merging ``learn`` and starting a new
adapter, without a change of the base.
"""

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.distributed.tensors import copy_into, full_tensor
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.adapter_sums import Exchange, is_a
from lightning_unlearn.model.log_probs import at_least_fp32
from lightning_unlearn.model.lora_targets import (
    check_rank,
    check_targets,
    linear_names,
    special_layers,
)
from lightning_unlearn.model.settings import ALL, LoRA

LEARN, UNLEARN = "learn", "unlearn"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Adapters:
    """The adapters ``learn`` and ``unlearn`` of a model.

    Holds the ``PeftModel``, whose layers are the model's own; it is no part of a module tree.

    Args:
        peft_model: a ``PeftModel`` with both adapters, which may be sharded.
    """

    def __init__(self, peft_model: Any) -> None:
        self.peft_model = peft_model
        self._exchanges: dict[str, Exchange] = {}

    @classmethod
    def attach(
        cls, hf_model: Any, lora: LoRA, base_name: str, learn: Mapping[str, Any] | None = None
    ) -> "Adapters":
        """Put both adapters on a model.

        Args:
            hf_model: a Hugging Face causal LM; its layers are replaced in place.
            lora: the adapters' shape.
            base_name: name of the base for the adapters' configuration, where PEFT reads it.
            learn: shape of "learn" as arguments of PEFT's LoraConfig, if it has another one.

        Raises:
            InputError: if the targets match no linear layer.
        """
        from peft import LoraConfig, get_peft_model

        dtype, linear = hf_model.dtype, linear_names(hf_model)
        check_targets(hf_model, lora, linear)
        check_rank(hf_model, lora.rank)
        targets = lora.target_modules
        common = {
            "lora_dropout": lora.dropout,
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
        }
        config = LoraConfig(
            exclude_modules=(special_layers(hf_model) or None) if targets == ALL else None,
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
            **common,
        )
        config_of_learn = config if learn is None else LoraConfig(**learn, **common)
        try:
            # PEFT makes the second adapter where tensors are made, not where the model is.
            meta = hf_model.device.type == "meta"
            with warnings.catch_warnings(), torch.device("meta") if meta else nullcontext():
                # PEFT asks transformers 5 by an older name.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
                # GPT-2 keeps its matrices transposed, which PEFT detects itself.
                warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
                # Of experts in one tensor, which have no adapter.
                warnings.filterwarnings("ignore", ".*_pattern keys did not match any targeted")
                peft_model = get_peft_model(
                    hf_model, config_of_learn, adapter_name=LEARN, autocast_adapter_dtype=False
                )
                peft_model.add_adapter(UNLEARN, config, autocast_adapter_dtype=False)
        except ValueError as error:
            key = f"model.lora.target_modules: found {targets!r}"
            if learn is not None:
                key = f"{key}, and {learn['target_modules']!r} in the given adapter"
            raise InputError(f"{key}: {error} The linear layers are {linear}.") from None
        _keep_wide(peft_model, dtype)
        return cls(peft_model)

    @property
    def active(self) -> list[str]:
        """Names of the adapters that take part in the forward."""
        return list(self.peft_model.base_model.active_adapters)

    def set_active(self, names: Sequence[str], trainable: str | None) -> None:
        """Choose the adapters that take part in the forward, and the one that is trained.

        Args:
            names: "learn", "unlearn" or both.
            trainable: the one that is trained; None for none.
        """
        self.peft_model.base_model.set_adapter(list(names))
        self.peft_model.requires_grad_(False)
        if trainable is not None:
            for parameter in self.parameters(trainable).values():
                parameter.requires_grad_(True)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return the parameters of one adapter by their names in the model."""
        # Of an embedding the adapter's name comes last: "...lora_embedding_A.learn".
        return {
            full_name: parameter
            for full_name, parameter in self.peft_model.named_parameters()
            if f".{name}." in f"{full_name}." and "lora_" in full_name
        }

    def reset(self, name: str, seed: int) -> None:
        """Give an adapter fresh weights without effect: A random, B zero.

        Drawn on the CPU by a generator of its own, tensor by tensor in the order of names, so the
        weights depend on the seed alone: not on the device, the precision, or what was drawn
        before.

        Args:
            name: "learn" or "unlearn".
            seed: seed of the run.
        """
        self.restore(name)
        generator = torch.Generator().manual_seed(derive_seed(seed, "adapter", name))
        for full_name, parameter in sorted(self.parameters(name).items()):
            # Lightning configures a model where tensors are made on its device.
            fresh = torch.zeros(parameter.shape, dtype=torch.float32, device="cpu")
            if "lora_A" in full_name:
                # The uniform distribution of torch.nn.Linear, which PEFT uses too.
                bound = 1 / math.sqrt(parameter.shape[1])
                fresh.uniform_(-bound, bound, generator=generator)
            elif "lora_embedding_B" in full_name:
                fresh.normal_(generator=generator)
            copy_into(parameter, fresh)

    def exchange(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Give an adapter weights of any ranks, until `restore` or `reset`.

        Args:
            name: "learn" or "unlearn".
            weights: full tensors by the names that PEFT gives them, for layers that have an
                adapter. Their scale is that of the adapter's own weights.
        """
        self.restore(name)
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        if shapes == self.shapes(name):
            self.load_state_dict(name, dict(weights))
            return
        own = next(iter(self.parameters(name).values()))
        self._exchanges[name] = Exchange(self.peft_model, name, weights, own.dtype, _device_of(own))

    def exchanged(self, name: str) -> dict[str, Tensor] | None:
        """Return the weights that `exchange` gave an adapter; None if it has its own shapes."""
        return self.state_dict(name) if name in self._exchanges else None

    def restore(self, name: str) -> None:
        """Put an adapter's own weights back after `exchange`."""
        if (exchanged := self._exchanges.pop(name, None)) is not None:
            exchanged.undo()

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of an adapter's weights by the names that PEFT gives them."""
        return {key: tuple(tensor.shape) for key, tensor in self._own_state(name).items()}

    def _own_state(self, name: str) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        # PEFT would add base embeddings where they have an adapter; they are frozen.
        own: dict[str, Tensor] = get_peft_model_state_dict(
            self.peft_model, adapter_name=name, save_embedding_layers=False
        )
        return own

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """Return an adapter's weights by the names that PEFT gives them.

        Every process must call it.

        Args:
            name: "learn" or "unlearn".

        Returns:
            Full tensors on the CPU.
        """
        state = self._own_state(name)
        # Sorted: PEFT's order is that of a set, and older safetensors keep the order given.
        return {key: full_tensor(state[key].detach()).cpu().contiguous() for key in sorted(state)}

    def load_state_dict(
        self, name: str, weights: dict[str, Tensor], source: str = "weights"
    ) -> None:
        """Give an adapter the weights that `state_dict` returned.

        Args:
            name: "learn" or "unlearn".
            weights: full tensors by the names that PEFT gives them.
            source: where they are from, for the message.

        Raises:
            InputError: if they have other shapes than the adapter.
        """
        own = self._own_state(name)
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        expected = self.shapes(name)
        if shapes != expected:
            key = sorted(set(shapes.items()) ^ set(expected.items()))[0][0]
            raise InputError(
                f"{source}: found an adapter of another shape: {key} is {shapes.get(key)}, "
                f"expected {expected.get(key)}. Use the base model and the LoRA settings it was "
                "trained with."
            )
        # PEFT's own loading takes no sharded tensors; these are the parameters themselves.
        for key, values in weights.items():
            copy_into(own[key], values)

    def save(self, name: str, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write an adapter as ``PeftModel.from_pretrained`` opens it; equal weights, equal bytes.

        Args:
            name: "learn" or "unlearn".
            folder: an existing folder.
            weights: from `state_dict`.
        """
        from safetensors.torch import save_file

        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = self.peft_model.peft_config[name].to_dict()
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        plain["inference_mode"] = True
        text = json.dumps(plain, indent=2, sort_keys=True, default=str)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    def load(self, name: str, folder: Path) -> None:
        """Give an adapter the weights of a saved one.

        Args:
            name: "learn" or "unlearn".
            folder: where `save` or PEFT wrote.

        Raises:
            InputError: if the folder holds no adapter, or one of another shape.
        """
        weights = self.read(folder)
        if name == UNLEARN and self._has_other_ranks(weights):
            # A path-aware method made it.
            self.exchange(name, weights)
            return
        self.restore(name)
        self.load_state_dict(name, weights, str(folder))

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of a saved adapter, on the CPU.

        Args:
            folder: where `save` or PEFT wrote.

        Raises:
            InputError: if the folder holds no adapter.
        """
        from safetensors.torch import load_file

        if not (folder / WEIGHTS).is_file():
            raise InputError(
                f"{folder}: found no {WEIGHTS}, expected a folder with an adapter in PEFT's format."
            )
        return load_file(folder / WEIGHTS)

    def _has_other_ranks(self, weights: Mapping[str, Tensor]) -> bool:
        """Return whether weights fit the layers with adapters, but not the ranks of "unlearn"."""
        self.restore(UNLEARN)
        known = {**self.shapes(LEARN), **self.shapes(UNLEARN)}
        widths = {key: _width(key, shape) for key, shape in known.items()}
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        fits = all(widths.get(key) == _width(key, shape) for key, shape in shapes.items())
        return fits and shapes != self.shapes(UNLEARN)

    def merge(self, names: Sequence[str]) -> Any:
        """Add adapters to the weights of the base and remove them; use nothing of this afterwards.

        Args:
            names: the adapters to add.

        Returns:
            The Hugging Face model. If embedding or output projection has an adapter, the two are
            no longer tied, in the configuration too, because only one of them changes.
        """
        hf_model = self.peft_model.get_base_model()
        ends = hf_model.get_input_embeddings(), hf_model.get_output_embeddings()
        adapted = any("lora_" in n for part in ends for n, _ in part.named_parameters())
        embedding, head = (getattr(part, "base_layer", part) for part in ends)
        if adapted and head.weight is embedding.weight:
            head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
            configs = (hf_model.config, hf_model.config.get_text_config())
            for config in {id(c): c for c in configs}.values():
                config.tie_word_embeddings = False
        return self.peft_model.merge_and_unload(adapter_names=list(names))


def _width(name: str, shape: Sequence[int]) -> int:
    """Return the size of a factor that is not the rank."""
    return shape[1] if is_a(name) else shape[0]


def _device_of(parameter: Tensor) -> torch.device:
    """Return where the layer of a parameter computes; shards may be offloaded from there."""
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None or mesh.device_type != "cuda":
        return parameter.device
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def switched_off(module: nn.Module, name: str) -> Iterator[None]:
    """Leave an adapter out of the forward; which weights are trained does not change.

    Args:
        module: a model, or a part of one.
        name: "learn" or "unlearn".
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)]
    before = [layer._active_adapter for layer in layers]
    try:
        for layer in layers:
            # PEFT's own method would also change which weights are trained.
            layer._active_adapter = [own for own in layer.active_adapters if own != name]
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


class _FromFP32(nn.Linear):
    """A linear layer in fp32 that computes in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


def _keep_wide(peft_model: Any, dtype: Any) -> None:
    """Keep adapters in fp32 on a 16-bit base, computing as the base does; in fp64 on fp64.

    In 16 bits a step of 1e-5 would be rounded away. The same on one device and on several.

    Args:
        peft_model: the PEFT model.
        dtype: dtype of the base's weights, except those that are packed in 4 bits.
    """
    from peft.tuners.lora import LoraLayer

    if dtype not in (torch.bfloat16, torch.float16, torch.float64):
        return
    kept = at_least_fp32(dtype)
    for layer in peft_model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        # PEFT makes some in fp32: of packed weights, and on the meta device.
        for name, parameter in layer.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(kept)
        if kept == dtype:
            continue
        layer.cast_input_dtype_enabled = False
        for part in (*layer.lora_A.values(), *layer.lora_B.values()):
            part.__class__ = _FromFP32
