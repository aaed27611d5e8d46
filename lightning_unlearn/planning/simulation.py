"""Simulation of the real steps of one process, on tensors with shapes but without memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_unlearn.data.batches import Batch, Counts, GlobalBatch, collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.attention import FLASH, fuse_as_gpu
from lightning_unlearn.model.build import build_network
from lightning_unlearn.model.compat import clip_gradients
from lightning_unlearn.model.log_probs import LogProbs, chunks_of_accelerator
from lightning_unlearn.model.objective import Objective, RetainTerm, shares, supervised
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
    """Memory and work of one micro-batch of a phase on one GPU, with its optimizer step.

    Attributes:
        memory: bytes by part at the peak.
        flops: floating-point operations of matrix products and attention.
        traffic: bytes that operations read and write in the GPU's memory.
        exchanged: bytes sent to other GPUs.
    """

    memory: dict[Part, int]
    flops: int
    traffic: int
    exchanged: float

    @property
    def peak(self) -> int:
        """Return the bytes of all parts at the peak."""
        return sum(self.memory.values())


class _Optimizer:
    """The module's optimizer on this process's shards as plain tensors.

    The computation is the same. For lists of sharded tensors PyTorch would compute the placement of
    the shards, which takes longer than a forward pass.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.pairs: list[tuple[nn.Parameter, Tensor]] = []
        for group in optimizer.param_groups:
            # PyTorch chooses this implementation on a GPU.
            group["foreach"] = True
            own = [(p, local_part(p).detach()) for p in group["params"]]
            group["params"] = [part for _, part in own]
            self.pairs += own
        self.param_groups = optimizer.param_groups

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors of the optimizer's state."""
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
    """A simulated model on one of several processes; call `close` at the end.

    Args:
        settings: settings of the model.
        precision: precision of the Trainer.
        precision_plugin: precision plugin of the Trainer, on the CPU.
        processes: number of GPUs.
        sharded: whether FSDP2 shards the model.
        layers: ``layer_classes`` of `FSDP2`.
        on_gpu: use the implementations of a GPU where a CPU uses other ones.
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
            # FlashAttention takes no more memory than PyTorch's attention, and may be missing here.
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
        """Activate the weights of a phase, and make those trainable that it trains."""
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
        """Simulate a micro-batch and the optimizer step after it.

        Args:
            phase: "learning" or "unlearning".
            recipe: recipe with the settings of the optimizer.
            method: the unlearning method; None in learning. Its retain rows and alternates have
                the same length.
            micro: number of sequences of a micro-batch.
            length: number of tokens of each sequence; all but one are labels.
            accumulates: whether gradients of earlier micro-batches exist already.
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
            step = GlobalBatch([batch], micro * length, micro)
            objective: Objective = supervised
            retain: RetainTerm | None = None
            if phase == "unlearning" and method is not None:
                objective, retain = method.objective, method.retain_term()
                _pair(step, method)
            self.network.train()
            meter = self._meter()
            for tensor in optimizer.tensors():
                meter.put(tensor, "optimizer")
            with meter.counting(), self.placement.autocast(), torch.enable_grad():
                self._step(step, objective, retain, optimizer, recipe)
            if method is not None:
                method._reference = method._alternates_reference = None
        return self._measured(meter)

    def _step(
        self,
        batch: GlobalBatch,
        objective: Objective,
        retain: RetainTerm | None,
        optimizer: "_Optimizer",
        recipe: Recipe,
    ) -> None:
        """Run an optimizer step in the same way as `CausalLM.training_step`."""
        total = torch.zeros((), dtype=self.network.result_dtype)
        for own in shares(batch, objective, retain):
            loss = own.loss(self.network)
            (loss * self.processes).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if recipe.gradient_clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip_gradients(parameters, recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()

    def evaluate(self, sequences: int, length: int) -> Measured:
        """Simulate a forward pass for statistics of label tokens, as monitors request it.

        Args:
            sequences: number of sequences of the forward pass.
            length: number of tokens of each sequence.
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
            length: number of tokens of the sequence.
        """
        if self.adapters is not None:
            self._activate("evaluation")
        with self._prepared():
            meter = self._meter()
            with meter.counting():
                self.evaluator.gradient_norms([Example((0,), (0,) * (length - 1))])
        return self._measured(meter)

    def swapped(self) -> int:
        """Return the bytes per GPU of the weights that `ModelWeights.swapped` sets aside."""
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
        """Destroy the group of simulated processes."""
        if self.placement.is_sharded and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def parameters(self, adapter: str | None = None) -> int:
        """Return the bytes of the parameters over all GPUs.

        Args:
            adapter: name of an adapter; None for the whole model.
        """
        if adapter is None or self.adapters is None:
            return _bytes(self.network.parameters())
        return _bytes(self.adapters.parameters(adapter).values())

    @property
    def base(self) -> tuple[int, int]:
        """Return number of parameters of the base model, and bytes of its weights on all GPUs."""
        hf_model = self.network.hf_model
        kept = [p for name, p in hf_model.named_parameters() if "lora_" not in name]
        count = sum(p.numel() for p in kept)
        for module in hf_model.modules():
            if isinstance(module, PackedLinear):
                count += module.in_features * module.out_features
                count -= sum(p.numel() for p in (module.weight, module.scales, module.numbers))
        return count, _bytes(kept)


def _mesh(processes: int) -> Any:
    """Create a mesh of simulated processes, which send and receive nothing."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    # Older versions of PyTorch need this import for the results of collectives.
    import_module("torch.distributed._tools.fake_collectives")
    if distributed.is_initialized():
        distributed.destroy_process_group()
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    return init_device_mesh("cpu", (processes,), mesh_dim_names=("data_parallel",))


def _give_gradients(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def _batch(sequences: int, length: int) -> Batch:
    """Return sequences with one prompt token, and so the maximum number of label tokens."""
    examples = [Example((0,), (0,) * (length - 1))] * sequences
    return collate(examples, range(sequences), pad_id=0)


def _pair(step: GlobalBatch, method: Unlearning) -> None:
    """Give a step the further rows and the reference that a method uses."""
    (batch,) = step.micro_batches
    rows = _batch(*batch.input_ids.shape)
    if method.uses_retain:
        batch.retain, step.retain = rows, Counts(step.tokens, step.sequences)
    if method.uses_alternates:
        batch.alternates = rows
    method._reference = LogProbs(torch.zeros(batch.mask.shape), batch.mask)
    method._alternates_reference = method._reference


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
