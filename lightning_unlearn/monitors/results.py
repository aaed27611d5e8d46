"""What monitors saw during a run, kept per step and per example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.view import BASE, Measurement

if TYPE_CHECKING:
    from lightning_unlearn.monitors.base import Monitor


def ignore(*values: Any) -> None:
    """Nobody wants to know."""


@dataclass
class Observations:
    """The measures of one run.

    Attributes:
        data: the stages.
        monitors: whoever will look; what they ask of one step shares its forwards.
        oracle: folder of the weights of the model retrained without the forget stage, `BASE` where
            nothing is left to train without it; None where there is no oracle to compare with.
        log: called with measure, step and value of every new mean.
        busy: called with a few words when a look starts that may take a while.
        steps: (step, measure, mean over the examples), in the order measured.
        examples: (step, measure, example number from 0, value).
    """

    data: StagedDataModule
    monitors: Sequence["Monitor"] = ()
    oracle: Path | str | None = None
    log: Callable[[str, int, float], None] = ignore
    busy: Callable[[str], None] = ignore
    steps: list[tuple[int, str, float]] = field(default_factory=list)
    examples: list[tuple[int, str, int, float]] = field(default_factory=list)
    _view: tuple[int, Measurement] | None = None
    _prompts: dict[Any, Any] = field(default_factory=dict)
    _added: set[tuple[int, str]] = field(default_factory=set)

    def view(self, module: CausalLM, step: int) -> Measurement:
        """The model at a step; monitors of the same step share it."""
        if self._view is None or self._view[0] != step:
            due = [m for m in self.monitors if m.due(step, module.total_steps)]
            asks = [ask for monitor in due for ask in monitor.asks(self.data)]
            oracle, base = self._constants(module)
            view = Measurement(module, self.data, self._prompts, asks, oracle, base)
            self._view = (step, view)
        return self._view[1]

    def _constants(self, module: CausalLM) -> tuple[Measurement | None, Measurement]:
        """The oracle and the base model, which do not change during a run.

        What they answered is remembered with the module: the next run may ask the same.
        """
        base = self._stored(module, BASE)
        if self.oracle is None or self.oracle == BASE:
            return (base if self.oracle else None), base
        return self._stored(module, self.oracle), base

    def _stored(self, module: CausalLM, weights: Path | str) -> Measurement:
        # Of the same rows, so that a pass over them computes all that will be asked.
        asks = tuple(ask for monitor in self.monitors for ask in monitor.asks(self.data))
        which = BASE if weights == BASE else "oracle"
        known: Measurement | None = module.remembered.get(which)
        if (
            known is None
            or known.data is not self.data
            or (known.weights, known.asks) != (weights, asks)
        ):
            known = Measurement(module, self.data, self._prompts, asks, weights=weights)
            module.remembered[which] = known
        return known

    def add(self, step: int, measure: str, values: Tensor) -> None:
        """Keep a measure.

        Args:
            step: optimizer steps of unlearning made so far.
            measure: its name, such as "answers/tofu".
            values: one per example, ``[examples]``, or a scalar.

        Raises:
            InputError: if another monitor measured it at this step.
        """
        if (step, measure) in self._added:
            raise InputError(
                f"trainer.callbacks: two monitors measure {measure!r}, and which of the two a "
                "record is of could not be told. Keep one of them."
            )
        self._added.add((step, measure))
        per_example = values.detach().double().cpu()
        mean = per_example.mean().item()
        self.steps.append((step, measure, mean))
        if per_example.ndim:
            numbered = enumerate(per_example.tolist())
            self.examples += [(step, measure, number, value) for number, value in numbered]
        self.log(measure, step, mean)

    def first_and_last(self) -> dict[str, tuple[float, float]]:
        """The mean of each measure at the first and at the last step it was looked at."""
        ends: dict[str, tuple[float, float]] = {}
        for _, measure, value in self.steps:
            ends[measure] = (ends[measure][0] if measure in ends else value, value)
        return ends
