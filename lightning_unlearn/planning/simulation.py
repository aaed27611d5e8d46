"""One process's part of the real steps, on tensors that have shapes and no memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_unlearn.data.batches import Batch, GlobalBatch, collate
from lightning_unlearn.data.chat import Example
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.attention import FLASH, fuse_as_gpu
from lightning_unlearn.model.build import build_network
from lightning_unlearn.model.compat import clip_gradients
from lightning_unlearn.model.log_probs import LogProbs, chunks_of_accelerator
from lightning_unlearn.model.objective import Objective, share_of_mean, supervised
from lightning_unlearn.model.optimizer import make_optimizer
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.planning.memory_meter import Meter, Part, local_part
from lightning_unlearn.planning.nf4_layers import PackedLinear
from lightning_unlearn.planning.stand_ins import (
    SimulatedEvaluator,
    SimulatedPlacement,
    WeightlessModel,
    quiet_fsdp,
)
from lightning_unlearn.unlearning.base import Unlearning

Phase = Literal["learning", "unlearning", "evaluation"]


@dataclass(frozen=True)
class Measured:
    """What one micro-batch of a phase takes on one GPU, an optimizer step included.

    Attributes:
        memory: bytes by part at the peak.
        flops: of matrix products and attention.
        traffic: bytes that operations read and write in the GPU's memory.
        exchanged: bytes sent to other GPUs.
    """

    memory: dict[Part, int]
    flops: int
    traffic: int
    exchanged: float

    @property
    def peak(self) -> int:
        """Bytes at the peak, all parts together."""
        return sum(self.memory.values())


class _Optimizer:
    """The module's optimizer, over this process's parts as plain tensors.

    What it computes is the same. For cut up tensors PyTorch would work out, for every list of them,
    how the parts lie, which takes longer than a forward.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.pairs: list[tuple[nn.Parameter, Tensor]] = []
        for group in optimizer.param_groups:
            # What PyTorch chooses on a GPU.
            group["foreach"] = True
            own = [(p, local_part(p).detach()) for p in group["params"]]
            group["params"] = [part for _, part in own]
            self.pairs += own
        self.param_groups = optimizer.param_groups

    def tensors(self) -> Iterator[Tensor]:
        """All that it remembers."""
        for values in self.optimizer.state.values():
            yield from (value for value in values.values() if isinstance(value, Tensor))

    def step(self) -> None:
        for parameter, part in self.pairs:
            part.grad = None if parameter.grad is None else local_part(parameter.grad)
        self.optimizer.step()

    def zero_grad(self) -> None:
        for parameter, part in self.pairs:
            parameter.grad = part.grad = None


class Simulation:
    """A model as one of several processes has it.

    Args:
        settings: of the model.
        precision: the Trainer's.
        precision_plugin: the Trainer's, on the CPU.
        processes: GPUs.
        sharded: FSDP2 shards the model.
        layers: as of `FSDP2`.
        on_gpu: compute as a GPU does, if a CPU would do it otherwise.

    Ends with `close`.
    """

    def __init__(
        self,
        settings: ModelSettings,
        precision: str,
        precision_plugin: Any,
        processes: int,
        sharded: bool,
        layers: list[str] | None = None,
        on_gpu: bool = True,
    ) -> None:
        self.processes = processes
        self.on_gpu = on_gpu
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        if settings.attn_implementation.startswith(FLASH):
            # It takes no more memory than PyTorch's own, and need not be installed for a plan.
            settings = replace(settings, attn_implementation="sdpa")
        settings = replace(settings, compile=False)
        mesh = _mesh(processes) if sharded else None
        self.placement = SimulatedPlacement(
            precision, precision_plugin, processes, mesh, layers, self.fake
        )
        pretrained = WeightlessModel(settings)
        self.network, self.adapters = build_network(settings, pretrained, self.placement)
        if on_gpu and settings.attn_implementation == "sdpa":
            fuse_as_gpu(self.network.hf_model)
        if not sharded:
            self.placement.materialize(self.network, self.network.hf_model)
        self.evaluator = SimulatedEvaluator(self.network, self.adapters, self.placement)

    def _activate(self, phase: Phase) -> None:
        """Choose the weights that take part in a phase and are trained."""
        if self.adapters is None:
            self.network.hf_model.requires_grad_(True)
        elif phase == "learning":
            self.adapters.set_active([LEARN], LEARN)
        else:
            self.adapters.set_active([LEARN, UNLEARN], UNLEARN)

    def train(
        self,
        phase: Phase,
        recipe: Recipe,
        method: Unlearning | None,
        micro: int,
        length: int,
        accumulates: bool,
    ) -> Measured:
        """Simulate a micro-batch, and the optimizer step after it.

        Args:
            phase: "learning" or "unlearning".
            recipe: gives the optimizer.
            method: of unlearning.
            micro: sequences of a micro-batch.
            length: tokens of each sequence, of which all but one are labels.
            accumulates: gradients of other micro-batches are there already.
        """
        self._activate(phase)
        with self._prepared():
            optimizer = _Optimizer(make_optimizer(self.network.parameters(), recipe))
            trained = [p for p in self.network.parameters() if p.requires_grad]
            _give_gradients(trained)
            optimizer.step()
            optimizer.zero_grad()
            if accumulates:
                _give_gradients(trained)
            batch = _batch(micro, length)
            objective: Objective = supervised
            if phase == "unlearning" and method is not None:
                method._reference = LogProbs(torch.zeros(batch.mask.shape), batch.mask)
                objective = method.objective
            self.network.train()
            meter = self._meter()
            for tensor in optimizer.tensors():
                meter.put(tensor, "optimizer")
            with meter.counting(), self.placement.autocast(), torch.enable_grad():
                self._step(
                    GlobalBatch([batch], micro * length, micro), objective, optimizer, recipe
                )
            if method is not None:
                method._reference = None
        return self._measured(meter)

    def _step(
        self, batch: GlobalBatch, objective: Objective, optimizer: "_Optimizer", recipe: Recipe
    ) -> None:
        """An optimizer step, as `CausalLM.training_step` makes it."""
        (micro_batch,) = batch.micro_batches
        total = torch.zeros((), dtype=self.network.result_dtype)
        loss = share_of_mean(objective(self.network, micro_batch), micro_batch, batch)
        (loss * self.processes).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        if recipe.gradient_clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip_gradients(parameters, recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()

    def evaluate(self, sequences: int, length: int) -> Measured:
        """Simulate statistics of the label tokens of sequences, as monitors request them.

        Args:
            sequences: of one forward.
            length: tokens of each.
        """
        if self.adapters is not None:
            self._activate("evaluation")
        with self._prepared():
            batch = _batch(sequences, length)
            meter = self._meter()
            with meter.counting(), self.evaluator.eval_mode():
                self.network(
                    batch.input_ids, batch.label_positions, batch.label_ids, output="statistics"
                )
        return self._measured(meter)

    def gradient_norms(self, length: int) -> Measured:
        """Simulate the gradient of one sequence, as `Evaluator.gradient_norms` computes it.

        Args:
            length: tokens.
        """
        if self.adapters is not None:
            self._activate("evaluation")
        with self._prepared():
            meter = self._meter()
            with meter.counting():
                self.evaluator.gradient_norms([Example((0,), (0,) * (length - 1))])
        return self._measured(meter)

    def swapped(self) -> int:
        """Bytes of one GPU that `ModelWeights.swapped` keeps of the present weights meanwhile."""
        if self.adapters is None:
            return _bytes(map(local_part, self.network.parameters()))
        pair = [self.adapters.parameters(name) for name in (LEARN, UNLEARN)]
        return sum(_bytes(map(local_part, one.values())) for one in pair)

    def _meter(self) -> Meter:
        meter = Meter(self.processes)
        for parameter in self.network.parameters():
            meter.put(parameter, "parameters")
            if parameter.grad is not None:
                meter.put(parameter.grad, "gradients")
        for buffer in self.network.buffers():
            meter.put(buffer, "other")
        return meter

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.fake)
            stack.enter_context(quiet_fsdp())
            stack.enter_context(torch.random.fork_rng(devices=[]))
            if self.on_gpu:
                stack.enter_context(chunks_of_accelerator())
            yield

    def _measured(self, meter: Meter) -> Measured:
        return Measured(meter.peak, meter.flops, meter.traffic, meter.exchanged)

    def close(self) -> None:
        """Disconnect from the processes that were not there."""
        if self.placement.is_sharded and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def parameters(self, adapter: str | None = None) -> int:
        """Bytes of the whole model's parameters, or of one adapter's, over all GPUs."""
        if adapter is None or self.adapters is None:
            return _bytes(self.network.parameters())
        return _bytes(self.adapters.parameters(adapter).values())

    @property
    def base(self) -> tuple[int, int]:
        """Parameters of the base model, and bytes of what is kept of them over all GPUs."""
        hf_model = self.network.hf_model
        kept = [p for name, p in hf_model.named_parameters() if "lora_" not in name]
        count = sum(p.numel() for p in kept)
        for module in hf_model.modules():
            if isinstance(module, PackedLinear):
                count += module.in_features * module.out_features
                count -= sum(p.numel() for p in (module.weight, module.scales, module.numbers))
        return count, _bytes(kept)


def _mesh(processes: int) -> Any:
    """Processes that are not there: what they would send is not sent."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    # Tells older versions of PyTorch what collectives give.
    import_module("torch.distributed._tools.fake_collectives")
    if distributed.is_initialized():
        distributed.destroy_process_group()
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    return init_device_mesh("cpu", (processes,), mesh_dim_names=("data_parallel",))


def _give_gradients(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def _batch(sequences: int, length: int) -> Batch:
    """Sequences of one token of prompt: the most label tokens that there can be."""
    examples = [Example((0,), (0,) * (length - 1))] * sequences
    return collate(examples, range(sequences), pad_id=0)


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
