"""Negative preference optimization."""

import math

from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.objectives import npo
from lightning_unlearn.unlearning.base import RetainLoss, Unlearning


class NPO(Unlearning):
    """Negative preference optimization; the reference is the model before unlearning.

    Args:
        beta: inverse temperature; the method approaches gradient ascent as it approaches 0.
        retain_weight: weight of the loss on retain rows (``data.retain``); 0 for none.
        retain_loss: loss on retain rows; see `Unlearning`.
    """

    def __init__(
        self,
        beta: float = 0.5,
        retain_weight: float = 0.0,
        retain_loss: RetainLoss = "nll",
    ) -> None:
        super().__init__(retain_weight, retain_loss)
        if not 0 < beta < math.inf:
            raise InputError(f"NPO.beta: found {beta}, expected a positive number.")
        self.beta = beta

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Return `lightning_unlearn.objectives.npo`, one value per sequence."""
        return npo(policy.sum, reference.sum, self.beta)
