"""How work is spread and in which precision: FSDP2 as a strategy of Lightning's, 16-bit bases."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from torch import nn

from lightning_unlearn.errors import InputError

HALF = ("bf16-true", "16-true")


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism: every process holds a part of every layer.

    Args:
        data_parallel_size: processes, or groups of them, that share out each batch; null takes as
            many as there are.
        tensor_parallel_size: processes of a group, which work on the same sequences and share out
            the heads and hidden units of each layer; null is 1.
        cpu_offload: keep the parts in the computer's own memory while they are not needed. Saves
            GPU memory, costs time.
        layer_classes: names of the classes of decoder layers; null finds them.
    """

    def __init__(
        self,
        data_parallel_size: int | None = None,
        tensor_parallel_size: int | None = 1,
        cpu_offload: bool = False,
        layer_classes: list[str] | None = None,
    ) -> None:
        # Parts that lie in the computer's own memory are put together there too.
        backend = "cpu:gloo,cuda:nccl" if cpu_offload and torch.cuda.is_available() else None
        group = 1 if tensor_parallel_size is None else tensor_parallel_size
        super().__init__(data_parallel_size or 1, group, process_group_backend=backend)
        self.asked = data_parallel_size
        self.tensor_parallel_size = group
        self.cpu_offload = cpu_offload
        self.layer_classes = layer_classes

    def check_processes(self) -> None:
        """Refuse a number of processes that is not the one asked for.

        Raises:
            InputError: naming both.
        """
        data, tensor = self.asked, self.tensor_parallel_size
        for name, size in (("data", data), ("tensor", tensor)):
            if size is not None and size < 1:
                raise InputError(
                    f"trainer.strategy: found {name}_parallel_size {size}, expected at least 1."
                )
        found = f"found {self.world_size} processes (trainer.devices x trainer.num_nodes) with "
        if data is not None and data * tensor != self.world_size:
            raise InputError(
                f"trainer.strategy: {found}data_parallel_size {data} x tensor_parallel_size "
                f"{tensor}, expected {data * tensor}, or null as the former."
            )
        if self.world_size % tensor:
            raise InputError(
                f"trainer.strategy: {found}tensor_parallel_size {tensor}, expected a multiple."
            )

    def setup_environment(self) -> None:
        """Connect the processes, and lay them out as a mesh."""
        self._data_parallel_size = self.world_size // self.tensor_parallel_size
        if self._device_mesh is None:
            super().setup_environment()
            return
        # Lightning asks again at every fit; the processes are connected already.
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def model_to_device(self) -> None:
        """Bring what is left elsewhere to this process's device, but for parts that stay away."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        module = self.lightning_module
        assert module is not None
        for part in module.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = buffer.to(self.root_device)
        # As its own `to` would do; batches go there.
        module._device = self.root_device


def check_strategy(strategy: Any) -> None:
    """Refuse a strategy that shares out work in a way that is not reckoned with.

    Args:
        strategy: of the Trainer.

    Raises:
        InputError: naming it.
    """
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, FSDP2)):
        raise InputError(
            f"trainer.strategy: found {type(strategy).__name__}, expected auto, ddp or fsdp2 "
            "(FSDP2): of others it is not known which process has which share of a batch."
        )


def data_share(trainer: Any) -> tuple[int, int]:
    """Which share of each batch, and of what is measured, is a process's.

    Processes that share out a layer work on the same sequences.

    Args:
        trainer: of the process.

    Returns:
        Number of the share from 0, and how many there are.
    """
    group = getattr(trainer.strategy, "tensor_parallel_size", 1)
    return trainer.global_rank // group, trainer.world_size // group


class HalfBase(HalfPrecision):
    """A base in 16 bits, adapters and what their optimizer remembers in fp32.

    Lightning's own brings all to 16 bits, in which a step of 1e-5 is lost on most weights.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """As it is: the base was opened in its precision."""
        return module

    def convert_input(self, data: Any) -> Any:
        """As it is: token ids, weights and masks of the loss."""
        return data

    def tensor_init_context(self) -> AbstractContextManager[Any]:
        """What is made without a type is fp32."""
        return nullcontext()

    def forward_context(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        """What is made without a type is fp32."""
        return nullcontext()


def with_precision(precision: str | int, plugins: Any) -> tuple[Any, Any]:
    """Precision and plugins as Lightning's Trainer takes them; 16 bits are `HalfBase`.

    Lightning refuses float64 with FSDP2 where it is asked for by name, and takes it as a plugin.

    Args:
        precision: asked for.
        plugins: given by the user, which may bring a precision of their own.
    """
    given = _as_list(plugins)
    own = any(isinstance(plugin, Precision) for plugin in given)
    if own:
        return precision, plugins
    if precision in ("64-true", "64", 64):
        return None, [*given, DoublePrecision()]
    if precision not in HALF:
        return precision, plugins
    return None, [*given, HalfBase(precision)]  # type: ignore[arg-type]


def _as_list(plugins: Any) -> list[Any]:
    return plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bf16 on a GPU that lacks it.

    Args:
        precision: of the Trainer.
        device: of this process.

    Raises:
        InputError: naming the device.
    """
    if device.type != "cuda" or not precision.startswith("bf16"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capable = torch.cuda.get_device_capability(device) >= (8, 0) or bool(torch.version.hip)
    if not capable:
        raise InputError(
            f"trainer.precision: found {precision} on {torch.cuda.get_device_name(device)}, which "
            "has no bf16, expected 32-true or 16-true there, or a GPU of 2020 (A100) or later."
        )
