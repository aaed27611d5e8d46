"""Plan of a run from simulated steps: memory, largest micro-batch, work and disk space."""

import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_unlearn.data.batches import micro_batch
from lightning_unlearn.data.datamodule import UNLEARN, StagedDataModule
from lightning_unlearn.data.recipes import Recipe, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.data.stage_rows import columns_of
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.quantization import check_precision
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.monitors.membership import SCORES, Membership
from lightning_unlearn.planning.history_steps import history_steps
from lightning_unlearn.planning.micro_batch_search import Largest
from lightning_unlearn.planning.phases import Phases, Step, hungriest_recipes
from lightning_unlearn.planning.settings import Machine, Sharing
from lightning_unlearn.planning.simulation import Measured, Phase, Simulation
from lightning_unlearn.training.oracle_model import OracleModel
from lightning_unlearn.training.trainer import StagedTrainer
from lightning_unlearn.unlearning.path_aware import PathAware

LONGEST = 1024
# Processor seconds of simulation after which no further micro-batch is simulated.
PATIENCE = 40.0


@dataclass(frozen=True)
class Generated:
    """Memory for answers that the model generates for a monitor.

    Attributes:
        sequences: number of sequences that are generated together.
        cache: bytes of keys and values for sequences of the maximum length.
        peak: bytes together with the model and the gathered layers.
    """

    sequences: int
    cache: int
    peak: int


@dataclass(frozen=True)
class OracleNeeds:
    """Memory for an oracle that is a model of its own; see `training.oracle_values`.

    Attributes:
        peak: bytes of its evaluation, before training, when no other model is in memory.
        head: bytes of the copy of its output projection, during unlearning; 0 without a KL.
        states: bytes on disk of its hidden states per label token; 0 without a KL.
    """

    peak: int
    head: int
    states: int


