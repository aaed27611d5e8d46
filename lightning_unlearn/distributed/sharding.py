"""One model over several processes with FSDP2: sharded layer by layer, and given its memory."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_unlearn.distributed.tensor_parallel import parallelize_layers

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_tied(hf_model: Any) -> bool:
    """Whether the output projection is the embedding."""
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
    """Shard a model over the processes of a mesh: layer by layer, then the rest.

    Args:
        network: the module through whose forward everything goes.
        hf_model: the Hugging Face model in it, on the meta device.
        layers: its decoder layers.
        mesh: has the axis "data_parallel", and "tensor_parallel" if layers are shared out too.
        strategy: may have ``tensor_parallel_size`` and ``cpu_offload``, as of `FSDP2`.
        reduce_dtype: in which gradients are summed over processes.
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
        # Weights keep the types they are stored in: a base in bf16, adapters in fp32.
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype, cast_forward_inputs=False),
        # Only memory that a GPU reads from can be pinned.
        "offload_policy": CPUOffloadPolicy(mesh.device_type == "cuda")
        if offload
        else OffloadPolicy(),
    }
    units = list(layers)
    if getattr(strategy, "tensor_parallel_size", 1) > 1:
        parallelize_layers(units, hf_model.config, mesh["tensor_parallel"])
    if not is_tied(hf_model):
        # The head is used without its own forward, so it is whole while the rest is.
        units.append(hf_model.get_input_embeddings())
    for unit in units:
        fully_shard(unit, **options)
    fully_shard(network, **options)
    embedding: Any = hf_model.get_input_embeddings()
    if embedding in units and _stays_frozen(hf_model, embedding):
        # Its backward asks for nothing; FSDP2 would put it together all the same.
        embedding.set_unshard_in_backward(False)
    for method in ("generate", "log_probs_from_logits"):
        register_fsdp_forward_method(network, method)


def _stays_frozen(hf_model: Any, part: nn.Module) -> bool:
    """Whether no stage trains anything of a part: there are adapters, and none in it."""
    names = [name for name, _ in hf_model.named_parameters() if "lora_" in name]
    return bool(names) and not any("lora_" in name for name, _ in part.named_parameters())


def materialize(network: nn.Module, hf_model: Any, device: torch.device) -> None:
    """Give a model that was made without memory its memory, and what is computed and not stored.

    Args:
        network: on the meta device.
        hf_model: the Hugging Face model in it.
        device: where its parts go.
    """
    tied = is_tied(hf_model)
    network.to_empty(device=device)
    if tied:
        hf_model.get_output_embeddings().weight = hf_model.get_input_embeddings().weight
    with warnings.catch_warnings():
        # Random weights that a module gets besides are overwritten by those of the checkpoint.
        warnings.filterwarnings("ignore", "DTensor random operators may not have complete")
        for module in hf_model.modules():
            if module._non_persistent_buffers_set:
                # Rotary frequencies: transformers makes them where it initializes a module.
                hf_model._init_weights(module)
