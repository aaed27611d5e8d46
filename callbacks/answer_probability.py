"""TOFU's probability of the right answer: an example of a user's own monitor."""

from collections.abc import Mapping

from torch import Tensor

from lightning_unlearn import ModelView, Monitor


class AnswerProbability(Monitor):
    """exp of the mean log-likelihood per token of a stage's answers, ``probability/STAGE``.

    AnswerLikelihood uses the same log-probabilities of the view, so both together cost one forward.

    Args:
        stage: the stage whose answers are evaluated.
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.
        limit: number of rows, from the first; null for all.

    Source: Maini et al. 2024, arXiv 2401.06121, section 2.2.1.
    """

    def __init__(self, stage: str, every_n_steps: int = 10, limit: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.stage = stage
        self.limit = limit

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """Return one probability per row."""
        return {f"probability/{self.stage}": view.log_probs(self.stage, self.limit).mean.exp()}
