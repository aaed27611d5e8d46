"""Simulation of the real steps of one process, on tensors with shapes but without memory."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_unlearn.data.batches import Batch, GlobalBatch, collate
from lightning_unlearn.data.chat import Example
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.distributed import sharding
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.model import adapters
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.attention import FLASH, fuse_as_gpu
from lightning_unlearn.model.causal_lm import CausalLM, supervised
from lightning_unlearn.model.log_probs import LogProbs, chunks_of_accelerator
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.quantization import COMPUTE
from lightning_unlearn.planning.memory_meter import Meter, Part, local_part
from lightning_unlearn.planning.nf4_layers import PackedLinear, pack
from lightning_unlearn.unlearning.base import Unlearning

Phase = Literal["learning", "unlearning", "evaluation"]
CPU = torch.device("cpu")


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


class _Strategy(FSDP2):
    """The parts of FSDP2 that a module uses, without processes."""

    root_device = CPU

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = None) -> Tensor:
        # Return a number: training checks the loss, and a tensor without memory has no value.
        return torch.tensor(0.0)


class _Simulated(CausalLM):
    """The module without Lightning's training loop and without weight files."""

    fake: FakeTensorMode
    optimizer: "_Optimizer"

    def _open(self) -> Any:
        lm = self._empty_lm()
        if self.quantization is not None:
            pack(lm, COMPUTE[self._precision()])
        return lm

    def _fill(self, net: LogProbModel, lm: Any) -> None:
        # The strategy does this with a configured model.
        self.trainer.precision_plugin.convert_module(net)
        with self.fake, _quiet():
            sharding.materialize(net, lm, CPU)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self.optimizer

    def lr_schedulers(self) -> Any:
        return SimpleNamespace(step=lambda: None)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass

    def to_device(self, batch: Any) -> Any:
        return batch

    def _squared_gradients(self, loss: Tensor, parameters: list[Tensor]) -> float:
        # Leave out the sum: a tensor without memory has no value.
        if self.is_sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                parameter.grad = None
        else:
            torch.autograd.grad(loss, parameters, allow_unused=True)
        return 0.0


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
        module: the module of the run; only its settings are read.
        precision: precision of the Trainer.
        precision_plugin: precision plugin of the Trainer, on the CPU.
        processes: number of GPUs.
        sharded: whether FSDP2 shards the model.
        layers: ``layer_classes`` of `FSDP2`.
        on_gpu: use the implementations of a GPU where a CPU uses other ones.
    """

    def __init__(
        self,
        module: CausalLM,
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
        taken = [name for name in inspect.signature(CausalLM).parameters if hasattr(module, name)]
        settings = {name: getattr(module, name) for name in taken} | {"compile": False}
        if module.attn_implementation.startswith(FLASH):
            # FlashAttention takes no more memory than PyTorch's attention, and may be missing here.
            settings["attn_implementation"] = "sdpa"
        self.module = _Simulated(**settings)
        self.module.fake = self.fake
        trainer = SimpleNamespace(
            precision=precision,
            precision_plugin=precision_plugin,
            strategy=_Strategy(layer_classes=layers),
            world_size=processes,
            global_rank=0,
        )
        # Bypass Lightning's setter, which requires a real Trainer.
        vars(self.module)["_trainer"] = trainer
        if sharded:
            self.module._device_mesh = _mesh(processes)
        self.module._build()
        if on_gpu and self.module.attn_implementation == "sdpa":
            fuse_as_gpu(self.module.lm)
        if not sharded:
            assert self.module.net is not None
            self.module._fill(self.module.net, self.module.lm)

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
            method: the unlearning method; None in learning.
            micro: number of sequences of a micro-batch.
            length: number of tokens of each sequence; all but one are labels.
            accumulates: whether gradients of earlier micro-batches exist already.
        """
        module = self.module
        module.stage, module.recipe = phase, recipe
        module.objective = supervised
        if module.peft is None:
            module.lm.requires_grad_(True)
        elif phase == "unlearning":
            adapters.choose_adapters(module.peft, [LEARN, UNLEARN], UNLEARN)
        else:
            adapters.choose_adapters(module.peft, [LEARN], LEARN)
        with self._prepared():
            (optimizer,), _ = module.configure_optimizers()
            module.optimizer = _Optimizer(optimizer)
            trained = [p for p in module.parameters() if p.requires_grad]
            _give_gradients(trained)
            module.optimizer.step()
            module.optimizer.zero_grad()
            if accumulates:
                _give_gradients(trained)
            batch = _batch(micro, length)
            if phase == "unlearning" and method is not None:
                method._reference = LogProbs(torch.zeros(batch.mask.shape), batch.mask)
                module.objective = method.objective
            module.train()
            meter = self._meter()
            for remembered in module.optimizer.tensors():
                meter.put(remembered, "optimizer")
            with meter.counting(), module.precision_context(), torch.enable_grad():
                module.training_step(GlobalBatch([batch], micro * length, micro), 0)
            if method is not None:
                method._reference = None
        del module.optimizer
        return self._measured(meter)

    def evaluate(self, sequences: int, length: int) -> Measured:
        """Simulate a forward pass for statistics of label tokens, as monitors request it.

        Args:
            sequences: number of sequences of the forward pass.
            length: number of tokens of each sequence.
        """
        module = self.module
        assert module.net is not None
        if module.peft is not None:
            adapters.choose_adapters(module.peft, [LEARN, UNLEARN], UNLEARN)
        with self._prepared():
            batch = _batch(sequences, length)
            meter = self._meter()
            with meter.counting(), module.measuring():
                module.net(batch.input_ids, batch.source, batch.target, wanted="statistics")
        return self._measured(meter)

    def gradient_norms(self, length: int) -> Measured:
        """Simulate the gradient of one sequence, as `CausalLM.gradient_norms` computes it.

        Args:
            length: number of tokens of the sequence.
        """
        module = self.module
        if module.peft is not None:
            adapters.choose_adapters(module.peft, [LEARN, UNLEARN], UNLEARN)
        with self._prepared():
            meter = self._meter()
            with meter.counting():
                module.gradient_norms([Example((0,), (0,) * (length - 1))])
        return self._measured(meter)

    def lent(self) -> int:
        """Return the bytes per GPU of the weights that `CausalLM.borrowed` sets aside."""
        if self.module.peft is None:
            return _whole_bytes(map(local_part, self.module.lm.parameters()))
        pair = [adapters.adapter_parameters(self.module.peft, which) for which in (LEARN, UNLEARN)]
        return sum(_whole_bytes(map(local_part, one.values())) for one in pair)

    def _meter(self) -> Meter:
        meter = Meter(self.processes)
        for parameter in self.module.parameters():
            meter.put(parameter, "parameters")
            if parameter.grad is not None:
                meter.put(parameter.grad, "gradients")
        for buffer in self.module.buffers():
            meter.put(buffer, "other")
        return meter

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.fake)
            stack.enter_context(_quiet())
            stack.enter_context(torch.random.fork_rng(devices=[]))
            if self.on_gpu:
                stack.enter_context(chunks_of_accelerator())
            yield

    def _measured(self, meter: Meter) -> Measured:
        return Measured(meter.peak, meter.flops, meter.traffic, meter.exchanged)

    def close(self) -> None:
        """Destroy the group of simulated processes."""
        if self.module.is_sharded and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def parameters(self, adapter: str | None = None) -> int:
        """Return the bytes of the parameters over all GPUs.

        Args:
            adapter: name of an adapter; None for the whole model.
        """
        if adapter is None:
            return _whole_bytes(self.module.parameters())
        if self.module.peft is None:
            return _whole_bytes(self.module.lm.parameters())
        return _whole_bytes(adapters.adapter_parameters(self.module.peft, adapter).values())

    @property
    def base(self) -> tuple[int, int]:
        """Return number of parameters of the base model, and bytes of its weights on all GPUs."""
        lm = self.module.lm
        kept = [p for name, p in lm.named_parameters() if "lora_" not in name]
        count = sum(p.numel() for p in kept)
        for module in lm.modules():
            if isinstance(module, PackedLinear):
                count += module.in_features * module.out_features
                count -= sum(p.numel() for p in (module.weight, module.scales, module.numbers))
        return count, _whole_bytes(kept)


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


def _whole_bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # FSDP2 compares the addresses of tensors, and tensors without memory have none.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield
