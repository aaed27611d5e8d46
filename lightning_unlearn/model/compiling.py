"""Compile decoder layers with torch.compile, and run some forwards without it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.compat import check_all_guards

BACKEND = "inductor"
# Largest number of compiled versions of a layer, which all layers share: learning and unlearning,
# with and without gradient, training and evaluation, one sequence or several. PyTorch's default
# limit is 8; above the limit, it runs uncompiled code.
VERSIONS = 32


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Compile decoder layers in place at their first use.

    Each layer is compiled separately: all layers share one program, and the hooks of FSDP2 between
    them stay outside of it. Lengths are dynamic, so batches of other lengths need no new program.

    Args:
        layers: decoder layers of one model.
    """
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VERSIONS)
    check_all_guards()
    for layer in layers:
        layer.compile(dynamic=True, backend=BACKEND)


def eager_mode(apply: bool) -> AbstractContextManager[Any]:
    """Run compiled layers uncompiled within the context.

    With a cache, every layer has a different state, which grows with each token. A custom mask is
    used in a few forwards only. In both cases compilation would cost more than it saves.

    Args:
        apply: False makes the context do nothing.
    """
    return torch.compiler.set_stance("force_eager") if apply else nullcontext()


def check_compiling(device: torch.device) -> None:
    """Test torch.compile on a small function, and refuse model.compile if it fails.

    Args:
        device: device of this process.

    Raises:
        InputError: with the error of the compiler.
    """

    def small(x: Tensor) -> Tensor:
        return nn.functional.silu(x) * x

    try:
        torch.compile(small, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # A missing or broken compiler may raise anything.
        cause = getattr(error, "inner_exception", error)
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = lines[0] if lines else type(cause).__name__
        raise InputError(
            f"model.compile: found true, but torch.compile does not work here on {device.type} "
            f"({reason}). Expected a C++ compiler (g++ or clang) on a CPU, Triton and a C compiler "
            "on a GPU, and a version of Python that torch.compile supports; or false."
        ) from None
