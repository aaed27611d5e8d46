"""Weighted gradient ascent: an example of a user's own method."""

from torch import Tensor

from lightning_unlearn import InputError, LogProbs, Unlearning


class WGA(Unlearning):
    """Gradient ascent with a small weight for tokens that are already unlikely.

    It minimizes p^beta log p for each label token, with the weight p^beta taken as a constant.
    beta = 0 is gradient ascent.

    Args:
        beta: exponent of the token's probability p in the weight.

    Source: Wang et al. 2025, arXiv 2502.19301.
    """

    uses_reference = False

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if beta < 0:
            raise InputError(f"WGA.beta: found {beta}, expected 0 or more.")
        self.beta = beta

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Return one value per label token."""
        weight = (self.beta * policy.per_token.detach()).exp()
        return weight * policy.per_token
