"""TOFU's probability of the right answer: a monitor of one's own in one class."""

from collections.abc import Mapping

from torch import Tensor

from lightning_unlearn import ModelView, Monitor


class AnswerProbability(Monitor):
    """exp of the mean log-likelihood per token of a stage's answers, ``probability/STAGE``.

    AnswerLikelihood asks the view for the same log-probabilities; both together cost one forward.

    Args:
        stage: the stage whose answers are scored.
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.
        limit: only the first so many rows; null for all.

    Source: Maini et al. 2024, arXiv 2401.06121, section 2.2.1.
    """

    def __init__(self, stage: str, every_n_steps: int = 10, limit: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.stage = stage
        self.limit = limit

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """One probability per row."""
        return {f"probability/{self.stage}": view.log_probs(self.stage, self.limit).mean.exp()}
