"""Membership inference: scores of examples, and how well they tell members from others.

A score is higher the more likely its example was trained on. Two more scores are
`measures.answers.min_k` and `measures.answers.min_k_plus_plus`, which have this sense as they are.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import TwoSampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import LogProbs


def loss_score(log_probs: LogProbs) -> Tensor:
    """Minus the loss: log-likelihood per label token.

    Args:
        log_probs: of the label tokens.

    Returns:
        Nats per token, ``[sequences]``.

    Source: Yeom et al. 2018, arXiv 1709.01604.
    """
    return log_probs.mean


def zlib_score(log_probs: LogProbs, texts: Sequence[str], mean: bool = False) -> Tensor:
    """Minus the loss over the length of the compressed text: what is likely but not trite.

    Args:
        log_probs: of the label tokens.
        texts: what the label tokens say, one per sequence.
        mean: take the loss per token, as Carlini et al. and MUSE do, and not its sum.

    Returns:
        Nats (per token) per byte that zlib makes of the UTF-8 text, ``[sequences]``.

    Source: Carlini et al. 2021, arXiv 2012.07805.
    """
    logps = log_probs.mean if mean else log_probs.sum
    if len(texts) != len(logps):
        raise InputError(
            f"zlib score: found {len(texts)} texts for {len(logps)} sequences, expected as many"
        )
    sizes = [len(zlib.compress(text.encode("utf-8"))) for text in texts]
    return logps / torch.tensor(sizes, dtype=logps.dtype, device=logps.device)


def reference_score(log_probs: LogProbs, reference: LogProbs) -> Tensor:
    """How much lower the loss is than that of a model that was not trained on the examples.

    Args:
        log_probs: of the label tokens.
        reference: the same under the other model.

    Returns:
        Nats per token, ``[sequences]``.

    Source: Carlini et al. 2021, arXiv 2012.07805.
    """
    if not torch.equal(log_probs.mask, reference.mask):
        raise InputError(
            "reference score: found other label tokens in the reference, expected the same examples"
        )
    return log_probs.mean - reference.mean


def gradient_norm_score(norms: Tensor) -> Tensor:
    """Minus the norm of the gradient of an example's loss: training made it small.

    Args:
        norms: per example, ``[examples]``.

    Returns:
        ``[examples]``.

    Source: Wang et al. 2024, Pandora's white-box, arXiv 2402.17012.
    """
    return -norms


def auc(members: Tensor, nonmembers: Tensor) -> float:
    """Area under the ROC curve: how often a member scores higher than another; a tie is half.

    Exact: all pairs are counted, by ranks.

    Args:
        members: scores, ``[members]``.
        nonmembers: scores, ``[others]``.

    Returns:
        Between 0 and 1; 0.5 = no better than chance.

    Raises:
        InputError: no scores of either kind, or a NaN.
    """
    mine, others = (x.detach().cpu().double().flatten() for x in (members, nonmembers))
    if not len(mine) or not len(others) or mine.isnan().any() or others.isnan().any():
        raise InputError(
            f"AUC: found scores of {len(mine)} members and {len(others)} others, of which "
            f"{int(mine.isnan().sum() + others.isnan().sum())} are NaN, expected some of both "
            "and no NaN"
        )
    others = others.sort().values
    below = torch.searchsorted(others, mine, right=False).sum().item()
    not_above = torch.searchsorted(others, mine, right=True).sum().item()
    return (below + not_above) / (2 * len(mine) * len(others))


def privleak(auc: float, auc_retrained: float) -> float:
    """PrivLeak: relative distance of an AUC from that of the retrained model.

    With AUCs of members (forget set) against a holdout set, above 0 the forget set still shows,
    and below 0 it shows as something avoided. MUSE's published numbers have the opposite sign, as
    its evaluation takes the holdout set as the positive class, and are in per cent: for them, take
    100 times this of both ``auc(holdout, forget)``, with min-k at a share of 0.4.

    Args:
        auc: of the unlearned model.
        auc_retrained: of the model retrained without the forget set.

    Returns:
        (auc - auc_retrained) / auc_retrained.

    Raises:
        InputError: the retrained model's AUC is 0, or not between 0 and 1.

    Source: Shi et al. 2024 (MUSE), arXiv 2407.06460.
    """
    if not (0 <= auc <= 1 and 0 < auc_retrained <= 1):
        raise InputError(
            f"PrivLeak: found an AUC of {auc} against {auc_retrained} of the retrained model, "
            "expected numbers from 0 to 1, the second above 0: it is what the distance is relative "
            "to"
        )
    return (auc - auc_retrained) / auc_retrained


class MembershipAUC(TwoSampleMetric):
    """`auc` of scores, a scalar.

    Args:
        counts: number of members and of others; None for as many as there are.
    """

    def update(self, index: Tensor, scores: Tensor, member: Tensor | bool) -> None:
        """Add scores.

        Args:
            index: example numbers, ``[rows]``; members and others may both count from 0.
            scores: higher = more likely a member, ``[rows]``.
            member: True for members, ``[rows]`` or one for all.
        """
        self.keep_side(index, scores, member)

    def compute(self) -> Tensor:
        """The area."""
        return torch.tensor(auc(*self.samples()), dtype=torch.float64)
