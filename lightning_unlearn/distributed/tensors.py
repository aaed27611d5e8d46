"""Tensors that are cut up over processes: put together, cut as others are, filled."""

from typing import Any

import torch
from torch import Tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut up, the same on every process; all of them must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(target: Tensor, values: Tensor) -> Tensor:
    """Whole values cut up as another tensor is, if they have its shape; nothing is sent.

    Args:
        target: the other tensor.
        values: all of them, the same on every process.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor) or values.shape != target.shape:
        return values
    # By hand: `distribute_tensor` would first send all of them to the mesh's device.
    own = values[local_slices(target)].to(target.to_local().device)
    return DTensor.from_local(
        own,
        target.device_mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )


def local_slices(target: Any) -> tuple[slice, ...]:
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
def copy_into(target: Tensor, values: Tensor) -> None:
    """Give a tensor, which may be cut up, its values.

    Args:
        target: changed in place.
        values: all of them, the same on every process.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(target, DTensor):
        target.to_local().copy_(values[local_slices(target)])
    else:
        target.copy_(values)
