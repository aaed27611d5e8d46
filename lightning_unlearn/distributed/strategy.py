"""Strategy and precision: FSDP2 as a Lightning strategy, and bases in 16 bits."""

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
    """Fully sharded data parallelism: every process has a shard of every layer.

    Args:
        data_parallel_size: number of processes, or groups of processes, over which each batch is
            distributed; null for all.
        tensor_parallel_size: number of processes in a group. A group works on the same sequences
            and shards the heads and hidden units of each layer; null is 1.
        cpu_offload: keep the shards in CPU memory while they are not needed. It saves GPU memory
            and costs time.
        layer_classes: class names of the decoder layers; null detects them.
    """

    def __init__(
        self,
        data_parallel_size: int | None = None,
        tensor_parallel_size: int | None = 1,
        cpu_offload: bool = False,
        layer_classes: list[str] | None = None,
    ) -> None:
        # Shards in CPU memory are also gathered there, by gloo.
        backend = "cpu:gloo,cuda:nccl" if cpu_offload and torch.cuda.is_available() else None
        group = 1 if tensor_parallel_size is None else tensor_parallel_size
        super().__init__(data_parallel_size or 1, group, process_group_backend=backend)
        self.requested_data_parallel_size = data_parallel_size
        self.tensor_parallel_size = group
        self.cpu_offload = cpu_offload
        self.layer_classes = layer_classes

    def check_processes(self) -> None:
        """Refuse a number of processes that does not match the requested sizes.

        Raises:
            InputError: with the numbers found and expected.
        """
        data, tensor = self.requested_data_parallel_size, self.tensor_parallel_size
        for name, size in (("data", data), ("tensor", tensor)):
            if size is not None and size < 1:
                raise InputError(
                    f"trainer.strategy: found {name}_parallel_size {size}, expected at least 1."
                )
        found = f"found {self.world_size} processes (trainer.devices x trainer.num_nodes) with "
        if data is not None and data * tensor != self.world_size:
            raise InputError(
                f"trainer.strategy: {found}data_parallel_size {data} x tensor_parallel_size "
                f"{tensor}, expected {data * tensor} processes, or data_parallel_size null."
            )
        if self.world_size % tensor:
            raise InputError(
                f"trainer.strategy: {found}tensor_parallel_size {tensor}, expected a multiple of "
                f"{tensor} processes."
            )

    def setup_environment(self) -> None:
        """Connect the processes and arrange them as a mesh."""
        self._data_parallel_size = self.world_size // self.tensor_parallel_size
        if self._device_mesh is None:
            super().setup_environment()
            return
        # Lightning calls this at every fit, but the processes are already connected.
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def model_to_device(self) -> None:
        """Move the module to the device of this process; with cpu_offload, only its buffers."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        module = self.lightning_module
        assert module is not None
        for submodule in module.modules():
            for name, buffer in submodule._buffers.items():
                if buffer is not None:
                    submodule._buffers[name] = buffer.to(self.root_device)
        # `module.to` would set it too. Lightning moves batches to this device.
        module._device = self.root_device


def check_strategy(strategy: Any) -> None:
    """Refuse a strategy whose distribution of batches over processes is unknown.

    Args:
        strategy: strategy of the Trainer.

    Raises:
        InputError: with the class of the strategy.
    """
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, FSDP2)):
        raise InputError(
            f"trainer.strategy: found {type(strategy).__name__}, expected auto, ddp or fsdp2 "
            "(FSDP2): for other strategies it is unknown which process gets which share of a batch."
        )


def data_share(trainer: Any) -> tuple[int, int]:
    """Return which share of each batch, and of all evaluation rows, this process computes.

    All processes of a tensor-parallel group compute the same share.

    Args:
        trainer: trainer of the process.

    Returns:
        Number of the share from 0, and the number of shares.
    """
    group = getattr(trainer.strategy, "tensor_parallel_size", 1)
    return trainer.global_rank // group, trainer.world_size // group


class HalfBase(HalfPrecision):
    """Precision with the base in 16 bits, and adapters and optimizer states in fp32.

    Lightning's HalfPrecision converts everything to 16 bits. In 16 bits, a step of 1e-5 is lost on
    most weights.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Return the module unchanged: the base was loaded in its precision."""
        return module

    def convert_input(self, data: Any) -> Any:
        """Return the data unchanged: token ids, and weights and masks of the loss."""
        return data

    def tensor_init_context(self) -> AbstractContextManager[Any]:
        """Return a context in which tensors without a dtype are created in fp32."""
        return nullcontext()

    def forward_context(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return a context in which tensors without a dtype are created in fp32."""
        return nullcontext()


def with_precision(precision: str | int, plugins: Any) -> tuple[Any, Any]:
    """Return the arguments precision and plugins of Lightning's Trainer; 16 bits use `HalfBase`.

    With FSDP2, Lightning refuses float64 as an argument precision but accepts it as a plugin.

    Args:
        precision: requested precision.
        plugins: plugins of the user, which may include a precision plugin.

    Returns:
        Precision and plugins.
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
    """Refuse bf16 on a GPU that does not support it.

    Args:
        precision: precision of the Trainer.
        device: device of this process.

    Raises:
        InputError: with the name of the device.
    """
    if device.type != "cuda" or not precision.startswith("bf16"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capable = torch.cuda.get_device_capability(device) >= (8, 0) or bool(torch.version.hip)
    if not capable:
        raise InputError(
            f"trainer.precision: found {precision} on {torch.cuda.get_device_name(device)}, which "
            "does not support bf16, expected 32-true, 16-true, or a GPU of 2020 (A100) or later."
        )
