"""What monitors saw during a run, kept per step and per example."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.module import CausalLM
from lightning_unlearn.monitors.measurement import Measurement


def ignore(*values: Any) -> None:
    """Nobody wants to know."""


@dataclass
class Observations:
    """The measures of one run.

    Attributes:
        data: the stages.
        log: called with measure, step and value of every new mean.
        busy: called with a few words when a look starts that may take a while.
        steps: (step, measure, mean over the examples), in the order measured.
        examples: (step, measure, example number from 0, value).
    """

    data: StagedDataModule
    log: Callable[[str, int, float], None] = ignore
    busy: Callable[[str], None] = ignore
    steps: list[tuple[int, str, float]] = field(default_factory=list)
    examples: list[tuple[int, str, int, float]] = field(default_factory=list)
    _view: tuple[int, Measurement] | None = None
    _prompts: dict[Any, Any] = field(default_factory=dict)

    def view(self, module: CausalLM, step: int) -> Measurement:
        """The model at a step; monitors of the same step share it."""
        if self._view is None or self._view[0] != step:
            self._view = (step, Measurement(module, self.data, self._prompts))
        return self._view[1]

    def add(self, step: int, measure: str, values: Tensor) -> None:
        """Keep a measure.

        Args:
            step: optimizer steps of unlearning made so far.
            measure: its name, such as "answers/tofu".
            values: one per example, ``[examples]``, or a scalar.
        """
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
