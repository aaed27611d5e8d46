"""What monitors saw during a run, kept per step and per example."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.view import BASE, ModelView, RowRequest


def ignore(*values: Any) -> None:
    """Nobody wants to know."""


def no_requests(data: StagedDataModule, step: int | None, total: int) -> list[RowRequest]:
    """No monitor asks for anything."""
    return []


@dataclass
class EvaluationResults:
    """The measures of one run.

    Attributes:
        data: the stages.
        requests: gives the row sets that monitors ask for at a step of so many, or, with None for
            the step, at any: all requests of one step share their forwards.
        oracle: folder of the weights of the model retrained without the forget stage, `BASE` where
            nothing is left to train without it; None where there is no oracle to compare with.
        log: called with measure, step and value of every new mean.
        busy: called with a few words when a look starts that may take a while.
        steps: (step, measure, mean over the examples), in the order measured.
        examples: (step, measure, example number from 0, value).
    """

    data: StagedDataModule
    requests: Callable[[StagedDataModule, int | None, int], list[RowRequest]] = no_requests
    oracle: Path | str | None = None
    log: Callable[[str, int, float], None] = ignore
    busy: Callable[[str], None] = ignore
    steps: list[tuple[int, str, float]] = field(default_factory=list)
    examples: list[tuple[int, str, int, float]] = field(default_factory=list)
    _view: tuple[int, ModelView] | None = None
    _prompts: dict[Any, Any] = field(default_factory=dict)
    _added: set[tuple[int, str]] = field(default_factory=set)

    def view(self, module: CausalLM, step: int) -> ModelView:
        """The model at a step; monitors of the same step share it."""
        if self._view is None or self._view[0] != step:
            requests = self.requests(self.data, step, module.total_steps)
            oracle, base = self._constants(module)
            view = ModelView(module, self.data, self._prompts, requests, oracle, base)
            self._view = (step, view)
        return self._view[1]

    def _constants(self, module: CausalLM) -> tuple[ModelView | None, ModelView]:
        """The oracle and the base model, which do not change during a run.

        What they answered is remembered with the module: the next run may ask the same.
        """
        base = self._stored(module, BASE)
        if self.oracle is None or self.oracle == BASE:
            return (base if self.oracle else None), base
        return self._stored(module, self.oracle), base

    def _stored(self, module: CausalLM, weights: Path | str) -> ModelView:
        # Of the same rows, so that a pass over them computes all that will be asked.
        requests = tuple(self.requests(self.data, None, module.total_steps))
        which = BASE if weights == BASE else "oracle"
        known: ModelView | None = module.remembered.get(which)
        if (
            known is None
            or known.data is not self.data
            or (known.weights, known.requests) != (weights, requests)
        ):
            known = ModelView(module, self.data, self._prompts, requests, weights=weights)
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
