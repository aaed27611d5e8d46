"""From simulated steps to a plan: what fits, how large a micro-batch may be, work and disk."""

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_unlearn.data.batches import micro_batch
from lightning_unlearn.data.datamodule import UNLEARN, StagedDataModule
from lightning_unlearn.data.recipes import Recipe, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.quantization import check_precision
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.monitors.membership import SCORES, Membership
from lightning_unlearn.planning.micro_batch_search import Largest, find_largest
from lightning_unlearn.planning.settings import Machine, Sharing
from lightning_unlearn.planning.simulation import Measured, Phase, Simulation
from lightning_unlearn.training.trainer import StagedTrainer

LONGEST = 1024
# Processor seconds of simulation after which no further micro-batch is tried.
PATIENCE = 40.0


@dataclass(frozen=True)
class Step:
    """An optimizer step of training, or a forward of evaluation.

    Attributes:
        phase: what it is of.
        micro: sequences of one forward.
        batch: sequences of the step over all GPUs; of evaluation those of one forward.
        measured: one forward, and in training what follows.
        parts: micro-batches of one GPU.
    """

    phase: Phase
    micro: int
    batch: int
    measured: Measured
    parts: int = 1

    @property
    def flops(self) -> int:
        """Of one GPU."""
        return self.measured.flops * self.parts

    @property
    def traffic(self) -> int:
        """Bytes of one GPU's memory that are read and written."""
        return self.measured.traffic * self.parts

    @property
    def exchanged(self) -> float:
        """Bytes that one GPU sends."""
        return self.measured.exchanged * self.parts


@dataclass(frozen=True)
class Generated:
    """Answers that the model writes for a monitor.

    Attributes:
        sequences: that are written together.
        cache: bytes of keys and values, once they are as long as sequences may be.
        peak: bytes, with the model and the layers that are gathered.
    """

    sequences: int
    cache: int
    peak: int


@dataclass
class Plan:
    """All that is told.

    Attributes:
        length: tokens of each sequence.
        assumed: the length was chosen here.
        steps: by phase.
        largest: micro-batch of training.
        parameters: of the base model.
        base: bytes of the base model's weights, over all GPUs.
        adapter: bytes of what is stored after a stage.
        paths: prefixes of the paths that move the forget stage, and paths.
        counts: optimizer steps of each stage and of unlearning; None where its rows are unknown.
        precision: the Trainer's.
        host: bytes of the computer's memory that hold what GPUs do not.
        stages: those that are trained.
        generated: the most that a monitor lets the model write; None if none does.
        norms: bytes at the peak of gradient norms of single rows; None if no monitor asks for them.
        scored: rows of the forget set that are looked at once for the method's reference, as far as
            they are known. A forward without gradient of a training micro-batch, when there is no
            optimizer yet, takes less memory than the steps that follow.
    """

    machine: Machine
    sharing: Sharing
    model: ModelSettings
    length: int
    assumed: bool
    steps: dict[Phase, Step]
    largest: Largest
    parameters: int
    base: int
    adapter: int
    paths: tuple[int, int]
    counts: dict[str, int | None]
    precision: str
    host: int = 0
    stages: tuple[str, ...] = ()
    generated: Generated | None = None
    norms: int | None = None
    scored: int = 0

    @cached_property
    def misfits(self) -> list[str]:
        """Phases that do not fit, "written answers" among them."""
        usable = self.machine.usable
        found: list[str] = [n for n, step in self.steps.items() if step.measured.peak > usable]
        if self.generated is not None and self.generated.peak > usable:
            found.append("written answers")
        if self.norms is not None and self.norms > usable:
            found.append("gradient norms")
        return found

    @property
    def fits(self) -> bool:
        """Whether all phases fit."""
        return not self.misfits


