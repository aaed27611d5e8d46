"""Shard one model over several processes with FSDP2, and allocate its memory."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_unlearn.distributed.tensor_parallel import parallelize_layers

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_tied(lm: Any) -> bool:
    """Return whether the output projection and the embedding share one weight."""
    tied: bool = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    return tied


def shard(
    net: nn.Module,
    lm: Any,
    layers: Sequence[nn.Module],
    mesh: "DeviceMesh",
    strategy: Any,
    reduce_dtype: torch.dtype,
) -> None:
    """Shard a model over the processes of a mesh: first each decoder layer, then the rest.

    Args:
        net: the module whose forward all computations use.
        lm: the Hugging Face model in `net`, on the meta device.
        layers: decoder layers of `lm`.
        mesh: mesh with the axis "data_parallel", and "tensor_parallel" for tensor parallelism.
        strategy: may have the attributes ``tensor_parallel_size`` and ``cpu_offload`` of `FSDP2`.
        reduce_dtype: dtype in which gradients are summed over processes.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    offload = getattr(strategy, "cpu_offload", False)
    options: dict[str, Any] = {
        "mesh": mesh["data_parallel"],
        # Weights keep their dtypes: a base in bf16, adapters in fp32.
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype, cast_forward_inputs=False),
        # Pinned memory needs a GPU.
        "offload_policy": CPUOffloadPolicy(mesh.device_type == "cuda")
        if offload
        else OffloadPolicy(),
    }
    units = list(layers)
    if getattr(strategy, "tensor_parallel_size", 1) > 1:
        parallelize_layers(units, lm.config, mesh["tensor_parallel"])
    if not is_tied(lm):
        # The output projection is used without its own forward. Therefore it belongs to the unit
        # of `net`, which is gathered during the whole forward; only the embedding is a unit.
        units.append(lm.get_input_embeddings())
    for unit in units:
        fully_shard(unit, **options)
    fully_shard(net, **options)
    embedding: Any = lm.get_input_embeddings()
    if embedding in units and _stays_frozen(lm, embedding):
        # The backward of a frozen embedding computes nothing, but FSDP2 would gather its weight.
        embedding.set_unshard_in_backward(False)
    for method in ("generate", "own_log_probs"):
        register_fsdp_forward_method(net, method)


def _stays_frozen(lm: Any, module: nn.Module) -> bool:
    """Return whether no stage trains a module: the model has adapters, and the module has none."""
    names = [name for name, _ in lm.named_parameters() if "lora_" in name]
    return bool(names) and not any("lora_" in name for name, _ in module.named_parameters())


def materialize(net: nn.Module, lm: Any, device: torch.device) -> None:
    """Allocate the memory of a model on the meta device, and compute buffers that are not stored.

    Args:
        net: the module on the meta device.
        lm: the Hugging Face model in `net`.
        device: device for the shards of this process.
    """
    tied = is_tied(lm)
    net.to_empty(device=device)
    if tied:
        lm.get_output_embeddings().weight = lm.get_input_embeddings().weight
    with warnings.catch_warnings():
        # This also sets random weights, which the weights of the checkpoint overwrite later.
        warnings.filterwarnings("ignore", "DTensor random operators may not have complete")
        for module in lm.modules():
            if module._non_persistent_buffers_set:
                # Rotary frequencies: transformers computes them when it initializes a module.
                lm._init_weights(module)
