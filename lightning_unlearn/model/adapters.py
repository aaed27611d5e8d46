"""LoRA adapters on a causal LM: made, started afresh, chosen, saved and loaded in PEFT's format.

Two adapters sit on one base. ``learn`` is trained through all stages; ``unlearn`` starts with zero
effect on top of it, which is the same function as merging and starting a new adapter, without
touching the base.
"""

import json
import math
import re
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.distributed.tensors import copy_into, full_tensor
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import at_least_fp32
from lightning_unlearn.model.lora_targets import ALL, check_rank, special_layers

LEARN, UNLEARN = "learn", "unlearn"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass
class LoRA:
    """Shape of the LoRA adapters.

    Attributes:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapters' inputs while training.
        target_modules: "all-linear" (all but the output projection), or a list of module names,
            such as [q_proj, v_proj, o_proj, gate_proj, up_proj, down_proj].
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | list[str] = field(default="all-linear")

    def check(self) -> None:
        """Refuse values PEFT can't build.

        Raises:
            InputError: naming the key.
        """
        if self.rank < 1:
            raise InputError(
                f"model.lora.rank: found {self.rank}, expected at least 1. To train all weights "
                "instead of adapters, set model.lora: null."
            )
        if not 0 < self.alpha < math.inf:
            raise InputError(f"model.lora.alpha: found {self.alpha}, expected a positive number.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.lora.dropout: found {self.dropout}, expected [0, 1).")
        if not self.target_modules:
            raise InputError(
                "model.lora.target_modules: found an empty list, expected module names."
            )
        if isinstance(self.target_modules, str) and self.target_modules != ALL:
            try:
                re.compile(self.target_modules)
            except (re.error, RecursionError, OverflowError) as error:
                raise InputError(
                    f"model.lora.target_modules: found {self.target_modules!r}, which is no "
                    f"regular expression ({error}), expected one, {ALL}, or a list of module names."
                ) from None

    def key(self) -> dict[str, Any]:
        """The values that decide what training does, for the stage store's key."""
        values = asdict(self)
        # Whole numbers from Python are the numbers that YAML gives.
        values |= {"alpha": float(self.alpha), "dropout": float(self.dropout)}
        if isinstance(self.target_modules, list):
            values["target_modules"] = sorted(self.target_modules)
        return values


def add_adapters(lm: Any, lora: LoRA, base_name: str) -> Any:
    """Put both adapters on a model.

    Args:
        lm: a Hugging Face causal LM; its layers are replaced in place.
        lora: their shape.
        base_name: recorded in the adapters' configuration, where PEFT looks for the base.

    Returns:
        The ``PeftModel`` around ``lm``.

    Raises:
        InputError: if the targets match no linear layer.
    """
    from peft import LoraConfig, get_peft_model

    dtype = lm.dtype
    linear = sorted(
        {n.rsplit(".", 1)[-1] for n, m in lm.named_modules() if isinstance(m, nn.Linear)}
    )
    target_modules = (
        lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    )
    if isinstance(target_modules, list):
        for target in target_modules:
            named = [m for n, m in lm.named_modules() if f".{n}".endswith(f".{target}")]
            if not any(next(m.children(), None) is None for m in named):
                raise InputError(
                    f"model.lora.target_modules: found {target!r}, which matches no layer of this "
                    f"model. Its linear layers are {', '.join(linear)}."
                )
    check_rank(lm, lora.rank)
    config = LoraConfig(
        exclude_modules=(special_layers(lm) or None) if lora.target_modules == ALL else None,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    try:
        # PEFT makes the second adapter where tensors are made, not where the model is.
        place = torch.device("meta") if lm.device.type == "meta" else nullcontext()
        with warnings.catch_warnings(), place:
            # PEFT asks transformers 5 by an older name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            # GPT-2 keeps its matrices transposed; PEFT sees it itself.
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
            # Of experts in one tensor, which have no adapter.
            warnings.filterwarnings("ignore", ".*_pattern keys did not match any targeted")
            peft_model = get_peft_model(
                lm, config, adapter_name=LEARN, autocast_adapter_dtype=False
            )
            peft_model.add_adapter(UNLEARN, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise InputError(
            f"model.lora.target_modules: found {lora.target_modules!r}: {error} The linear "
            f"layers are {', '.join(linear)}."
        ) from None
    _keep_wide(peft_model, dtype)
    return peft_model


class _FromFP32(nn.Linear):
    """A linear layer in fp32 that computes in the precision of what goes in."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


def _keep_wide(peft_model: Any, dtype: Any) -> None:
    """On a base in 16 bits, let adapters be fp32 and compute as the base does; in float64 float64.

    In 16 bits a step of 1e-5 would be rounded away. The same on one device and on several.

    Args:
        peft_model: the PEFT model.
        dtype: of the base's weights, those apart that are packed in 4 bits.
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


def adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter by full name."""
    # Of an embedding the adapter's name comes last: "...lora_embedding_A.learn".
    return {n: p for n, p in model.named_parameters() if f".{adapter}." in f"{n}." and "lora_" in n}


def start_adapter(model: nn.Module, adapter: str, seed: int) -> None:
    """Give an adapter fresh weights: no effect yet, A random.

    Drawn on the CPU from a generator of its own, tensor by tensor in the order of names, so the
    weights depend on the seed alone: not on the device or the precision, nor on what was drawn
    before.

    Args:
        model: the PEFT model.
        adapter: "learn" or "unlearn".
        seed: seed of the run.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "adapter", adapter))
    for name, parameter in sorted(adapter_parameters(model, adapter).items()):
        # Lightning configures a model where tensors are made on its device.
        fresh = torch.zeros(parameter.shape, dtype=torch.float32, device="cpu")
        if "lora_A" in name:
            # The uniform distribution of torch.nn.Linear, which PEFT uses too.
            bound = 1 / math.sqrt(parameter.shape[1])
            fresh.uniform_(-bound, bound, generator=generator)
        elif "lora_embedding_B" in name:
            fresh.normal_(generator=generator)
        copy_into(parameter, fresh)


