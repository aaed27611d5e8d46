"""Tensors that may be sharded over processes: gather them, shard like another, copy into them."""

from typing import Any

import torch
from torch import Tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be sharded; all processes must call it and get the same result."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(target: Tensor, values: Tensor) -> Tensor:
    """Shard full values like another tensor, without communication.

    Args:
        target: the other tensor.
        values: full tensor, the same on every process.

    Returns:
        The sharded values; `values` itself if `target` is not sharded or has another shape.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor) or values.shape != target.shape:
        return values
    # Not `distribute_tensor`: it would first copy the full tensor to the device of the mesh.
    shard = values[local_slices(target)].to(target.to_local().device)
    return DTensor.from_local(
        shard,
        target.device_mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )


def local_slices(target: Any) -> tuple[slice, ...]:
    """Return the slices of the full tensor that this process has, one for each axis.

    Args:
        target: tensor that FSDP2 has sharded by rows over the first axis of the mesh. If the mesh
            has two axes, tensor parallelism has sharded it before over the second.
    """
    from torch.distributed.tensor import Shard

    mesh = target.device_mesh
    slices = [slice(0, count) for count in target.shape]
    if mesh.ndim == 2 and isinstance(target.placements[1], Shard):
        axis = target.placements[1].dim
        count = target.shape[axis] // mesh.size(1)
        first = count * mesh.get_local_rank(1)
        slices[axis] = slice(first, first + count)
    # FSDP2 divides the rows of the tensor-parallel shard, not of the full tensor. The placements
    # of the DTensor do not show this.
    start, stop = slices[0].start, slices[0].stop
    rows = -(-(stop - start) // mesh.size(0))
    first = min(start + rows * mesh.get_local_rank(0), stop)
    slices[0] = slice(first, min(first + rows, stop))
    shape = tuple(each.stop - each.start for each in slices)
    assert shape == tuple(target.to_local().shape), "sharded by FSDP2 and tensor parallelism"
    return tuple(slices)


@torch.no_grad()
def copy_into(target: Tensor, values: Tensor) -> None:
    """Copy full values into a tensor that may be sharded.

    Args:
        target: tensor that is changed in place.
        values: full tensor, the same on every process.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(target, DTensor):
        target.to_local().copy_(values[local_slices(target)])
    else:
        target.copy_(values)
