"""Placement: the device, the precision and the processes in which a module computes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningModule
from torch import nn

from lightning_unlearn.distributed import sharding
from lightning_unlearn.distributed.strategy import data_share

# Weights have the dtype of the Trainer's precision if it is a "true" precision, else fp32.
_WEIGHT_DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


def weight_dtype(precision: str) -> torch.dtype:
    """Return the dtype of a base model's weights for a precision of the Trainer."""
    return _WEIGHT_DTYPES.get(precision, torch.float32)


class Placement:
    """The device, the precision and the processes of a module.

    Every property reads the module's current Trainer. Therefore a placement can be constructed
    before the Trainer. Without a Trainer, a module computes in fp32, in one process.

    Args:
        module: the module.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module

    @property
    def _trainer(self) -> Any:
        return self._module._trainer

    @property
    def _strategy(self) -> Any:
        return self._trainer.strategy if self._trainer is not None else None

    @property
    def device(self) -> torch.device:
        """The device on which the module computes."""
        return self._module.device

    @property
    def root_device(self) -> torch.device:
        """The device to which the strategy moves the module."""
        return self._strategy.root_device if self._strategy is not None else torch.device("cpu")

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._module.global_rank

    @property
    def precision(self) -> str:
        """The Trainer's precision."""
        return str(self._trainer.precision) if self._trainer is not None else "32-true"

    @property
    def weight_dtype(self) -> torch.dtype:
        """The dtype of the base model's weights."""
        return weight_dtype(self.precision)

    @property
    def is_sharded(self) -> bool:
        """Whether every process has only a shard of the model."""
        return self._module._device_mesh is not None

    @property
    def layer_classes(self) -> list[str] | None:
        """Names of the classes of decoder layers, as in `FSDP2`; None to find them."""
        return getattr(self._strategy, "layer_classes", None)

    @property
    def data_share(self) -> tuple[int, int]:
        """Number of this process's share of the data, from 0, and the number of shares."""
        return data_share(self._trainer) if self._trainer is not None else (0, 1)

    def shard_of(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return this process's share of a sequence of numbers."""
        share, shares = self.data_share
        return numbers[share::shares]

    def max_over_ranks(self, count: int) -> int:
        """Return the highest count of all processes that share a sharded model.

        Args:
            count: count of this process; the result if the model is not sharded.
        """
        if not self.is_sharded:
            return count
        counts = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
        return int(counts.item())

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context that applies the Trainer's precision to forwards outside its steps."""
        if self._trainer is None:
            return nullcontext()
        context: AbstractContextManager[Any] = self._trainer.precision_plugin.forward_context()
        return context

    def to_device(self, batch: Any) -> Any:
        """Return a batch, moved to the module's device."""
        return move_data_to_device(batch, self.device)

    def move_to_cpu(self) -> None:
        """Move the module to the CPU, unless it must stay on its device."""
        self._module.cpu()

    def shard(
        self,
        network: nn.Module,
        hf_model: Any,
        layers: Sequence[nn.Module],
        reduce_dtype: torch.dtype,
    ) -> None:
        """Shard a model over the processes; see `lightning_unlearn.distributed.sharding.shard`."""
        mesh = self._module._device_mesh
        assert mesh is not None
        sharding.shard(network, hf_model, layers, mesh, self._strategy, reduce_dtype)

    def materialize(self, network: nn.Module, hf_model: Any) -> None:
        """Allocate this process's memory for a sharded model, which is on the meta device."""
        offloads = getattr(self._strategy, "cpu_offload", False)
        device = torch.device("cpu") if offloads else self.root_device
        sharding.materialize(network, hf_model, device)

    def warn(self, text: str) -> None:
        """Print a warning in the first process, if there is a Trainer."""
        messages = getattr(self._trainer, "messages", None)
        if messages is not None and self.rank == 0:
            messages.warn(text)
