"""Stand-ins for parts of a model, with which it is simulated without weights and processes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.model.evaluator import Evaluator
from lightning_unlearn.model.pretrained import PretrainedModel
from lightning_unlearn.model.quantization import COMPUTE
from lightning_unlearn.planning.nf4_layers import pack

CPU = torch.device("cpu")


class SimulatedPlacement(Placement):
    """One of several processes that are not there, on the CPU.

    Args:
        precision: the Trainer's.
        precision_plugin: the Trainer's.
        processes: how many.
        mesh: of the processes, if they share the model; else None.
        layers: as of `FSDP2`.
        fake: tensors are made without memory under it.
    """

    def __init__(
        self,
        precision: str,
        precision_plugin: Any,
        processes: int,
        mesh: Any,
        layers: list[str] | None,
        fake: FakeTensorMode,
    ) -> None:
        self._fake = fake
        trainer = SimpleNamespace(
            precision=precision,
            precision_plugin=precision_plugin,
            strategy=SimpleNamespace(root_device=CPU, layer_classes=layers),
            world_size=processes,
            global_rank=0,
        )
        module: Any = SimpleNamespace(
            _trainer=trainer, _device_mesh=mesh, device=CPU, global_rank=0
        )
        super().__init__(module)

    def materialize(self, network: nn.Module, hf_model: Any) -> None:
        """Give a model tensors that have shapes and no memory."""
        # As the strategy does with what was configured.
        self._trainer.precision_plugin.convert_module(network)
        with self._fake, quiet_fsdp():
            super().materialize(network, hf_model)

    def to_device(self, batch: Any) -> Any:
        """Return the batch as it is."""
        return batch


class WeightlessModel(PretrainedModel):
    """The base model without weights to read."""

    def open(self, placement: Placement) -> Any:
        """Return the model on the meta device, with stand-ins for quantized layers."""
        hf_model = self.empty(placement.weight_dtype)
        if self.settings.quantization is not None:
            pack(hf_model, COMPUTE[placement.precision])
        return hf_model

    def load_into(self, hf_model: Any, placement: Placement, name: str | None = None) -> None:
        """Do nothing."""


class SimulatedEvaluator(Evaluator):
    """The evaluator on tensors that have no values."""

    def _squared_gradients(self, loss: Tensor, parameters: list[Tensor]) -> float:
        # Without the sum, which has no value either.
        if self.placement.is_sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                parameter.grad = None
        else:
            torch.autograd.grad(loss, parameters, allow_unused=True)
        return 0.0


@contextmanager
def quiet_fsdp() -> Iterator[None]:
    """Ignore warnings of FSDP2 about tensors without memory."""
    with warnings.catch_warnings():
        # FSDP2 compares where tensors lie, which those without memory do not say.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield
