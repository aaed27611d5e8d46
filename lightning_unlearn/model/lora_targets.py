"""Which layers of a model adapters go on, and which weights they leave out."""

import re
from typing import Any

import torch
from torch import nn

from lightning_unlearn.errors import InputError

# Packages of linear layers whose weights are packed.
_PACKED = ("bitsandbytes", "lightning_unlearn")
# Whose blocks have other names; all that PEFT refuses such adapters of.
_MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
# Layers that keep no matrix which a linear adapter could go on.
_OTHERS = (nn.Embedding, nn.modules.conv._ConvNd)


def special_layers(lm: Any) -> list[str]:
    """Linear layers that "all-linear" leaves out.

    Those that give more than one tensor, such as the routers of Llama 4, and those of Mamba blocks
    of which kernels take the weights alone, without an adapter, on a GPU or everywhere.

    Args:
        lm: a causal LM without adapters.

    Returns:
        Their names.
    """
    return [
        name
        for name, layer in lm.named_modules()
        if isinstance(layer, nn.Linear) and (not _gives_a_tensor(layer) or _is_bypassed(lm, name))
    ]


def _gives_a_tensor(layer: nn.Linear) -> bool:
    """Whether a layer gives what a linear layer gives, so that an adapter can add to it."""
    is_plain = type(layer).forward is nn.Linear.forward
    if is_plain or type(layer).__module__.startswith(_PACKED):
        return True
    row = torch.zeros(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        given = layer(row)
    return isinstance(given, torch.Tensor) and given.shape == (1, layer.out_features)


def _is_bypassed(lm: Any, name: str) -> bool:
    parent, _, own = name.rpartition(".")
    if own not in ("out_proj", "dt_proj"):
        return False
    block = lm.get_submodule(parent)
    is_mamba = "mamba" in type(block).__name__.lower() or lm.config.model_type in _MAMBA
    return is_mamba and hasattr(block, "conv1d")


def linear_layers(lm: Any) -> dict[str, tuple[int, int]]:
    """The layers that "all-linear" puts adapters on.

    Args:
        lm: a causal LM without adapters.

    Returns:
        What goes out of and into each one, by name.
    """
    from transformers.pytorch_utils import Conv1D

    left, head = set(special_layers(lm)), lm.get_output_embeddings()
    shapes = {}
    for name, layer in lm.named_modules():
        if name in left or layer is head:
            continue
        if isinstance(layer, nn.Linear):
            # Not of the weight, which may be packed.
            shapes[name] = (layer.out_features, layer.in_features)
        elif isinstance(layer, Conv1D):
            shapes[name] = (layer.weight.shape[1], layer.weight.shape[0])
    return shapes


def check_rank(lm: Any, rank: int) -> None:
    """Refuse adapters that would be larger than what they are put on.

    Args:
        lm: a causal LM without adapters.
        rank: of the adapters.

    Raises:
        InputError: naming the highest rank that does anything.
    """
    most = max((min(shape) for shape in linear_layers(lm).values()), default=0)
    if most and rank > most:
        raise InputError(
            f"model.lora.rank: found {rank}, expected at most {most}, the highest rank that a "
            "layer of this model has. To train all weights, set model.lora: null."
        )


def untrained(lm: Any) -> list[str]:
    """Matrices that adapters leave as they are, besides embedding and output projection.

    Such as experts that are kept in one tensor, and routers.

    Args:
        lm: a causal LM with adapters.

    Returns:
        Names without the numbers of layers, each once.
    """
    from peft.tuners.lora import LoraLayer

    ends = lm.get_input_embeddings(), lm.get_output_embeddings()
    done = {id(parameter) for part in ends for parameter in part.parameters()}
    for layer in lm.modules():
        if isinstance(layer, LoraLayer):
            # Of a layer whose parameter is no weight of its own, such as experts, that one.
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
    """What is said of a model of which "all-linear" does not train all matrices.

    Args:
        lm: a causal LM with adapters.

    Returns:
        One sentence, or none.
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
    """Targets that take in some layers and none of others.

    Args:
        trained: names of layers that are to be among them.
        idle: names of layers that are not.

    Returns:
        A list as YAML has it.
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
