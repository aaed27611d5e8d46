"""Shard one model over several processes with FSDP2, and allocate its memory."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_unlearn.distributed.tensor_parallel import parallelize_layers

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_tied(hf_model: Any) -> bool:
    """Return whether the output projection and the embedding share one weight."""
    tied: bool = hf_model.get_output_embeddings().weight is hf_model.get_input_embeddings().weight
    return tied


def shard(
    network: nn.Module,
    hf_model: Any,
    layers: Sequence[nn.Module],
    mesh: "DeviceMesh",
    strategy: Any,
    reduce_dtype: torch.dtype,
) -> None:
    """Shard a model over the processes of a mesh: first each decoder layer, then the rest.

    Args:
        network: the module whose forward all computations use.
        hf_model: the Hugging Face model in `network`, on the meta device.
        layers: decoder layers of `hf_model`.
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
        parallelize_layers(units, hf_model.config, mesh["tensor_parallel"])
    if not is_tied(hf_model):
        # The output projection is used without its own forward. Therefore it belongs to the unit
        # of `network`, which is gathered during the whole forward; only the embedding is a unit.
        units.append(hf_model.get_input_embeddings())
    for unit in units:
        fully_shard(unit, **options)
    fully_shard(network, **options)
    embedding: Any = hf_model.get_input_embeddings()
    if embedding in units and _stays_frozen(hf_model, embedding):
        # The backward of a frozen embedding computes nothing, but FSDP2 would gather its weight.
        embedding.set_unshard_in_backward(False)
    for method in ("generate", "log_probs_from_logits"):
        register_fsdp_forward_method(network, method)


def _stays_frozen(hf_model: Any, module: nn.Module) -> bool:
    """Return whether no stage trains a module: the model has adapters, and the module has none."""
    names = [name for name, _ in hf_model.named_parameters() if "lora_" in name]
    return bool(names) and not any("lora_" in name for name, _ in module.named_parameters())


def materialize(network: nn.Module, hf_model: Any, device: torch.device) -> None:
    """Allocate the memory of a model on the meta device, and compute buffers that are not stored.

    Args:
        network: the module on the meta device.
        hf_model: the Hugging Face model in `network`.
        device: device for the shards of this process.
    """
    tied = is_tied(hf_model)
    network.to_empty(device=device)
    if tied:
        hf_model.get_output_embeddings().weight = hf_model.get_input_embeddings().weight
    with warnings.catch_warnings():
        # This also sets random weights, which the weights of the checkpoint overwrite later.
        warnings.filterwarnings("ignore", "DTensor random operators may not have complete")
        for module in hf_model.modules():
            if module._non_persistent_buffers_set:
                # Rotary frequencies: transformers computes them when it initializes a module.
                hf_model._init_weights(module)
