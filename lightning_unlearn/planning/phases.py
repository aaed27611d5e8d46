"""Simulation of the phases of a run, with the memory that its strategy and monitors add."""

import math
from dataclasses import dataclass, replace

from lightning_unlearn.data.datamodule import UNLEARN
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.monitors.membership import Membership
from lightning_unlearn.planning.micro_batch_search import Largest, find_largest
from lightning_unlearn.planning.settings import Machine, Sharing
from lightning_unlearn.planning.simulation import Measured, Phase, Simulation
from lightning_unlearn.training.trainer import StagedTrainer


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


class Phases:
    """Simulations of the phases of a run, with the memory that its strategy and monitors add.

    Args:
        simulation: simulation of the model.
        trainer: a trainer with the method and the monitors of the run.
        recipes: recipes of the trained stages, and of unlearning.
        machine: the GPUs.
        shared: distribution of the work over the GPUs.
        length: number of tokens of each sequence.

    Attributes:
        adapter: bytes of the weights that a stage trains.
        oracle_head: bytes of the output projection of an oracle that is a model of its own.
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
        self.simulation = simulation
        self.recipes = recipes
        self.machine = machine
        self.shared = shared
        self.length = length
        self._method = trainer.method
        self.adapter = simulation.parameters(LEARN)
        uses_oracle = any(monitor.uses_oracle for monitor in trainer.monitors)
        # Membership compares with the base model too.
        swaps = trainer.oracle is None or any(isinstance(m, Membership) for m in trainer.monitors)
        self._swapped = simulation.swapped() if uses_oracle and swaps else 0
        self.oracle_head = 0
        self._optimizer = 0

    def train(self, phase: Phase, name: str, micro: int) -> Measured:
        """Simulate a micro-batch of a recipe, and the optimizer step after it."""
        recipe = self.recipes[name]
        accumulates = recipe.batch_size > micro * self.machine.gpus
        method = self._method if phase == "unlearning" else None
        found = self.simulation.train(phase, recipe, method, micro, self.length, accumulates)
        self._optimizer = max(self._optimizer, found.memory["optimizer"])
        return self._adjusted(found)

    def training(self, phase: Phase, name: str, micro: int) -> Step:
        """Simulate an optimizer step of a recipe."""
        batch, measured = self.recipes[name].batch_size, self.train(phase, name, micro)
        parts = batch // (micro * self.machine.gpus)
        if self.shared.name == "DDP":
            # Gradients are sent once per step.
            sent = 2 * self.adapter * (self.machine.gpus - 1) / self.machine.gpus
            measured = replace(measured, exchanged=sent / parts)
        return Step(phase, micro, batch, measured, parts)

    def largest_micro_batch(self, step: Step, name: str, deadline: float) -> Largest:
        """Find the largest micro-batch that fits.

        Args:
            step: the training step with the largest memory.
            name: name of its recipe.
            deadline: processor time after which no further simulation starts.
        """
        sizes = [recipe.batch_size for recipe in self.recipes.values()]
        share = math.gcd(*sizes) // self.machine.gpus
        return find_largest(
            [n for n in range(1, share + 1) if share % n == 0],
            {step.micro: step.measured.peak},
            lambda micro: self.train(step.phase, name, micro).peak,
            self.machine.usable,
            deadline,
        )

    def evaluation(self, forward: Measured) -> Measured:
        """Add the memory of training to a simulated forward pass of a monitor.

        Monitors also evaluate inside a stage, when the state of the optimizer is complete, and
        evaluate the oracle then. Simulate the training steps first.

        Args:
            forward: the simulated forward pass.
        """
        memory = {**forward.memory, "optimizer": self._optimizer}
        memory["other"] += self._swapped
        return self._adjusted(replace(forward, memory=memory))

    def _adjusted(self, measured: Measured) -> Measured:
        """Add the memory of the strategy to a simulation without it."""
        memory = dict(measured.memory)
        memory["other"] += self.oracle_head
        if self.shared.name == "DDP" and memory["optimizer"]:
            # DDP copies gradients into buckets to send them.
            memory["gradients"] += self.adapter
        elif self.shared.cpu_offload:
            for part in ("parameters", "gradients", "optimizer"):
                memory[part] = 0
        return replace(measured, memory=memory)


def hungriest_recipes(recipes: dict[str, Recipe], micros: dict[str, int]) -> dict[Phase, str]:
    """Return the recipe with the largest memory of each phase."""

    def hunger(name: str) -> tuple[int, int, int]:
        recipe = recipes[name]
        state = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
        return micros[name], state, recipe.batch_size

    stages = [name for name in recipes if name != UNLEARN]
    found: dict[Phase, str] = {}
    if stages:
        found["learning"] = max(stages, key=hunger)
    if UNLEARN in recipes:
        found["unlearning"] = UNLEARN
    return found
