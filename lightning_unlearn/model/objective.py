"""Objectives: what a training step minimizes, and a micro-batch's share of it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, Counts, GlobalBatch
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


@dataclass(frozen=True)
class RetainTerm:
    """A loss on the retain rows that is added to the objective.

    Attributes:
        objective: computes the loss of a batch of retain rows, as `Objective` does.
        weight: returns its weight in the present step.
    """

    objective: Objective
    weight: Callable[[], float]


@dataclass(frozen=True)
class Share:
    """A forward and backward pass of an optimizer step.

    Attributes:
        objective: what it computes.
        batch: of these rows.
        counts: counts of all rows of this kind in the global batch.
        weight: weight of the loss.
    """

    objective: Objective
    batch: Batch
    counts: GlobalBatch | Counts
    weight: float = 1.0

    def loss(self, network: LogProbModel) -> Tensor:
        """Compute the share of the loss of the global batch; the sum of all shares is the loss."""
        values = self.objective(network, self.batch)
        return share_of_mean(values, self.batch, self.counts) * self.weight


def shares(batch: GlobalBatch, objective: Objective, retain: RetainTerm | None) -> list[Share]:
    """Return the passes of an optimizer step, in order.

    Args:
        batch: micro-batches of one process.
        objective: what training minimizes.
        retain: what is added for the retain rows of the batch; None for nothing.
    """
    found = []
    for micro_batch in batch.micro_batches:
        found.append(Share(objective, micro_batch, batch))
        if retain is not None:
            assert micro_batch.retain is not None and batch.retain is not None
            term = retain.objective, micro_batch.retain, batch.retain
            found.append(Share(*term, retain.weight()))
    return found


def share_of_mean(values: Tensor, micro_batch: Batch, batch: GlobalBatch | Counts) -> Tensor:
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
