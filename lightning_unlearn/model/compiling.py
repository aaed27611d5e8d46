"""Decoder layers compiled by torch.compile, and the forwards that are left out of it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.errors import InputError

BACKEND = "inductor"
# Versions of a layer, which all layers share: learning and unlearning, with and without gradient,
# training and measuring, one sequence or several. PyTorch's own limit of 8 is soon reached, and
# then it goes on uncompiled.
VERSIONS = 32


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Have decoder layers compiled in place when they are first used.

    Layer by layer: all share one program, and what FSDP2 puts between them stays where it is.
    Lengths are left open, so that batches of other lengths need no new one.

    Args:
        layers: of one model.
    """
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VERSIONS)
    for layer in layers:
        layer.compile(dynamic=True, backend=BACKEND)


def eager_mode(apply: bool) -> AbstractContextManager[Any]:
    """Run what is compiled as it was written, for a while.

    With a cache every layer differs from the others, and grows from token to token; a mask of
    one's own comes in a few forwards only. Neither is worth a program of its own.

    Args:
        apply: whether to.
    """
    return torch.compiler.set_stance("force_eager") if apply else nullcontext()


def check_compiling(device: torch.device) -> None:
    """Refuse to compile where that does not work, tried on a small function.

    Args:
        device: of this process.

    Raises:
        InputError: with what is missing.
    """

    def small(x: Tensor) -> Tensor:
        return nn.functional.silu(x) * x

    try:
        torch.compile(small, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler that is missing or broken raises
        cause = getattr(error, "inner_exception", error)
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = lines[0] if lines else type(cause).__name__
        raise InputError(
            f"model.compile: found true, but torch.compile does not work here on {device.type} "
            f"({reason}). Expected a C++ compiler (g++ or clang) on a CPU, Triton and a C compiler "
            "on a GPU, and a version of Python that PyTorch compiles for; or false."
        ) from None
