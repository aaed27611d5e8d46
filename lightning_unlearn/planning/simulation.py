"""One process's part of the real steps, on tensors that have shapes and no memory."""

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


class _Strategy(FSDP2):
    """FSDP2 as far as a module asks for it, without processes."""

    root_device = CPU

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = None) -> Tensor:
        # The loss is looked at, and a tensor without memory has no value.
        return torch.tensor(0.0)


class _Simulated(CausalLM):
    """The module without Lightning's loop, and without weights to read."""

    fake: FakeTensorMode
    optimizer: "_Optimizer"

    def _open(self) -> Any:
        lm = self._empty_lm()
        if self.quantization is not None:
            pack(lm, COMPUTE[self._precision()])
        return lm

    def _fill(self, net: LogProbModel, lm: Any) -> None:
        # As the strategy does with what was configured.
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
        # Without the sum, which has no value either.
        if self.is_sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                parameter.grad = None
        else:
            torch.autograd.grad(loss, parameters, allow_unused=True)
        return 0.0


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
        module: what is planned; it is only asked for its settings.
        precision: the Trainer's.
        precision_plugin: the Trainer's, on the CPU.
        processes: GPUs.
        sharded: FSDP2 shares the model out.
        layers: as of `FSDP2`.
        on_gpu: compute as a GPU does, if a CPU would do it otherwise.

    Ends with `close`.
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
            # It takes no more memory than PyTorch's own, and need not be installed for a plan.
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
        # Past Lightning's setter, which wants a real Trainer.
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
        """A micro-batch, and the optimizer step after it.

        Args:
            phase: "learning" or "unlearning".
            recipe: gives the optimizer.
            method: of unlearning.
            micro: sequences of a micro-batch.
            length: tokens of each sequence, of which all but one are labels.
            accumulates: gradients of other micro-batches are there already.
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
        """Statistics of the label tokens of sequences, as monitors ask for them.

        Args:
            sequences: of one forward.
            length: tokens of each.
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
        """The gradient of one sequence, as `CausalLM.gradient_norms` takes it.

        Args:
            length: tokens.
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
        """Bytes of one GPU that `CausalLM.borrowed` keeps of its own weights meanwhile."""
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
        """Take leave of the processes that were not there."""
        if self.module.is_sharded and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def parameters(self, adapter: str | None = None) -> int:
        """Bytes of the whole model's parameters, or of one adapter's, over all GPUs."""
        if adapter is None:
            return _whole_bytes(self.module.parameters())
        if self.module.peft is None:
            return _whole_bytes(self.module.lm.parameters())
        return _whole_bytes(adapters.adapter_parameters(self.module.peft, adapter).values())

    @property
    def base(self) -> tuple[int, int]:
        """Parameters of the base model, and bytes of what is kept of them over all GPUs."""
        lm = self.module.lm
        kept = [p for name, p in lm.named_parameters() if "lora_" not in name]
        count = sum(p.numel() for p in kept)
        for module in lm.modules():
            if isinstance(module, PackedLinear):
                count += module.in_features * module.out_features
                count -= sum(p.numel() for p in (module.weight, module.scales, module.numbers))
        return count, _whole_bytes(kept)


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


def _whole_bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # FSDP2 compares where tensors lie, which those without memory do not say.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield
