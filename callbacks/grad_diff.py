"""Gradient difference: an example of a user's own method with a retain term."""

from torch import Tensor

from lightning_unlearn import LogProbs, Unlearning


class GradDiff(Unlearning):
    """Gradient ascent on the forget rows, with gradient descent on retain rows.

    It minimizes gamma log p(forget answer) - retain_weight log p(retain answer), each per label
    token. The retain rows are ``data.retain``. The trainer pairs them with the forget rows, adds
    their loss and takes both means over the global batch.

    Args:
        gamma: weight of gradient ascent.
        retain_weight: weight of the negative log-likelihood of the retain rows.

    Source: Maini et al. 2024, arXiv 2401.06121, section 3.
    """

    uses_reference = False

    def __init__(self, gamma: float = 1.0, retain_weight: float = 1.0) -> None:
        super().__init__(retain_weight)
        self.gamma = gamma

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Return one value per label token of the forget rows."""
        return self.gamma * policy.per_token
