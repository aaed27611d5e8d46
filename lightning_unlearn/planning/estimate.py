"""Plan of a run from simulated steps: memory, largest micro-batch, work and disk space."""

import math
import time
from collections.abc import Callable
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
from lightning_unlearn.monitors.membership import SCORES, Membership
from lightning_unlearn.planning.micro_batch_search import Largest, find_largest
from lightning_unlearn.planning.settings import Machine, Sharing
from lightning_unlearn.planning.simulation import Measured, Phase, Simulation
from lightning_unlearn.training.trainer import StagedTrainer

LONGEST = 1024
# Processor seconds of simulation after which no further micro-batch is simulated.
PATIENCE = 40.0


@dataclass(frozen=True)
class Step:
    """An optimizer step of training, or a forward pass of evaluation.

    Attributes:
        phase: "learning", "unlearning" or "evaluation".
        micro: number of sequences per forward pass.
        batch: number of sequences of the step over all GPUs; in evaluation per forward pass.
        measured: measurement of one forward pass; in training also of backward pass and step.
        parts: number of micro-batches per GPU.
    """

    phase: Phase
    micro: int
    batch: int
    measured: Measured
    parts: int = 1

    @property
    def flops(self) -> int:
        """Return the floating-point operations of one GPU."""
        return self.measured.flops * self.parts

    @property
    def traffic(self) -> int:
        """Return the bytes that one GPU reads from and writes to its memory."""
        return self.measured.traffic * self.parts

    @property
    def exchanged(self) -> float:
        """Return the bytes that one GPU sends."""
        return self.measured.exchanged * self.parts


@dataclass(frozen=True)
class Generation:
    """Memory for answers that the model generates for a monitor.

    Attributes:
        sequences: number of sequences that are generated together.
        cache: bytes of keys and values for sequences of the maximum length.
        peak: bytes together with the model and the gathered layers.
    """

    sequences: int
    cache: int
    peak: int


@dataclass
class Plan:
    """The plan of a run.

    Attributes:
        machine: the GPUs.
        sharing: distribution of the work over the GPUs.
        module: the module with the settings of the model.
        length: number of tokens of each sequence.
        assumed: whether the length is a default, because data.max_length is not set.
        steps: steps by phase.
        largest: largest micro-batch of training that fits.
        parameters: number of parameters of the base model.
        base: bytes of the base model's weights, over all GPUs.
        adapter: bytes of the weights that are stored after a stage.
        paths: number of prefixes of the paths that move the forget stage, and number of paths.
        counts: optimizer steps of each stage and of unlearning; None if the rows are unknown.
        precision: precision of the Trainer.
        host: bytes in the memory of the computer for tensors that are offloaded from the GPUs.
        stages: trained stages.
        generation: largest memory for generated answers of a monitor; None if none generates.
        norms: peak bytes of gradient norms of single rows; None if no monitor requests them.
        scored: number of rows of the forget set that are evaluated once for the method's reference;
            0 if unknown. This forward pass without gradient runs before the optimizer exists and
            takes less memory than the training steps.
    """

    machine: Machine
    sharing: Sharing
    module: CausalLM
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
    generation: Generation | None = None
    norms: int | None = None
    scored: int = 0

    @cached_property
    def misfits(self) -> list[str]:
        """Return the phases that do not fit, with "generated answers" and "gradient norms"."""
        usable = self.machine.usable
        found: list[str] = [n for n, step in self.steps.items() if step.measured.peak > usable]
        if self.generation is not None and self.generation.peak > usable:
            found.append("generated answers")
        if self.norms is not None and self.norms > usable:
            found.append("gradient norms")
        return found

    @property
    def fits(self) -> bool:
        """Return whether all phases fit."""
        return not self.misfits


def estimate(
    trainer: StagedTrainer,
    module: CausalLM,
    data: StagedDataModule,
    machine: Machine,
    shared: Sharing,
) -> Plan:
    """Simulate learning, unlearning and evaluation, and return the plan.

    Args:
        trainer: a trainer for the CPU, with the precision and the method of the run.
        module: the module with the settings of the model.
        data: stages and recipes; their files may be missing.
        machine: the GPUs.
        shared: distribution of the work over the GPUs.

    Raises:
        InputError: for settings that cannot be run.
    """
    began = time.process_time()
    if module.quantization is not None:
        check_precision(str(trainer.precision))
    length = data.max_length or min(module.context, LONGEST)
    if length > module.context:
        raise InputError(
            f"data.max_length: found {length}, expected at most {module.context}, the number of "
            f"positions of {module.base}."
        )
    recipes = _recipes(data)
    micros = {
        name: micro_batch(
            recipe.batch_size,
            data.micro_batch_size,
            machine.gpus,
            "data.unlearn" if name == UNLEARN else f"data.stages.{name}",
        )
        for name, recipe in recipes.items()
    }
    simulation = Simulation(
        module,
        str(trainer.precision),
        trainer.strategy.precision_plugin,
        machine.gpus,
        shared.name == "FSDP2",
        shared.layers,
    )
    try:
        adapter, whole = simulation.parameters(LEARN), simulation.parameters()
        adjust = _adjustment(shared, adapter)

        def train(phase: Phase, name: str, micro: int) -> Measured:
            recipe = recipes[name]
            accumulates = recipe.batch_size > micro * machine.gpus
            method = trainer.method if phase == "unlearning" else None
            plain.append(simulation.train(phase, recipe, method, micro, length, accumulates))
            return adjust(plain[-1])

        plain: list[Measured] = []
        steps: dict[Phase, Step] = {}
        hungriest = _hungriest(recipes, micros)
        for phase, name in hungriest.items():
            micro, batch = micros[name], recipes[name].batch_size
            parts = batch // (micro * machine.gpus)
            measured = train(phase, name, micro)
            if shared.name == "DDP":
                # Gradients are sent once per step.
                sent = 2 * adapter * (machine.gpus - 1) / machine.gpus
                measured = replace(measured, exchanged=sent / parts)
            steps[phase] = Step(phase, micro, batch, measured, parts)
        worst = max(steps.values(), key=lambda step: step.measured.peak)
        state = max(found.memory["optimizer"] for found in plain)
        lent = simulation.lent() if any(m.uses_oracle for m in trainer.monitors) else 0

        def measure(pass_: Measured) -> Measured:
            # Monitors also evaluate inside a stage, when the state of the optimizer is complete,
            # and evaluate the oracle then.
            pass_.memory["optimizer"] = state
            pass_.memory["other"] += lent
            return adjust(pass_)

        forward = measure(simulation.evaluate(data.eval_batch_size, length))
        norms = measure(simulation.gradient_norms(length)) if _asks_norms(trainer) else None
        steps["evaluation"] = Step(
            "evaluation", data.eval_batch_size, data.eval_batch_size, forward
        )
        share = math.gcd(*(recipe.batch_size for recipe in recipes.values())) // machine.gpus
        largest = find_largest(
            [n for n in range(1, share + 1) if share % n == 0],
            {worst.micro: worst.measured.peak},
            lambda micro: train(worst.phase, hungriest[worst.phase], micro).peak,
            machine.usable,
            began + PATIENCE,
        )
        lm = simulation.module.lm
        parameters, base = simulation.base
        return Plan(
            machine,
            shared,
            module,
            length,
            data.max_length is None,
            steps,
            largest,
            parameters=parameters,
            base=base,
            adapter=adapter,
            paths=_paths(data),
            counts={name: _count(data, name, recipe, machine) for name, recipe in recipes.items()},
            precision=str(trainer.precision),
            host=(whole + 3 * adapter) if shared.cpu_offload else 0,
            stages=data.trained,
            generation=_generation(trainer, module, data, lm.dtype.itemsize, forward, length),
            norms=None if norms is None else norms.peak,
            scored=_scored(trainer, data, machine) if UNLEARN in recipes else 0,
        )
    finally:
        simulation.close()


def _recipes(data: StagedDataModule) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {name: data.stages[name] for name in data.trained}
    if data.forget is not None and not data.oracle:
        recipes[UNLEARN] = data.unlearn
    return recipes


def _hungriest(recipes: dict[str, Recipe], micros: dict[str, int]) -> dict[Phase, str]:
    """Return the recipe with the largest memory of each phase."""

    def hunger(name: str) -> tuple[int, int, int]:
        recipe = recipes[name]
        state = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
        return micros[name], state, recipe.batch_size

    stages = [name for name in recipes if name != UNLEARN]
    found: dict[Phase, str] = {"learning": max(stages, key=hunger)}
    if UNLEARN in recipes:
        found["unlearning"] = UNLEARN
    return found


def _adjustment(shared: Sharing, trained: int) -> Callable[[Measured], Measured]:
    """Return the function that adds the memory of a strategy to a simulation without it."""

    def adjusted(measured: Measured) -> Measured:
        memory = dict(measured.memory)
        if shared.name == "DDP" and memory["optimizer"]:
            # DDP copies gradients into buckets to send them.
            memory["gradients"] += trained
            return replace(measured, memory=memory)
        if shared.cpu_offload:
            for part in ("parameters", "gradients", "optimizer"):
                memory[part] = 0
        return replace(measured, memory=memory)

    return adjusted


def _generation(
    trainer: StagedTrainer,
    module: CausalLM,
    data: StagedDataModule,
    itemsize: int,
    forward: Measured,
    length: int,
) -> Generation | None:
    """Return the memory of generated answers by formula; generation is not simulated."""
    writers = [monitor for monitor in trainer.monitors if hasattr(monitor, "max_new_tokens")]
    if not writers:
        return None
    attempts = max(
        1 if getattr(monitor, "greedy", True) else getattr(monitor, "attempts", 1)
        for monitor in writers
    )
    config = module.model_config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    pairs = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads)
    sequences = data.eval_batch_size * attempts
    cache = pairs * width * itemsize * sequences * length
    held = sum(size for part, size in forward.memory.items() if part != "activations")
    return Generation(sequences, cache, cache + held)


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
    """Return the number of optimizer steps of a stage; None if its rows are unknown."""
    if recipe.steps is not None:
        return recipe.steps
    stage = data.forget if name == UNLEARN else name
    assert stage is not None
    rows = _stage_rows(data, stage, machine)
    return None if rows is None else recipe.epochs * math.ceil(rows / recipe.batch_size)


def _rows(stage: Stage, key: str) -> int | None:
    """Return the number of rows of a local file; None for other sources: plan downloads nothing."""
    if not stage.source.startswith("demo:") and not Path(stage.source).is_file():
        return None
    options: dict[str, Any] = {
        name: getattr(stage, name) for name in ("prompt", "answer", "messages", "limit")
    }
    return len(read_rows(stage.source, **options, key=key))
