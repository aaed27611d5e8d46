"""One model over several processes with FSDP2: cut up, filled, and put together again."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_unlearn.distributed.tensor_parallel import cut_layers
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import at_least_fp32
from lightning_unlearn.model.network import decoder_of
from lightning_unlearn.model.pretrained import weight_files

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut up, the same on every process; all of them must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(target: Tensor, values: Tensor) -> Tensor:
    """Whole values cut up as another tensor is, if they have its shape; nothing is sent.

    Args:
        target: the other tensor.
        values: all of them, the same on every process.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor) or values.shape != target.shape:
        return values
    # By hand: `distribute_tensor` would first send all of them to the mesh's device.
    own = values[own_part(target)].to(target.to_local().device)
    return DTensor.from_local(
        own,
        target.device_mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )


def own_part(target: Any) -> tuple[slice, ...]:
    """What this process holds of a tensor that is cut up, along each axis.

    Args:
        target: cut by rows over the last axis of the mesh but one by FSDP2, and before that over
            the last by tensor parallelism if the mesh has two.
    """
    from torch.distributed.tensor import Shard

    mesh = target.device_mesh
    part = [slice(0, count) for count in target.shape]
    if mesh.ndim == 2 and isinstance(target.placements[1], Shard):
        axis = target.placements[1].dim
        count = target.shape[axis] // mesh.size(1)
        first = count * mesh.get_local_rank(1)
        part[axis] = slice(first, first + count)
    # Rows of what tensor parallelism left: not of the whole, so not as the placements say.
    start, stop = part[0].start, part[0].stop
    rows = -(-(stop - start) // mesh.size(0))
    first = min(start + rows * mesh.get_local_rank(0), stop)
    part[0] = slice(first, min(first + rows, stop))
    held = tuple(each.stop - each.start for each in part)
    assert held == tuple(target.to_local().shape), "cut up by FSDP2, and tensor parallelism"
    return tuple(part)


@torch.no_grad()
def fill(target: Tensor, values: Tensor) -> None:
    """Give a tensor, which may be cut up, its values.

    Args:
        target: changed in place.
        values: all of them, the same on every process.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(target, DTensor):
        target.to_local().copy_(values[own_part(target)])
    else:
        target.copy_(values)


def decoder_layers(lm: Any, names: list[str] | None = None) -> list[nn.Module]:
    """The layers that are cut up one by one.

    Args:
        lm: a Hugging Face causal LM.
        names: names of their classes; None takes those that the model says must stay whole, else
            the longest list of modules in its decoder.

    Returns:
        The layers in order.

    Raises:
        InputError: if there are none.
    """
    wanted = set(names or getattr(lm, "_no_split_modules", None) or ())
    layers = [module for module in lm.modules() if type(module).__name__ in wanted]
    if names is None and not layers:
        lists = [m for m in decoder_of(lm).modules() if isinstance(m, nn.ModuleList)]
        layers = max((list(found) for found in lists), key=len, default=[])
    if not layers:
        found = f"found no module of the class {', '.join(names)}" if names else "found no layers"
        classes = sorted({type(m).__name__ for m in lm.modules() if "Layer" in type(m).__name__})
        raise InputError(
            f"trainer.strategy: {found} in this model, expected its decoder layers. Name their "
            f"class in init_args.layers of FSDP2; among its modules are {', '.join(classes)}."
        )
    return layers


def is_tied(lm: Any) -> bool:
    """Whether the output projection is the embedding."""
    tied: bool = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    return tied


def shard(net: nn.Module, lm: Any, mesh: "DeviceMesh", strategy: Any) -> None:
    """Cut a model up over the processes of a mesh: layer by layer, then the rest.

    Args:
        net: the module through whose forward everything goes.
        lm: the Hugging Face model in it, on the meta device.
        mesh: has the axis "data_parallel", and "tensor_parallel" if layers are shared out too.
        strategy: may have ``layers`` and ``cpu_offload``, as of `FSDP2`.
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
        "mp_policy": MixedPrecisionPolicy(
            reduce_dtype=at_least_fp32(lm.dtype), cast_forward_inputs=False
        ),
        # Only memory that a GPU reads from can be pinned.
        "offload_policy": CPUOffloadPolicy(mesh.device_type == "cuda")
        if offload
        else OffloadPolicy(),
    }
    layers = decoder_layers(lm, getattr(strategy, "layers", None))
    if getattr(strategy, "tensor_parallel_size", 1) > 1:
        cut_layers(layers, lm.config, mesh["tensor_parallel"])
    if not is_tied(lm):
        # The head is used without its own forward, so it is whole while the rest is.
        layers.append(lm.get_input_embeddings())
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(net, **options)
    embedding: Any = lm.get_input_embeddings()
    if embedding in layers and _stays_frozen(lm, embedding):
        # Its backward asks for nothing; FSDP2 would put it together all the same.
        embedding.set_unshard_in_backward(False)
    for method in ("generate", "own_log_probs"):
        register_fsdp_forward_method(net, method)


def _stays_frozen(lm: Any, part: nn.Module) -> bool:
    """Whether no stage trains anything of a part: there are adapters, and none in it."""
    names = [name for name, _ in lm.named_parameters() if "lora_" in name]
    return bool(names) and not any("lora_" in name for name, _ in part.named_parameters())


def materialise(net: nn.Module, lm: Any, device: torch.device) -> None:
    """Give a model that was made without memory its memory, and what is computed and not stored.

    Args:
        net: on the meta device.
        lm: the Hugging Face model in it.
        device: where its parts go.
    """
    tied = is_tied(lm)
    net.to_empty(device=device)
    if tied:
        lm.get_output_embeddings().weight = lm.get_input_embeddings().weight
    with warnings.catch_warnings():
        # Random weights that a module gets besides are overwritten by those of the checkpoint.
        warnings.filterwarnings("ignore", "DTensor random operators may not have complete")
        for module in lm.modules():
            if module._non_persistent_buffers_set:
                # Rotary frequencies: transformers makes them where it initialises a module.
                lm._init_weights(module)


def load_base(
    lm: Any,
    name: str,
    read_whole: Callable[[], dict[str, Tensor]],
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Fill the base weights from safetensors, each process reading only its own part.

    Args:
        lm: the Hugging Face model, with PEFT layers or without.
        name: folder, ``demo:NAME``, or hub name.
        read_whole: gives all weights by name; for checkpoints whose names are not the model's.
        say: told if it comes to that.

    Raises:
        InputError: if a file is missing.
    """
    wanted = {
        name.replace(".base_layer", ""): p
        for name, p in lm.named_parameters()
        if "lora_" not in name
    }
    wanted |= {
        name.replace(".base_layer", ""): b
        for name, b in lm.named_buffers()
        if name.rpartition(".")[2] not in _owner(lm, name)._non_persistent_buffers_set
    }
    files = weight_files(name)
    if missing := sorted(set(wanted) - set(files)):
        say(
            f"model.base: the files of {name} name their weights in another way than the model "
            f"({missing[0]} is not among them), so every process reads all of them and needs the "
            "memory for the whole model."
        )
        for key, values in read_whole().items():
            if key in wanted:
                fill(wanted[key], values)
        return
    from safetensors import safe_open

    by_file: dict[Path, list[str]] = {}
    for key in wanted:
        by_file.setdefault(files[key], []).append(key)
    for file, keys in by_file.items():
        with safe_open(file, framework="pt") as opened:
            for key in keys:
                _fill_slice(wanted[key], opened.get_slice(key))


def _owner(lm: nn.Module, name: str) -> nn.Module:
    return lm.get_submodule(name.rpartition(".")[0])


@torch.no_grad()
def _fill_slice(target: Tensor, source: Any) -> None:
    """Fill a tensor from a safetensors slice; where rows are cut, only this process's are read."""
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor):
        target.copy_(source[:])
        return
    target.to_local().copy_(source[own_part(target)])
