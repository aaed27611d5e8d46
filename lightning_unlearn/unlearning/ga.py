"""Gradient ascent."""

from torch import Tensor

from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.objectives import gradient_ascent
from lightning_unlearn.unlearning.base import Unlearning


class GA(Unlearning):
    """Gradient ascent: minimize the log-likelihood of the forget answers."""

    uses_reference = False

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Return `lightning_unlearn.objectives.gradient_ascent`, one value per label token."""
        return gradient_ascent(policy.per_token)
