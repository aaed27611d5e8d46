"""Load the base weights of a sharded model: each process reads only its own shard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.distributed.tensors import copy_into, local_slices
from lightning_unlearn.model.pretrained import weight_files


def load_sharded_weights(
    lm: Any,
    name: str,
    read_whole: Callable[[], dict[str, Tensor]],
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Load the base weights from safetensors; each process reads only its own shard.

    Args:
        lm: the Hugging Face model, with or without PEFT layers.
        name: folder, ``demo:NAME``, or hub name.
        read_whole: returns all weights by name; used if the checkpoint has other names of weights
            than the model.
        say: called with a warning in that case.

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
            f"model.base: the files of {name} have other names of weights than the model "
            f"({missing[0]} is not among them), so every process reads all files and needs memory "
            "for the full model."
        )
        for key, values in read_whole().items():
            if key in wanted:
                copy_into(wanted[key], values)
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
    """Fill a tensor from a safetensors slice; of a sharded tensor, read only the own rows."""
    from torch.distributed.tensor import DTensor

    if not isinstance(target, DTensor):
        target.copy_(source[:])
        return
    target.to_local().copy_(source[local_slices(target)])
