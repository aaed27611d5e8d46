"""Results of the monitors during a run, per step and per example."""

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
    """Do nothing; the default of `EvaluationResults.log` and `busy`."""


def no_requests(data: StagedDataModule, step: int | None, total: int) -> list[RowRequest]:
    """Return no requests."""
    return []


@dataclass(frozen=True)
class SomeRows:
    """Values of some of the rows of a row set.

    Attributes:
        rows: their numbers, ``[rows]``.
        values: one value per row, ``[rows]``.
    """

    rows: Tensor
    values: Tensor


# What a monitor returns for a metric: a value per example, ``[examples]``, or a scalar; or the
# values of some of them.
Results = Tensor | SomeRows


@dataclass
class EvaluationResults:
    """The metrics of one run.

    Attributes:
        data: the stages.
        requests: returns the requests of all monitors for the data, a step (None for all steps),
            and the total number of steps. The requests of one step share their forwards.
        oracle: folder with the weights of the oracle; `BASE` if the path has no stage besides the
            forget stage; None if there is no oracle.
        log: called with metric, step and mean of every new result.
        busy: called with a few words at the start of an evaluation, which may take a while.
        steps: (step, metric, mean over the examples), in the order of evaluation.
        examples: (step, metric, example number from 0, value).
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
        """Return the view of the model at a step; all monitors of one step share it."""
        if self._view is None or self._view[0] != step:
            requests = self.requests(self.data, step, module.total_steps)
            oracle, base = self._constants(module)
            view = ModelView(module, self.data, self._prompts, requests, oracle, base)
            self._view = (step, view)
        return self._view[1]

    def _constants(self, module: CausalLM) -> tuple[ModelView | None, ModelView]:
        """Return the views of the oracle and of the base model, which do not change during a run.

        The module stores both views with their results, because the next run may use them again.
        """
        base = self._stored(module, BASE)
        if self.oracle is None or self.oracle == BASE:
            return (base if self.oracle else None), base
        return self._stored(module, self.oracle), base

    def _stored(self, module: CausalLM, weights: Path | str) -> ModelView:
        # Use the requests of all steps, so that one pass computes all values that are needed.
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

    def add(self, step: int, metric: str, values: Results) -> None:
        """Store the values of a metric.

        Args:
            step: number of optimizer steps of unlearning that are done.
            metric: name of the metric, such as "answers/tofu".
            values: one value per example, ``[examples]``, or a scalar; `SomeRows` for values of
                some examples.

        Raises:
            InputError: if another monitor has stored this metric at this step.
        """
        if (step, metric) in self._added:
            raise InputError(
                f"trainer.callbacks: found two monitors with the metric {metric!r}, expected one: "
                "their records could not be distinguished. Remove one of them."
            )
        self._added.add((step, metric))
        found, rows = (
            (values.values, values.rows) if isinstance(values, SomeRows) else (values, None)
        )
        per_example = found.detach().double().cpu()
        mean = per_example.mean().item()
        self.steps.append((step, metric, mean))
        if per_example.ndim:
            numbers = range(len(per_example)) if rows is None else rows.tolist()
            numbered = zip(numbers, per_example.tolist(), strict=True)
            self.examples += [(step, metric, number, value) for number, value in numbered]
        self.log(metric, step, mean)

    def first_and_last(self) -> dict[str, tuple[float, float]]:
        """Return the mean of each metric at its first and last evaluated step."""
        ends: dict[str, tuple[float, float]] = {}
        for _, metric, value in self.steps:
            ends[metric] = (ends[metric][0] if metric in ends else value, value)
        return ends
