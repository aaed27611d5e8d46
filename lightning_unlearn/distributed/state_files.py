"""States of callbacks and optimizers on disk: JSON and safetensors, never pickle."""

import json
import re
import types
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.distributed.tensors import full_tensor, shard_like

VALUES, TENSORS = "state.json", "state.safetensors"
_TENSOR, _TUPLE, _SET, _PAIRS = "tensor", "tuple", "set", "pairs"


# What an object may keep that does not change with its work.
CONSTANT = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    re.Pattern,
    PurePath,
)


def attributes(owner: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an object keeps in attributes, for `write_state`, which takes plain values and tensors.

    Args:
        owner: the object.
        leave_out: names of attributes that are no state.

    Returns:
        By name; without functions, classes and patterns, which are no state.
    """
    return {
        name: value
        for name, value in vars(owner).items()
        if name not in leave_out and not isinstance(value, CONSTANT)
    }


def write_state(folder: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of plain values and tensors.

    Args:
        folder: an existing folder; gets state.json and state.safetensors.
        state: the values.

    Raises:
        TypeError: naming the place of a value of another kind.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    values = _pack(state, tensors, "state")
    (folder / VALUES).write_text(json.dumps(values) + "\n", encoding="utf-8")
    save_file(tensors, folder / TENSORS)


def read_state(folder: Path, device: torch.device) -> Any:
    """Read what `write_state` wrote; tensors come to a device."""
    from safetensors.torch import load_file

    values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    return _unpack(values, load_file(folder / TENSORS, device=str(device)))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer remembers of its steps, whole, by number of the parameter.

    Every process must ask.
    """
    state: dict[str, Any] = optimizer.state_dict()["state"]
    return {
        str(number): {
            name: full_tensor(value).cpu() if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer of the same parameters that memory; its settings stay its own."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = optimizer.state_dict()
    own["state"] = {
        int(number): {
            name: shard_like(parameters[int(number)], value) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in state.items()
    }
    optimizer.load_state_dict(own)


def _pack(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """A value as JSON holds it; what JSON can't hold is a dict with one telling key."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Tensor):
        # Numbered, for two places may be written alike: key 1 and key "1".
        name = f"{len(tensors)} {place}"
        # Copied: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, tensors, f"{place}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, (set, frozenset)):
        items = sorted(value, key=repr)
        return {_SET: [_pack(item, tensors, f"{place}.{i}") for i, item in enumerate(items)]}
    if isinstance(value, dict):
        pairs = [
            [_pack(k, tensors, f"{place}.key{i}"), _pack(v, tensors, f"{place}.{k}")]
            for i, (k, v) in enumerate(value.items())
        ]
        return {_PAIRS: pairs}
    raise TypeError(f"{place} is of the type {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == _TENSOR:
        return tensors[inner]
    if kind == _PAIRS:
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in inner}
    items = [_unpack(item, tensors) for item in inner]
    return tuple(items) if kind == _TUPLE else set(items)