def choose_adapters(peft_model: Any, active: list[str], trained: str | None) -> None:
    """Make adapters take part in the forward, and one of them trainable.

    Args:
        peft_model: the PEFT model.
        active: adapters that take part.
        trained: the one that is trained; None for none.
    """
    peft_model.base_model.set_adapter(active)
    peft_model.requires_grad_(False)
    if trained is not None:
        for parameter in adapter_parameters(peft_model, trained).values():
            parameter.requires_grad_(True)


def adapter_weights(peft_model: Any, adapter: str) -> dict[str, Tensor]:
    """An adapter's weights by the names PEFT gives them; every process must ask.

    Args:
        peft_model: the PEFT model.
        adapter: "learn" or "unlearn".

    Returns:
        Whole tensors on the CPU.
    """
    from peft import get_peft_model_state_dict

    # Base embeddings stay out, which PEFT would add where they have an adapter: they are frozen.
    state = get_peft_model_state_dict(peft_model, adapter_name=adapter, save_embedding_layers=False)
    # By name: PEFT's order follows that of a set, and older safetensors keep the order given.
    return {name: full_tensor(state[name].detach()).cpu().contiguous() for name in sorted(state)}


def save_adapter(peft_model: Any, adapter: str, folder: Path, weights: dict[str, Tensor]) -> None:
    """Write an adapter as ``PeftModel.from_pretrained`` opens it; equal weights, equal bytes.

    Args:
        peft_model: the PEFT model.
        adapter: "learn" or "unlearn".
        folder: an existing folder.
        weights: from `adapter_weights`.
    """
    from safetensors.torch import save_file

    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = peft_model.peft_config[adapter].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    plain["inference_mode"] = True
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_adapter(peft_model: Any, adapter: str, folder: Path) -> None:
    """Give an adapter the weights of a saved one.

    Args:
        peft_model: the PEFT model.
        adapter: "learn" or "unlearn".
        folder: where `save_adapter` or PEFT wrote.

    Raises:
        InputError: if the folder holds no adapter, or one of another shape.
    """
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder}: found no {WEIGHTS}, expected a folder with an adapter in PEFT's format."
        )
    fill_adapter(peft_model, adapter, load_file(folder / WEIGHTS), str(folder))


def fill_adapter(
    peft_model: Any, adapter: str, weights: dict[str, Tensor], source: str = "weights"
) -> None:
    """Give an adapter weights that are whole.

    Args:
        peft_model: the PEFT model, which may be cut up.
        adapter: "learn" or "unlearn".
        weights: as of `adapter_weights`.
        source: where they are from, for the message.

    Raises:
        InputError: if they are of another shape.
    """
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(peft_model, adapter_name=adapter, save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if shapes != expected:
        name = sorted(set(shapes.items()) ^ set(expected.items()))[0][0]
        raise InputError(
            f"{source}: found an adapter of another shape: {name} is {shapes.get(name)}, expected "
            f"{expected.get(name)}. Use the base model and the LoRA settings it was trained with."
        )
    # PEFT's own loading takes no tensors that are cut up; these are the parameters themselves.
    for name, values in weights.items():
        copy_into(own[name], values)


def merge(peft_model: Any, active: list[str]) -> Any:
    """Add adapters to the weights of the base, and take them off.

    Args:
        peft_model: the PEFT model; not to be used afterwards.
        active: adapters to add.

    Returns:
        The Hugging Face model. If one of embedding and output projection has an adapter, they are
        tied no more, in the configuration too: what is added to one is no part of the other.
    """
    lm = peft_model.get_base_model()
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    adapted = any("lora_" in n for part in (embedding, head) for n, _ in part.named_parameters())
    embedding, head = (getattr(part, "base_layer", part) for part in (embedding, head))
    if adapted and head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
        for config in {id(c): c for c in (lm.config, lm.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    merged: Any = peft_model.merge_and_unload(adapter_names=active)
    return merged
