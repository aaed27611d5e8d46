"""What one pass over answers tells besides their likelihood."""

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

MEASURES: dict[str, type[PerExampleMetric]] = {
    "probability": Probability,
    "exact_memorization": ExactMemorization,
    "extraction_strength": ExtractionStrength,
    "min_k": MinK,
    "min_k_plus_plus": MinKPlusPlus,
    "answer_margin": Margin,
}


class AnswerStatistics(Monitor):
    """Memorization and confidence of answers, ``MEASURE/SET``, all from one forward.

    Measures, one value per row: probability, exp of the log-likelihood per token;
    exact_memorization, the share of the answer's tokens that are the likeliest;
    extraction_strength, the share of the answer that greedy decoding adds to a beginning of it;
    min_k, the mean of the lowest fifth of the tokens' log-probabilities; min_k_plus_plus, the same
    relative to the model's own distribution; answer_margin, the mean logit of the tokens'
    probabilities. See `lightning_unlearn.metrics` for formulas and sources.

    Args:
        sets: row sets: stages, "STAGE:train", "STAGE:heldout" or evaluation sets; null for every
            stage.
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        measures: which of them; null for all.
        limit: only the first so many rows of each set; null for all.
    """

    def __init__(
        self,
        sets: list[str] | None = None,
        every_n_steps: int = 10,
        measures: list[str] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        check_limit(self, limit)
        for key, given in (("sets", sets), ("measures", measures)):
            if given == []:
                raise InputError(
                    f"AnswerStatistics.{key}: found an empty list, expected some, or null for all."
                )
        for name in measures or []:
            if name not in MEASURES:
                raise InputError(
                    f"AnswerStatistics.measures: found {name!r}, expected some of "
                    f"{', '.join(MEASURES)}."
                )
        self.sets = sets
        self.measures = measures
        self.limit = limit

    def check(self, data: Any) -> None:
        """Refuse row sets that are not there."""
        check_sets(self, "sets", self._sets(data), data)

    def _sets(self, data: Any) -> list[str]:
        if self.sets is not None:
            return list(self.sets)
        return [stage for stage in data.stages if stage in data.path]

    def requests(self, data: Any) -> list[RowRequest]:
        """All row sets."""
        return [RowRequest(name, self.limit) for name in self._sets(data)]

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """One measure per row set and kind, one value per row."""
        wanted = {name: MEASURES[name] for name in self.measures or MEASURES}
        return {
            f"{kind}/{name.replace(':', '-')}": view.measure(metric(), name, self.limit)
            for name in self._sets(view.data)
            for kind, metric in wanted.items()
        }


def check_sets(monitor: Monitor, key: str, names: list[str], data: Any) -> None:
    """Refuse row sets that are not there.

    Raises:
        InputError: naming the monitor and its key.
    """
    for name in names:
        try:
            data.set_name(name)
        except InputError as error:
            raise InputError(f"{type(monitor).__name__}.{key}: {error}") from None
