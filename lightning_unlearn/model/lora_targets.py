"""The layers that get adapters, and the weights that adapters do not train."""

import re
from typing import Any

import torch
from torch import nn

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.settings import LoRA

# Packages of linear layers with packed weights.
_PACKED = ("bitsandbytes", "lightning_unlearn")
# Model types with Mamba blocks of other class names. PEFT refuses adapters on their projections.
_MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
# Layers without a matrix for a linear adapter.
_OTHERS = (nn.Embedding, nn.modules.conv._ConvNd)


def special_layers(lm: Any) -> list[str]:
    """Return the linear layers that "all-linear" excludes.

    These are layers that return more than one tensor, such as the routers of Llama 4. They are also
    layers of Mamba blocks whose kernels use only the weights, without an adapter, on a GPU or
    everywhere.

    Args:
        lm: a causal LM without adapters.

    Returns:
        Names of the layers.
    """
    return [
        name
        for name, layer in lm.named_modules()
        if isinstance(layer, nn.Linear) and (not _gives_a_tensor(layer) or _is_bypassed(lm, name))
    ]


def _gives_a_tensor(layer: nn.Linear) -> bool:
    """Return whether a layer returns one tensor like a linear layer, which an adapter needs."""
    is_plain = type(layer).forward is nn.Linear.forward
    if is_plain or type(layer).__module__.startswith(_PACKED):
        return True
    row = torch.zeros(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        output = layer(row)
    return isinstance(output, torch.Tensor) and output.shape == (1, layer.out_features)


def _is_bypassed(lm: Any, name: str) -> bool:
    parent, _, own = name.rpartition(".")
    if own not in ("out_proj", "dt_proj"):
        return False
    block = lm.get_submodule(parent)
    is_mamba = "mamba" in type(block).__name__.lower() or lm.config.model_type in _MAMBA
    return is_mamba and hasattr(block, "conv1d")


def linear_layers(lm: Any) -> dict[str, tuple[int, int]]:
    """Return the layers that get adapters with "all-linear".

    Args:
        lm: a causal LM without adapters.

    Returns:
        Output and input features, by name of the layer.
    """
    from transformers.pytorch_utils import Conv1D

    excluded, head = set(special_layers(lm)), lm.get_output_embeddings()
    shapes = {}
    for name, layer in lm.named_modules():
        if name in excluded or layer is head:
            continue
        if isinstance(layer, nn.Linear):
            # Not the shape of the weight, which may be packed.
            shapes[name] = (layer.out_features, layer.in_features)
        elif isinstance(layer, Conv1D):
            shapes[name] = (layer.weight.shape[1], layer.weight.shape[0])
    return shapes


def check_rank(lm: Any, rank: int) -> None:
    """Refuse a rank that is higher than that of every layer.

    Args:
        lm: a causal LM without adapters.
        rank: rank of the adapters.

    Raises:
        InputError: with the highest rank that has an effect.
    """
    most = max((min(shape) for shape in linear_layers(lm).values()), default=0)
    if most and rank > most:
        raise InputError(
            f"model.lora.rank: found {rank}, expected at most {most}, the highest rank that a "
            "layer of this model has. To train all weights, set model.lora: null."
        )


def untrained(lm: Any) -> list[str]:
    """Return the matrices without adapter, besides embedding and output projection.

    Examples are experts in one tensor, and routers.

    Args:
        lm: a causal LM with adapters.

    Returns:
        Names without layer numbers, each once.
    """
    from peft.tuners.lora import LoraLayer

    ends = lm.get_input_embeddings(), lm.get_output_embeddings()
    done = {id(parameter) for part in ends for parameter in part.parameters()}
    for layer in lm.modules():
        if isinstance(layer, LoraLayer):
            # An adapter of experts is on a parameter with another name than "weight".
            own = getattr(layer, "parameter_name", "weight")
            done.add(id(getattr(layer.get_base_layer(), own)))
    names: dict[str, None] = {}
    for name, layer in lm.named_modules():
        if isinstance(layer, _OTHERS) or "lora_" in name:
            continue
        for own, parameter in layer.named_parameters(recurse=False):
            if parameter.ndim > 1 and id(parameter) not in done and "lora_" not in own:
                names[re.sub(r"^.*\.\d+\.|base_layer\.", "", f"{name}.{own}")] = None
    return list(names)


def remark(lm: Any) -> list[str]:
    """Return a note for the user on matrices that "all-linear" does not train.

    Args:
        lm: a causal LM with adapters.

    Returns:
        A list of one sentence; [] if all matrices are trained.
    """
    from peft.tuners.lora import LoraLayer

    left = untrained(lm)
    if not left:
        return []
    trained: dict[str, None] = {}
    for name, layer in lm.named_modules():
        if isinstance(layer, LoraLayer):
            own = getattr(layer, "parameter_name", None)
            last = name.replace(".base_layer", "").rpartition(".")[2]
            trained[f"{last}.{own}" if own else last] = None
    return [
        f"model.lora.target_modules: all-linear trains {', '.join(sorted(trained))}, and not "
        f"{', '.join(left)}."
    ]


def advise(trained: list[str], idle: list[str]) -> str:
    """Propose target_modules that match some layers and none of the others.

    Args:
        trained: names of layers that they must match.
        idle: names of layers that they must not match.

    Returns:
        A list in YAML notation.
    """
    targets: dict[str, None] = {}
    for name in trained:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            end = ".".join(parts[-count:])
            if not parts[-count].isdigit() and not any(
                f".{other}".endswith(f".{end}") for other in idle
            ):
                targets[end] = None
                break
    return f"[{', '.join(sorted(targets))}]"


def linear_names(hf_model: Any) -> str:
    """Last parts of the names of a model's linear layers, for messages."""
    linear = (name for name, part in hf_model.named_modules() if isinstance(part, nn.Linear))
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))


def check_targets(hf_model: Any, lora: LoRA, linear: str) -> None:
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
