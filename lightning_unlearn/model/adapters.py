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
from lightning_unlearn.model.log_probs import at_least_fp32
from lightning_unlearn.model.lora_targets import check_rank, special_layers
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

        dtype, linear = hf_model.dtype, _linear_names(hf_model)
        _check_targets(hf_model, lora, linear)
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
        from safetensors.torch import load_file

        if not (folder / WEIGHTS).is_file():
            raise InputError(
                f"{folder}: found no {WEIGHTS}, expected a folder with an adapter in PEFT's format."
            )
        self.load_state_dict(name, load_file(folder / WEIGHTS), str(folder))

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


def _linear_names(hf_model: Any) -> str:
    """Last parts of the names of a model's linear layers, for messages."""
    linear = (name for name, part in hf_model.named_modules() if isinstance(part, nn.Linear))
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))


def _check_targets(hf_model: Any, lora: LoRA, linear: str) -> None:
    """Refuse a list of targets of which one matches no layer."""
    if isinstance(lora.target_modules, str):
        return
    for target in lora.target_modules:
        named = [m for n, m in hf_model.named_modules() if f".{n}".endswith(f".{target}")]
        if not any(next(m.children(), None) is None for m in named):
            raise InputError(
                f"model.lora.target_modules: found {target!r}, which matches no layer of this "
                f"model. Its linear layers are {linear}."
            )


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
