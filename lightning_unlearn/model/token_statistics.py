"""Statistics of every label token, besides its log-probability, from one pass over a data set."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_unlearn.model.log_probs import LogitTransform, LogProbs, at_least_fp32, chunk_rows

# Columns of the flat table, in the order of the fields of `TokenStatistics`.
COLUMNS = ("log_prob", "mean", "std", "margin", "top")


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the label tokens of sequences, dtype as in `LogProbs`, 0 where masked.

    Attributes:
        log_prob: log pi(y_t | x, y_<t), nats, ``[sequences, longest answer]``.
        mean: mean of log pi(v | x, y_<t) over tokens v drawn from pi itself: the negative entropy
            of the next-token distribution, nats, same shape.
        std: standard deviation of the same, nats, same shape.
        margin: logit of y_t minus the logsumexp of all other logits, which is
            log p - log(1 - p), nats, same shape.
        top: 1 if no other token has a higher logit than y_t, else 0, same shape.
        mask: True at label tokens, False at padding, same shape.
        kl: KL(oracle || model) of the next-token distributions, nats, same shape; None without an
            oracle.
    """

    log_prob: Tensor
    mean: Tensor
    std: Tensor
    margin: Tensor
    top: Tensor
    mask: Tensor
    kl: Tensor | None = None

    @staticmethod
    def scatter(flat: Tensor, mask: Tensor) -> "TokenStatistics":
        """Convert the flat table of label tokens, row after row, to padded tables.

        Args:
            flat: ``[label tokens, 5]``, or 6 with the KL; see `token_statistics`.
            mask: ``[sequences, longest answer]`` with as many True as ``flat`` has rows.

        Returns:
            The statistics.
        """
        names = (*COLUMNS, "kl")[: flat.shape[-1]]
        columns = zip(names, flat.unbind(-1), strict=True)
        tables = {name: LogProbs.scatter(column, mask).per_token for name, column in columns}
        return TokenStatistics(**tables, mask=mask)

    @property
    def log_probs(self) -> LogProbs:
        """The log-probabilities."""
        return LogProbs(self.log_prob, self.mask)

    @property
    def length(self) -> Tensor:
        """Label tokens, ``[sequences]``."""
        return self.mask.sum(-1)

    def average(self, values: Tensor) -> Tensor:
        """Compute the mean of a table over the label tokens of each sequence.

        Args:
            values: ``[sequences, longest answer]``.

        Returns:
            ``[sequences]``; 0 for a sequence without label tokens.
        """
        return (values * self.mask).sum(-1) / self.length.clamp(min=1)

    def rows(self, index: Tensor | slice) -> "TokenStatistics":
        """Return the statistics of some sequences."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return TokenStatistics(**{k: v[index] for k, v in values.items() if v is not None})


@torch.no_grad()
def token_statistics(
    hidden: Tensor,
    target: Tensor,
    head: nn.Module,
    transform: LogitTransform,
    oracle: Tensor | None = None,
    oracle_head: nn.Module | None = None,
) -> Tensor:
    """Compute statistics of given tokens from the hidden states that predict them.

    It computes no gradient. The target is removed from the distribution, and the other tokens are
    summed relative to their own highest logit. So the margin stays exact if the probability of the
    target is almost 0 or almost 1.

    Args:
        hidden: last hidden states, after the final norm, ``[tokens, width]``.
        target: token ids, ``[tokens]``.
        head: the output projection to ``[tokens, vocabulary]``.
        transform: transform of the logits after the projection.
        oracle: hidden states of the oracle for the same tokens, ``[tokens, its width]``; None for
            no KL.
        oracle_head: gives the oracle's logits, ``[tokens, vocabulary]``, for its hidden states;
            None if the oracle has the projection and the transform of the model.

    Returns:
        ``[tokens, 5]`` in the order of `COLUMNS`, and a sixth column with KL(oracle || model) if
        ``oracle`` is given; see `at_least_fp32`.
    """
    width = len(COLUMNS) + (oracle is not None)
    kept = at_least_fp32(hidden.dtype)
    table = torch.empty(hidden.shape[0], width, dtype=kept, device=hidden.device)
    chunk = chunk_rows(head, hidden.device)
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, start + chunk)
        logits = transform(head(hidden[rows]))
        if oracle is not None:
            states = oracle[rows].to(hidden)
            aimed = transform(head(states)) if oracle_head is None else oracle_head(states)
            aim = torch.log_softmax(aimed, dim=-1)
            own = torch.log_softmax(logits, dim=-1)
            kl = F.kl_div(own, aim, reduction="none", log_target=True)
            table[rows, len(COLUMNS)] = kl.sum(-1)
        table[rows, : len(COLUMNS)] = _of_logits(logits, target[rows, None])
    return table


def _of_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the columns of a chunk; the logits are overwritten.

    Args:
        logits: ``[tokens, vocabulary]``.
        target: ``[tokens, 1]``.
    """
    picked = logits.gather(-1, target)
    logits.scatter_(-1, target, -torch.inf)
    highest = logits.amax(-1, keepdim=True)
    gap = (picked - highest).squeeze(-1)
    others = logits.sub_(highest)
    weights = others.exp()
    # exp(-inf) is 0, and 0 times this finite number stays 0.
    others.scatter_(-1, target, 0.0)
    total = weights.sum(-1)
    products = weights.mul_(others)
    mean_others = products.sum(-1) / total
    spread_others = products.mul_(others).sum(-1) / total - mean_others.square()
    margin = gap - total.log()
    share, rest = torch.sigmoid(margin), torch.sigmoid(-margin)
    log_prob = F.logsigmoid(margin)
    log_total = gap - log_prob
    mean = rest * (mean_others - log_total) + share * log_prob
    variance = rest * spread_others + share * rest * (gap - mean_others).square()
    columns = (log_prob, mean, variance.clamp(min=0).sqrt(), margin, (gap >= 0).to(gap.dtype))
    return torch.stack(columns, dim=-1)
