"""Direct preference optimization: an example of a user's own method with alternates."""

import torch.nn.functional as F
from torch import Tensor

from lightning_unlearn import InputError, LogProbs, Unlearning


class DPO(Unlearning):
    """Prefer an alternate to the forget answer; with several a row it is AltPO.

    It minimizes -(2 / beta) log sigmoid(beta (r(alternate) - r(forget answer))), where r is the
    log-likelihood ratio of an answer to the model before unlearning. The alternates are
    ``data.alternates``, such as "I don't know".

    Args:
        beta: inverse temperature.

    Source: Rafailov et al. 2023, arXiv 2305.18290; with alternates of the model itself, Mekala et
    al. 2024, arXiv 2409.13474.
    """

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        if beta <= 0:
            raise InputError(f"DPO.beta: found {beta}, expected a positive number.")
        self.beta = beta

    def loss_with_alternates(
        self,
        policy: LogProbs,
        reference: LogProbs,
        alternates: LogProbs,
        alternates_reference: LogProbs,
    ) -> Tensor:
        """Return one value per sequence."""
        win = alternates.sum - alternates_reference.sum
        lose = policy.sum - reference.sum
        return -2 / self.beta * F.logsigmoid(self.beta * (win - lose))