def estimate(
    trainer: StagedTrainer,
    module: CausalLM,
    data: StagedDataModule,
    machine: Machine,
    shared: Sharing,
) -> Plan:
    """Simulate learning, unlearning and evaluation, and compute what follows from them.

    Args:
        trainer: made for the CPU; gives precision and method.
        module: gives the model's settings.
        data: gives stages and recipes; their files need not be there.
        machine: the GPUs.
        shared: how they share the work.

    Raises:
        InputError: for settings that can't be run.
    """
    began = time.process_time()
    if module.settings.quantization is not None:
        check_precision(str(trainer.precision))
    length = _length(module, data)
    recipes = _recipes(data)
    micros = _micro_batches(data, recipes, machine.gpus)
    simulation = Simulation(
        module.settings,
        str(trainer.precision),
        trainer.strategy.precision_plugin,
        machine.gpus,
        shared.name == "FSDP2",
        shared.layers,
    )
    try:
        phases = _Phases(simulation, trainer, recipes, machine, shared, length)
        hungriest = _hungriest(recipes, micros)
        steps = {
            phase: phases.training(phase, name, micros[name]) for phase, name in hungriest.items()
        }
        worst = max(steps.values(), key=lambda step: step.measured.peak)
        forward = phases.evaluation(simulation.evaluate(data.eval_batch_size, length))
        norms = None
        if _asks_norms(trainer):
            norms = phases.evaluation(simulation.gradient_norms(length)).peak
        steps["evaluation"] = Step(
            "evaluation", data.eval_batch_size, data.eval_batch_size, forward
        )
        share = math.gcd(*(recipe.batch_size for recipe in recipes.values())) // machine.gpus
        largest = find_largest(
            [n for n in range(1, share + 1) if share % n == 0],
            {worst.micro: worst.measured.peak},
            lambda micro: phases.train(worst.phase, hungriest[worst.phase], micro).peak,
            machine.usable,
            began + PATIENCE,
        )
        parameters, base = simulation.base
        itemsize = simulation.network.hf_model.dtype.itemsize
        return Plan(
            machine,
            shared,
            module.settings,
            length,
            data.max_length is None,
            steps,
            largest,
            parameters=parameters,
            base=base,
            adapter=phases.adapter,
            paths=_paths(data),
            counts={name: _count(data, name, recipe, machine) for name, recipe in recipes.items()},
            precision=str(trainer.precision),
            host=simulation.parameters() + 3 * phases.adapter if shared.cpu_offload else 0,
            stages=data.training_stages,
            generated=_generated(trainer, module, data, itemsize, forward, length),
            norms=norms,
            scored=_scored(trainer, data, machine) if UNLEARN in recipes else 0,
        )
    finally:
        simulation.close()


def _length(module: CausalLM, data: StagedDataModule) -> int:
    """Tokens of each sequence."""
    longest = module.pretrained.context_length
    length = data.max_length or min(longest, LONGEST)
    if length > longest:
        raise InputError(
            f"data.max_length: found {length}, but {module.settings.base} takes at most {longest} "
            "tokens."
        )
    return length


def _micro_batches(data: StagedDataModule, recipes: dict[str, Recipe], gpus: int) -> dict[str, int]:
    """Sequences of a micro-batch of each recipe."""
    keys = {name: f"data.stages.{name}" for name in recipes} | {UNLEARN: "data.unlearn"}
    return {
        name: micro_batch(recipe.batch_size, data.micro_batch_size, gpus, keys[name])
        for name, recipe in recipes.items()
    }


class _Phases:
    """Simulations of the phases of a run, with what its strategy and its monitors add.

    Attributes:
        adapter: bytes of what a stage trains.
    """

    def __init__(
        self,
        simulation: Simulation,
        trainer: StagedTrainer,
        recipes: dict[str, Recipe],
        machine: Machine,
        shared: Sharing,
        length: int,
    ) -> None:
        self._simulation = simulation
        self._method = trainer.method
        self._recipes = recipes
        self._gpus = machine.gpus
        self._shared = shared
        self._length = length
        self.adapter = simulation.parameters(LEARN)
        uses_oracle = any(monitor.uses_oracle for monitor in trainer.monitors)
        self._swapped = simulation.swapped() if uses_oracle else 0
        self._optimizer = 0

    def train(self, phase: Phase, name: str, micro: int) -> Measured:
        """Simulate a micro-batch of a recipe, and the optimizer step after it."""
        recipe = self._recipes[name]
        accumulates = recipe.batch_size > micro * self._gpus
        method = self._method if phase == "unlearning" else None
        found = self._simulation.train(phase, recipe, method, micro, self._length, accumulates)
        self._optimizer = max(self._optimizer, found.memory["optimizer"])
        return self._adjusted(found)

    def training(self, phase: Phase, name: str, micro: int) -> Step:
        """Simulate an optimizer step of a recipe."""
        batch, measured = self._recipes[name].batch_size, self.train(phase, name, micro)
        parts = batch // (micro * self._gpus)
        if self._shared.name == "DDP":
            # Once for each step.
            sent = 2 * self.adapter * (self._gpus - 1) / self._gpus
            measured = replace(measured, exchanged=sent / parts)
        return Step(phase, micro, batch, measured, parts)

    def evaluation(self, forward: Measured) -> Measured:
        """Add what is in memory while monitors evaluate the model within a stage.

        The optimizer then has its most state, and weights may be swapped with the oracle's.

        Args:
            forward: simulated alone; after the training steps.
        """
        memory = {**forward.memory, "optimizer": self._optimizer}
        memory["other"] += self._swapped
        return self._adjusted(replace(forward, memory=memory))

    def _adjusted(self, measured: Measured) -> Measured:
        """Add what the strategy changes of a simulation without it."""
        memory = dict(measured.memory)
        if self._shared.name == "DDP" and memory["optimizer"]:
            # Buckets, in which gradients are sent.
            memory["gradients"] += self.adapter
        elif self._shared.cpu_offload:
            for part in ("parameters", "gradients", "optimizer"):
                memory[part] = 0
        return replace(measured, memory=memory)


def _recipes(data: StagedDataModule) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {name: data.stages[name] for name in data.training_stages}
    if data.forget is not None and not data.oracle:
        recipes[UNLEARN] = data.unlearn
    return recipes


def _hungriest(recipes: dict[str, Recipe], micros: dict[str, int]) -> dict[Phase, str]:
    """Which recipe of each phase takes most memory."""

    def hunger(name: str) -> tuple[int, int, int]:
        recipe = recipes[name]
        state = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
        return micros[name], state, recipe.batch_size

    stages = [name for name in recipes if name != UNLEARN]
    found: dict[Phase, str] = {"learning": max(stages, key=hunger)}
    if UNLEARN in recipes:
        found["unlearning"] = UNLEARN
    return found


def _generated(
    trainer: StagedTrainer,
    module: CausalLM,
    data: StagedDataModule,
    itemsize: int,
    forward: Measured,
    length: int,
) -> Generated | None:
    """Memory while monitors have the model generate; generation itself is not simulated."""
    writers = [monitor for monitor in trainer.monitors if hasattr(monitor, "max_new_tokens")]
    if not writers:
        return None
    samples = max(
        1 if getattr(monitor, "greedy", True) else getattr(monitor, "num_samples", 1)
        for monitor in writers
    )
    config = module.pretrained.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    pairs = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads)
    sequences = data.eval_batch_size * samples
    cache = pairs * width * itemsize * sequences * length
    held = sum(size for part, size in forward.memory.items() if part != "activations")
    return Generated(sequences, cache, cache + held)


def _asks_norms(trainer: StagedTrainer) -> bool:
    memberships = [monitor for monitor in trainer.monitors if isinstance(monitor, Membership)]
    return any("gradient_norm" in (monitor.scores or SCORES) for monitor in memberships)


def _paths(data: StagedDataModule) -> tuple[int, int]:
    if data.forget is None:
        return len(data.path), 1
    paths = data.paths("positions")
    return len({path[: n + 1] for path in paths for n in range(len(path))}), len(paths)


def _scored(trainer: StagedTrainer, data: StagedDataModule, machine: Machine) -> int:
    if trainer.method is None or not trainer.method.uses_reference:
        return 0
    return _stage_rows(data, str(data.forget), machine) or 0


def _stage_rows(data: StagedDataModule, name: str, machine: Machine) -> int | None:
    return machine.rows.get(name) or _rows(data.stages[name], f"data.stages.{name}.source")


def _count(data: StagedDataModule, name: str, recipe: Recipe, machine: Machine) -> int | None:
    """Optimizer steps of a stage."""
    if recipe.steps is not None:
        return recipe.steps
    stage = data.forget if name == UNLEARN else name
    assert stage is not None
    rows = _stage_rows(data, stage, machine)
    return None if rows is None else recipe.epochs * math.ceil(rows / recipe.batch_size)


def _rows(stage: Stage, key: str) -> int | None:
    """Rows of a stage whose file is at hand; nothing is downloaded for a plan."""
    if not stage.source.startswith("demo:") and not Path(stage.source).is_file():
        return None
    options: dict[str, Any] = {
        name: getattr(stage, name) for name in ("prompt", "answer", "messages", "limit")
    }
    return len(read_rows(stage.source, **options, key=key))