@dataclass
class Plan:
    """The plan of a run.

    Attributes:
        machine: the GPUs.
        sharing: distribution of the work over the GPUs.
        model: settings of the model.
        length: number of tokens of each sequence.
        assumed: whether the length is a default, because data.max_length is not set.
        steps: steps by phase.
        largest: largest micro-batch of training that fits.
        parameters: number of parameters of the base model.
        base: bytes of the base model's weights, over all GPUs.
        adapter: bytes of the weights that are stored after a stage.
        paths: number of prefixes of the paths that move the forget stage, and number of paths.
        counts: optimizer steps of each stage, of unlearning, and of the history of a path-aware
            method; None if the rows are unknown.
        precision: precision of the Trainer.
        host: bytes in the memory of the computer for tensors that are offloaded from the GPUs.
        stages: trained stages; if none is trained, the learned ones.
        generated: largest memory for generated answers of a monitor; None if none generates.
        norms: peak bytes of gradient norms of single rows; None if no monitor requests them.
        oracle: memory for an oracle that is a model of its own; None without one.
        scored: number of rows of the forget set and their alternates, one for each row, that are
            evaluated once for the method's reference; 0 if unknown. This forward pass without
            gradient runs before the optimizer exists and takes less memory than the training steps.
        paired: kinds of rows that a step of unlearning computes besides the forget rows, one of
            each kind for each forget row.
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
    paired: tuple[str, ...] = ()
    oracle: OracleNeeds | None = None

    @cached_property
    def misfits(self) -> list[str]:
        """Return the phases that do not fit, with "oracle" and the others of its kind."""
        usable = self.machine.usable
        found: list[str] = [n for n, step in self.steps.items() if step.measured.peak > usable]
        if self.generated is not None and self.generated.peak > usable:
            found.append("generated answers")
        if self.norms is not None and self.norms > usable:
            found.append("gradient norms")
        if self.oracle is not None and self.oracle.peak > usable:
            found.append("oracle")
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
    if module.settings.quantization is not None:
        check_precision(str(trainer.precision))
    length = _length(module, data)
    recipes = _recipes(data, trainer)
    method = trainer.method if data.forget is not None and not data.oracle else None
    if method is not None:
        method.check(module, data)
    how = (
        str(trainer.precision),
        trainer.strategy.precision_plugin,
        machine.gpus,
        shared.name == "FSDP2",
        shared.layers,
    )
    oracle = None
    if trainer.oracle is not None and any(m.uses_oracle for m in trainer.monitors):
        oracle = _oracle(trainer, module, data, length, how)
    simulation = Simulation(module.settings, *how)
    try:
        phases = Phases(simulation, trainer, recipes, machine, shared, length)
        if oracle is not None:
            phases.oracle_head = oracle.head
        found = _plan(phases, trainer, module, data, began + PATIENCE)
        found.oracle = oracle
        return found
    finally:
        simulation.close()


def _plan(
    phases: Phases,
    trainer: StagedTrainer,
    module: CausalLM,
    data: StagedDataModule,
    deadline: float,
) -> Plan:
    simulation, recipes, machine = phases.simulation, phases.recipes, phases.machine
    size, length = data.eval_batch_size, phases.length
    micros = _micro_batches(data, recipes, machine.gpus)
    hungriest = hungriest_recipes(recipes, micros)
    steps = {phase: phases.training(phase, name, micros[name]) for phase, name in hungriest.items()}
    worst = max(steps.values(), key=lambda step: step.measured.peak)
    forward = phases.evaluation(simulation.evaluate(size, length))
    norms = None
    if _asks_norms(trainer):
        norms = phases.evaluation(simulation.gradient_norms(length)).peak
    steps["evaluation"] = Step("evaluation", size, size, forward)
    largest = phases.largest_micro_batch(worst, hungriest[worst.phase], deadline)
    parameters, base = simulation.base
    itemsize = simulation.network.hf_model.dtype.itemsize
    return Plan(
        machine,
        phases.shared,
        module.settings,
        length,
        data.max_length is None,
        steps,
        largest,
        parameters=parameters,
        base=base,
        adapter=phases.adapter,
        paths=_paths(data),
        counts=_counts(phases, trainer, data),
        precision=str(trainer.precision),
        host=simulation.parameters() + 3 * phases.adapter if phases.shared.cpu_offload else 0,
        stages=data.training_stages or data.path,
        generated=_generated(trainer, module, data, itemsize, forward, length),
        norms=norms,
        scored=_scored(trainer, data, machine) if UNLEARN in recipes else 0,
        paired=_paired(trainer) if UNLEARN in recipes else (),
    )


def _oracle(
    trainer: StagedTrainer, module: CausalLM, data: StagedDataModule, length: int, how: Any
) -> OracleNeeds:
    """Simulate the evaluation of an oracle that is a model of its own."""
    assert trainer.oracle is not None, "the caller checks it"
    settings = OracleModel(trainer.oracle, module.settings).model_settings
    asks_kl = any(getattr(monitor, "kl", False) for monitor in trainer.monitors)
    simulation = Simulation(settings, *how)
    try:
        peak = simulation.evaluate(data.eval_batch_size, length).peak
        if _asks_norms(trainer):
            peak = max(peak, simulation.gradient_norms(length).peak)
        hf_model = simulation.network.hf_model
        head = hf_model.get_output_embeddings()
        size = sum(p.numel() * p.element_size() for p in head.parameters())
        width = hf_model.config.get_text_config().hidden_size * hf_model.dtype.itemsize
        return OracleNeeds(peak, size * asks_kl, width * asks_kl)
    finally:
        simulation.close()


def _length(module: CausalLM, data: StagedDataModule) -> int:
    """Return the number of tokens of each sequence."""
    longest = module.pretrained.context_length
    length = data.max_length or min(longest, LONGEST)
    if length > longest:
        raise InputError(
            f"data.max_length: found {length}, expected at most {longest}, the number of "
            f"positions of {module.settings.base}."
        )
    return length


def _micro_batches(data: StagedDataModule, recipes: dict[str, Recipe], gpus: int) -> dict[str, int]:
    """Return the number of sequences of a micro-batch of each recipe."""
    keys = {name: f"data.stages.{name}" for name in recipes} | {UNLEARN: "data.unlearn"}
    return {
        name: micro_batch(recipe.batch_size, data.micro_batch_size, gpus, keys[name])
        for name, recipe in recipes.items()
    }


def _recipes(data: StagedDataModule, trainer: StagedTrainer) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {name: data.stages[name] for name in data.training_stages}
    if data.forget is not None and not data.oracle:
        # A path-aware method makes no step of unlearning.
        if not isinstance(trainer.method, PathAware):
            recipes[UNLEARN] = data.unlearn
        elif not recipes:
            raise InputError(
                f"plan: found no stage to train and {trainer.method.name}, which makes no "
                "optimizer step, expected a stage to train or another method."
            )
    return recipes


def _counts(
    phases: Phases, trainer: StagedTrainer, data: StagedDataModule
) -> dict[str, int | None]:
    """Return the optimizer steps of each recipe, and of the history of a path-aware method."""
    machine = phases.machine
    counts = {name: _count(data, name, own, machine) for name, own in phases.recipes.items()}
    if isinstance(trainer.method, PathAware) and not data.oracle:
        history = history_steps(trainer.method, data, counts)
        counts |= {} if history is None else {"history": history}
    return counts


def _generated(
    trainer: StagedTrainer,
    module: CausalLM,
    data: StagedDataModule,
    itemsize: int,
    forward: Measured,
    length: int,
) -> Generated | None:
    """Return the memory of generated answers by formula; generation is not simulated."""
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
    if data.forget is None or data.forget in data.learned:
        return len(data.training_stages), 1
    paths = data.paths("positions")
    begin = len(data.learned)
    prefixes = {path[: n + 1] for path in paths for n in range(begin, len(path))}
    return len(prefixes), len(paths)


def _scored(trainer: StagedTrainer, data: StagedDataModule, machine: Machine) -> int:
    if trainer.method is None or not trainer.method.uses_reference:
        return 0
    rows = _stage_rows(data, str(data.forget), machine) or 0
    return 2 * rows if trainer.method.uses_alternates else rows


def _paired(trainer: StagedTrainer) -> tuple[str, ...]:
    method = trainer.method
    if method is None:
        return ()
    kinds = {"retain rows": method.uses_retain, "alternates": method.uses_alternates}
    return tuple(kind for kind, used in kinds.items() if used)


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
    if stage.text is not None:
        return None  # The number of windows is known only after tokenizing.
    return len(read_rows(stage.source, limit=stage.limit, key=key, **columns_of(stage)))
