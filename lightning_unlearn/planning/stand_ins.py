"""Stand-ins for parts of a model, to simulate it without weights and processes."""

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
    """The placement of one of several simulated processes, on the CPU.

    Args:
        precision: precision of the Trainer.
        precision_plugin: precision plugin of the Trainer.
        processes: number of processes.
        mesh: mesh of the processes if they share the model; otherwise None.
        layers: ``layer_classes`` of `FSDP2`.
        fake: mode in which tensors are created without memory.
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
        """Create the tensors of a model, with shapes but without memory."""
        # The strategy does this with a configured model.
        self._trainer.precision_plugin.convert_module(network)
        with self._fake, quiet_fsdp():
            super().materialize(network, hf_model)

    def to_device(self, batch: Any) -> Any:
        """Return the batch as it is."""
        return batch


class WeightlessModel(PretrainedModel):
    """The base model without weight files."""

    def open(self, placement: Placement) -> Any:
        """Create the model on the meta device, with stand-ins for quantized layers."""
        hf_model = self.empty(placement.weight_dtype)
        if self.settings.quantization is not None:
            pack(hf_model, COMPUTE[placement.precision])
        return hf_model

    def load_into(self, hf_model: Any, placement: Placement, name: str | None = None) -> None:
        """Do nothing."""


class SimulatedEvaluator(Evaluator):
    """The evaluator on tensors without values."""

    def _squared_gradients(self, loss: Tensor, parameters: list[Tensor]) -> float:
        # Leave out the sum: a tensor without memory has no value.
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
        # FSDP2 compares the addresses of tensors, and tensors without memory have none.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield
