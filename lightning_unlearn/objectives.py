"""Objectives as pure functions of log-probabilities.

A function returns one value per label token or one value per sequence, never a mean. The training
step divides by the counts of the whole global batch. Therefore the numbers do not depend on the
micro-batch size or the number of processes. All values are in nats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def nll(token_logps: Tensor) -> Tensor:
    """Compute the negative log-likelihood of each label token: the loss of supervised fine-tuning.

    Args:
        token_logps: log pi(y_t | x, y_<t), any shape.

    Returns:
        Loss per token, same shape.
    """
    return -token_logps


def gradient_ascent(token_logps: Tensor) -> Tensor:
    """Compute the loss of gradient ascent (GA) on the negative log-likelihood: log pi(y|x).

    The loss is unbounded below: its gradient does not vanish when everything is forgotten.

    Args:
        token_logps: log pi(y_t | x, y_<t), any shape.

    Returns:
        Loss per token, same shape.

    Source: Jang et al. 2023, arXiv 2210.01504.
    """
    return token_logps


def npo(logps: Tensor, reference_logps: Tensor, beta: float = 0.5) -> Tensor:
    """Compute negative preference optimization: -(2/beta) log sigmoid(-beta log(pi / pi_ref)).

    The gradient is the gradient of GA times 2 pi^beta / (pi^beta + pi_ref^beta). This factor is 1
    at the start and falls as the answer becomes less likely than under the reference. beta -> 0
    gives GA.

    Args:
        logps: log pi(y|x), summed over label tokens, ``[sequences]``.
        reference_logps: the same under the model before unlearning, a constant, ``[sequences]``.
        beta: inverse temperature, > 0.

    Returns:
        Loss per sequence, ``[sequences]``; (2/beta) log 2 where the model equals the reference.

    Source: Zhang et al. 2024, arXiv 2404.05868, eq. 3.
    """
    return -(2.0 / beta) * F.logsigmoid(-beta * (logps - reference_logps))


def simnpo(
    logps: Tensor,
    lengths: Tensor,
    beta: float = 4.5,
    gamma: float = 0.0,
    normalize: bool = True,
) -> Tensor:
    """Compute SimNPO, NPO without a reference: -(2/beta) log sigmoid(beta (NLL - gamma)).

    Args:
        logps: log pi(y|x), summed over label tokens, ``[sequences]``.
        lengths: label tokens of each sequence, ``[sequences]``.
        beta: inverse temperature, > 0.
        gamma: margin in nats, on the scale of NLL. The gamma of the paper that proposed SimNPO is
            the product of beta and this number.
        normalize: divide NLL by the length (the original form). False gives the form of
            arXiv 2510.16629 (there with beta 1 and gamma 0). The gradient of that form,
            ``2 sigmoid(-beta NLL)``, is almost zero for answers of more than about 20 nats.

    Returns:
        Loss per sequence, ``[sequences]``.

    Source: Fan et al. 2024, arXiv 2410.07163, eq. 4.
    """
    negative = -logps / lengths if normalize else -logps
    return -(2.0 / beta) * F.logsigmoid(beta * (negative - gamma))


def simnpo_weights(
    logps: Tensor,
    lengths: Tensor,
    beta: float = 4.5,
    gamma: float = 0.0,
    normalize: bool = True,
) -> Tensor:
    """Compute the gradient of SimNPO relative to the gradient of gradient ascent.

    Args:
        logps: as in `simnpo`, ``[sequences]``.
        lengths: as in `simnpo`, ``[sequences]``.
        beta: as in `simnpo`.
        gamma: as in `simnpo`.
        normalize: as in `simnpo`.

    Returns:
        ``2 sigmoid(-beta (NLL - gamma))``, between 0 and 2, ``[sequences]``.
    """
    negative = -logps / lengths if normalize else -logps
    return 2.0 * torch.sigmoid(-beta * (negative - gamma))
