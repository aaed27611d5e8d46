"""Metrics of answers, besides their likelihood, from one forward pass."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.metrics import (
    ExactMemorization,
    ExtractionStrength,
    Margin,
    MinK,
    MinKPlusPlus,
    Probability,
)
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.likelihood import check_limit
from lightning_unlearn.monitors.view import ModelView, RowRequest

METRICS: dict[str, type[PerExampleMetric]] = {
    "probability": Probability,
    "exact_memorization": ExactMemorization,
    "extraction_strength": ExtractionStrength,
    "min_k": MinK,
    "min_k_plus_plus": MinKPlusPlus,
    "answer_margin": Margin,
}


class AnswerStatistics(Monitor):
    """Memorization and confidence of answers, ``METRIC/SET``, all from one forward.

    Metrics, one value per row: probability, exp of the log-likelihood per token;
    exact_memorization, the share of the answer's tokens that are the most likely ones;
    extraction_strength, the share of the answer that greedy decoding adds to a prefix of it;
    min_k, the mean of the lowest fifth of the tokens' log-probabilities; min_k_plus_plus, the same
    relative to the model's own distribution; answer_margin, the mean logit of the tokens'
    probabilities. See `lightning_unlearn.metrics` for formulas and sources.

    Args:
        sets: row sets: stages, "STAGE:train", "STAGE:heldout" or evaluation sets; null for every
            stage.
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        metrics: names of the metrics; null for all.
        limit: number of rows of each set, from the first; null for all.
    """

    def __init__(
        self,
        sets: list[str] | None = None,
        every_n_steps: int = 10,
        metrics: list[str] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        for key, given in (("sets", sets), ("metrics", metrics)):
            if given == []:
                raise InputError(
                    f"AnswerStatistics.{key}: found an empty list, expected names, or null for all."
                )
        for name in metrics or []:
            if name not in METRICS:
                raise InputError(
                    f"AnswerStatistics.metrics: found {name!r}, expected some of "
                    f"{', '.join(METRICS)}."
                )
        self.sets = sets
        self.metrics = metrics
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse unknown row sets."""
        check_sets(self, "sets", self._sets(data), data)

    def _sets(self, data: Any) -> list[str]:
        if self.sets is not None:
            return list(self.sets)
        return [stage for stage in data.stages if stage in data.path]

    def requests(self, data: Any) -> list[RowRequest]:
        """Return all row sets."""
        return [RowRequest(name, self.limit) for name in self._sets(data)]

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return each metric for each row set, with one value per row."""
        selected = {name: METRICS[name] for name in self.metrics or METRICS}
        return {
            f"{kind}/{name.replace(':', '-')}": view.measure(metric(), name, self.limit)
            for name in self._sets(view.data)
            for kind, metric in selected.items()
        }


def check_sets(
    monitor: Monitor, key: str, names: list[str], data: Any, prompts: bool = False
) -> None:
    """Refuse unknown row sets.

    Args:
        monitor: the monitor.
        key: its argument that names the sets.
        names: the row sets.
        data: the data module.
        prompts: also refuse rows without prompts, plain texts, from which nothing is generated.

    Raises:
        InputError: with the monitor and its key.
    """
    for name in names:
        try:
            data.set_name(name)
            if prompts:
                data.format.prompt_ids(data.row_set(name)[0][0])
        except InputError as error:
            raise InputError(f"{type(monitor).__name__}.{key}: {error}") from None
