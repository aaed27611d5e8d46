"""Gradient ascent."""

from torch import Tensor

from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.objectives import gradient_ascent
from lightning_unlearn.unlearning.base import RetainLoss, Unlearning


class GA(Unlearning):
    """Gradient ascent: minimize the log-likelihood of the forget answers.

    With a loss on retain rows it is GradDiff (``retain_loss: nll``) or KL minimization (``kl``).

    Args:
        retain_weight: weight of the loss on retain rows (``data.retain``); 0 for none.
        retain_loss: loss on retain rows; see `Unlearning`.
    """

    uses_reference = False

    def __init__(self, retain_weight: float = 0.0, retain_loss: RetainLoss = "nll") -> None:
        super().__init__(retain_weight, retain_loss)

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Return `lightning_unlearn.objectives.gradient_ascent`, one value per label token."""
        return gradient_ascent(policy.per_token)
