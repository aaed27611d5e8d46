"""Objectives: what a training step minimizes, and a micro-batch's share of it."""

from collections.abc import Callable

from torch import Tensor

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, GlobalBatch
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.network import LogProbModel

# One loss per label token, or one per sequence, of a micro-batch.
Objective = Callable[[LogProbModel, Batch], Tensor]


def supervised(network: LogProbModel, batch: Batch) -> Tensor:
    """The objective of training stages: negative log-likelihood per label token.

    Returns:
        ``[sequences, longest answer]``, nats.
    """
    return objectives.nll(network.log_probs(batch).per_token)


def share_of_mean(values: Tensor, micro_batch: Batch, batch: GlobalBatch) -> Tensor:
    """Compute a micro-batch's share of the mean loss of its global batch.

    Args:
        values: what the objective returned: one loss per label token, ``[sequences, longest
            answer]``, or one per sequence, ``[sequences]``.
        micro_batch: the micro-batch.
        batch: gives the counts of the whole global batch.

    Returns:
        A scalar; the sum over all micro-batches and processes is the mean.

    Raises:
        InputError: if the objective returned a tensor of another shape.
    """
    mask, weight = micro_batch.mask, micro_batch.weight
    if values.shape == mask.shape:
        return (values * mask * weight[:, None]).sum() / batch.tokens
    if values.shape == weight.shape:
        return (values * weight).sum() / batch.sequences
    raise InputError(
        f"the objective returned a tensor of shape {tuple(values.shape)}, expected one value "
        f"per label token {tuple(mask.shape)} or per sequence {tuple(weight.shape)}, not reduced: "
        "the mean is taken over the whole global batch, which may be spread over micro-batches "
        "and processes."
    )
