"""SimNPO: negative preference optimization without a reference."""

import math
import warnings

from torch import Tensor

from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.objectives import simnpo, simnpo_weights
from lightning_unlearn.unlearning.base import RetainLoss, Unlearning

# Relative to gradient ascent. A smaller gradient is lost below Adam's epsilon (1e-8).
VANISHED = 1e-6


class SimNPO(Unlearning):
    """Negative preference optimization without a reference.

    The defaults are the original, length-normalized form. The form of arXiv 2510.16629 is
    ``SimNPO(beta=1, normalize=False)``. On answers of many nats its gradient vanishes; SimNPO then
    prints a warning.

    Args:
        beta: inverse temperature.
        gamma: margin in nats.
        normalize: divide the negative log-likelihood by the answer's length.
        retain_weight: weight of the loss on retain rows (``data.retain``); 0 for none.
        retain_loss: loss on retain rows; see `Unlearning`.
    """

    uses_reference = False

    def __init__(
        self,
        beta: float = 4.5,
        gamma: float = 0.0,
        normalize: bool = True,
        retain_weight: float = 0.0,
        retain_loss: RetainLoss = "nll",
    ) -> None:
        super().__init__(retain_weight, retain_loss)
        if not 0 < beta < math.inf:
            raise InputError(f"SimNPO.beta: found {beta}, expected a positive number.")
        if not math.isfinite(gamma):
            raise InputError(f"SimNPO.gamma: found {gamma}, expected a finite number.")
        self.beta = beta
        self.gamma = gamma
        self.normalize = normalize
        self._warned = False

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Return `lightning_unlearn.objectives.simnpo`, one value per sequence."""
        form = (self.beta, self.gamma, self.normalize)
        if not self._warned:
            strongest = simnpo_weights(policy.sum.detach(), policy.length, *form).max().item()
            if strongest < VANISHED:
                self._warned = True
                warnings.warn(
                    f"SimNPO's gradient has vanished: it is at most {strongest:.1g} of gradient "
                    "ascent's in a micro-batch, so weights hardly change any more. "
                    + (
                        "To continue unlearning, lower beta or increase gamma."
                        if self.normalize
                        else "Answers are too long for the form without normalization: set "
                        "normalize to true, or lower beta."
                    ),
                    UserWarning,
                    stacklevel=2,
                )
        return simnpo(policy.sum, policy.length, *form)
