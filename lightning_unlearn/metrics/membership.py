"""Membership inference: scores of examples, and how well they separate members from others.

A higher score means that the example was more likely trained on. Two further scores are
`metrics.answers.min_k` and `metrics.answers.min_k_plus_plus`, which need no change of sign.
"""

import zlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import TwoSampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import LogProbs


def loss_score(log_probs: LogProbs) -> Tensor:
    """Return minus the loss: the log-likelihood per label token.

    Args:
        log_probs: log-probabilities of the label tokens.

    Returns:
        Nats per token, ``[sequences]``.

    Source: Yeom et al. 2018, arXiv 1709.01604.
    """
    return log_probs.mean


def zlib_score(
    log_probs: LogProbs, texts: Sequence[str], variant: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Compute minus the loss divided by the length of the compressed text.

    The score is high for texts that are likely although they are not repetitive. The sum grows with
    the text as the compressed length does; the mean does not, so it favors long texts.

    Args:
        log_probs: log-probabilities of the label tokens.
        texts: text of the label tokens, one per sequence.
        variant: "mean" for the loss per token, as in Carlini et al. and in MUSE's published code;
            "sum" for the loss of the whole text.

    Returns:
        Nats (per token) per byte of the UTF-8 text compressed with zlib, ``[sequences]``.

    Source: Carlini et al. 2021, arXiv 2012.07805; Shi et al. 2024 (MUSE), arXiv 2407.06460.
    """
    logps = log_probs.mean if variant == "mean" else log_probs.sum
    if len(texts) != len(logps):
        raise InputError(
            f"zlib score: found {len(texts)} texts for {len(logps)} sequences, expected one text "
            "per sequence"
        )
    sizes = [len(zlib.compress(text.encode("utf-8"))) for text in texts]
    return logps / torch.tensor(sizes, dtype=logps.dtype, device=logps.device)


def reference_score(log_probs: LogProbs, reference: LogProbs) -> Tensor:
    """Compute the loss of a reference model minus the loss of the model.

    Args:
        log_probs: log-probabilities of the label tokens.
        reference: the same under a model that was not trained on the examples.

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
    """Return minus the norm of the gradient of an example's loss, which training makes small.

    Args:
        norms: gradient norm of each example, ``[examples]``.

    Returns:
        ``[examples]``.

    Source: Wang et al. 2024, Pandora's white-box, arXiv 2402.17012.
    """
    return -norms


def auc(members: Tensor, nonmembers: Tensor) -> float:
    """Compute the area under the ROC curve.

    It is the share of pairs in which the member has the higher score than the other example; a tie
    counts one half. The value is exact: ranks count all pairs.

    Args:
        members: scores of members, ``[members]``.
        nonmembers: scores of other examples, ``[others]``.

    Returns:
        Between 0 and 1; 0.5 = no better than chance.

    Raises:
        InputError: if there are no scores of one kind, or a score is NaN.
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
    """Compute PrivLeak: the relative distance of an AUC to that of the oracle.

    The AUCs are those of members (forget set) against a holdout set. Above 0, the forget set is
    still detectable as trained. Below 0, it is detectable because the model avoids it. MUSE's
    published numbers are in per cent and have the opposite sign, because its evaluation takes the
    holdout set as the positive class. To get them, use ``auc(holdout, forget)`` for both AUCs, with
    min-k at a share of 0.4, and multiply the result by 100.

    Args:
        auc: AUC of the unlearned model.
        auc_retrained: AUC of the oracle.

    Returns:
        (auc - auc_retrained) / auc_retrained.

    Raises:
        InputError: if the AUC of the oracle is 0, or an AUC is not between 0 and 1.

    Source: Shi et al. 2024 (MUSE), arXiv 2407.06460.
    """
    if not (0 <= auc <= 1 and 0 < auc_retrained <= 1):
        raise InputError(
            f"PrivLeak: found an AUC of {auc} against {auc_retrained} of the retrained model, "
            "expected numbers from 0 to 1, the second above 0: the distance is divided by it"
        )
    return (auc - auc_retrained) / auc_retrained


class MembershipAUC(TwoSampleMetric):
    """`auc` of scores, a scalar.

    Args:
        counts: expected numbers of members and of others; None for any numbers.
    """

    def update(self, index: Tensor, scores: Tensor, member: Tensor | bool) -> None:
        """Add scores.

        Args:
            index: example numbers, ``[rows]``; members and others may both count from 0.
            scores: higher = more likely a member, ``[rows]``.
            member: True for members, ``[rows]`` or one value for all.
        """
        self.keep_side(index, scores, member)

    def compute(self) -> Tensor:
        """Return the area under the ROC curve."""
        return torch.tensor(auc(*self.samples()), dtype=torch.float64)
