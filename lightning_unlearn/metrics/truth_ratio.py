"""The measures of TOFU that compare answers: truth ratio, choices, forget quality, utility.

Source of all: Maini et al. 2024 (TOFU), arXiv 2401.06121.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric, Table, TwoSampleMetric
from lightning_unlearn.errors import InputError

Variant = Literal["arithmetic", "geometric"]


def truth_ratio(
    alternatives: Tensor,
    paraphrase: Tensor,
    mask: Tensor | None = None,
    variant: Variant = "arithmetic",
) -> Tensor:
    """Truth ratio R: mean probability of wrong answers over that of the right, paraphrased one.

    Probabilities are normalized for length, exp(log-likelihood per token). R is near 0 for a model
    that knows the answer and about 1 for one that does not.

    Args:
        alternatives: log-likelihood per token of wrong answers, ``[rows, answers]``.
        paraphrase: the same of the paraphrased right answer, ``[rows]``.
        mask: True at real wrong answers, ``[rows, answers]``; None if all are.
        variant: mean of the wrong answers' probabilities. "arithmetic" is the paper's; much
            published code takes the "geometric", which is never higher.

    Returns:
        R >= 0, ``[rows]``.

    Source: Maini et al. 2024 (TOFU), arXiv 2401.06121.
    """
    check_variant(variant)
    mask = _candidates(alternatives, paraphrase, mask)
    count = mask.sum(-1).to(alternatives.dtype)
    if variant == "geometric":
        mean = torch.where(mask, alternatives, 0.0).sum(-1) / count
    else:
        mean = alternatives.masked_fill(~mask, -torch.inf).logsumexp(-1) - count.log()
    return (mean - paraphrase).exp()


def truth_ratio_utility(ratio: Tensor) -> Tensor:
    """Truth ratio as a utility, for facts a model should know: max(0, 1 - R).

    Args:
        ratio: R, any shape.

    Returns:
        Between 0 and 1, same shape; higher = better.
    """
    return (1 - ratio).clamp(min=0)


def choice_probability(right: Tensor, wrong: Tensor, mask: Tensor | None = None) -> Tensor:
    """Probability of the right answer among the given ones: P(a) / sum of all candidates' P.

    P is normalized for length. TOFU measures real authors and world facts in this way.

    Args:
        right: log-likelihood per token of the right answer, ``[rows]``.
        wrong: the same of wrong answers, ``[rows, answers]``.
        mask: True at real wrong answers, ``[rows, answers]``; None if all are.

    Returns:
        Between 0 and 1, ``[rows]``.
    """
    mask = _candidates(wrong, right, mask)
    both = torch.cat([right[:, None], wrong.masked_fill(~mask, -torch.inf)], dim=-1)
    return (right - both.logsumexp(-1)).exp()


def forget_quality(unlearned: Tensor, retrained: Tensor) -> float:
    """p-value of a two-sample Kolmogorov-Smirnov test of truth ratios against a retrained model.

    Args:
        unlearned: truth ratios on the forget set, ``[rows]``.
        retrained: the same under a model retrained without it, ``[rows]``.

    Returns:
        Between 0 and 1; low = the two can be told apart.

    Raises:
        InputError: an empty sample or a NaN.
    """
    from scipy.stats import ks_2samp

    samples = [s.detach().cpu().double().flatten().numpy() for s in (unlearned, retrained)]
    if not all(len(s) and not math.isnan(s.sum()) for s in samples):
        raise InputError(
            f"forget quality: found {len(samples[0])} truth ratios of the unlearned and "
            f"{len(samples[1])} of the retrained model, expected some of both and no NaN"
        )
    return float(ks_2samp(*samples).pvalue)


def model_utility(parts: Sequence[float] | Tensor) -> float:
    """Harmonic mean of what a model should still do; one 0 makes it 0.

    TOFU takes nine parts: probability, ROUGE-L recall and truth ratio as a utility, each on the
    retain set, real authors and world facts.

    Args:
        parts: each 0 or more, higher = better.

    Returns:
        The harmonic mean.

    Raises:
        InputError: no parts, or one that is negative or no number.
    """
    values = [float(part) for part in parts]
    if not values or not all(0 <= value < math.inf for value in values):
        raise InputError(
            f"model utility: found parts {values}, expected at least one, each a number from 0"
        )
    return 0.0 if min(values) == 0 else len(values) / sum(1 / value for value in values)


def check_variant(variant: str) -> None:
    """Refuse an unknown variant of the truth ratio."""
    if variant not in get_args(Variant):
        raise InputError(
            f"truth ratio: found variant {variant!r}, expected one of "
            f"{', '.join(get_args(Variant))}"
        )


class TruthRatio(PerExampleMetric):
    """`truth_ratio` of all examples, ``[examples]``.

    Args:
        count: number of examples; None for the highest number seen and one.
        variant: mean of the wrong answers' probabilities.
    """

    def __init__(self, count: int | None = None, variant: Variant = "arithmetic") -> None:
        super().__init__(count)
        check_variant(variant)
        self.variant: Variant = variant

    def measure(
        self, alternatives: Tensor, paraphrase: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return truth_ratio(alternatives, paraphrase, mask, self.variant)


class ChoiceProbability(PerExampleMetric):
    """`choice_probability` of all examples, ``[examples]``."""

    def measure(self, right: Tensor, wrong: Tensor, mask: Tensor | None = None) -> Tensor:
        return choice_probability(right, wrong, mask)


class ForgetQuality(TwoSampleMetric):
    """`forget_quality`, a scalar.

    Args:
        counts: rows of the unlearned and of the retrained model; None for as many as there are.
    """

    def update(self, index: Tensor, ratios: Tensor, unlearned: Tensor | bool) -> None:
        """Add truth ratios.

        Args:
            index: example numbers, from 0 for each model, ``[rows]``.
            ratios: ``[rows]``.
            unlearned: True for the unlearned model's, False for the retrained one's, ``[rows]`` or
                one for all.
        """
        self.keep_side(index, ratios, unlearned)

    def compute(self) -> Tensor:
        """The p-value."""
        return torch.tensor(forget_quality(*self.samples()), dtype=torch.float64)


class ModelUtility(Table):
    """`model_utility` of the means of named parts, a scalar.

    Args:
        parts: names of the parts, each of which must be given values.
    """

    def __init__(self, parts: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = list(dict.fromkeys(parts))
        if not self.parts:
            raise InputError("model utility: found no parts, expected at least one")

    def update(self, part: str, index: Tensor, values: Tensor) -> None:
        """Add values of examples to a part.

        Args:
            part: its name.
            index: example numbers, from 0 in each part, ``[rows]``.
            values: ``[rows]``.
        """
        if part not in self.parts:
            raise InputError(
                f"model utility: found part {part!r}, expected one of {', '.join(self.parts)}"
            )
        self.keep(index * len(self.parts) + self.parts.index(part), values)

    def compute(self) -> Tensor:
        """The harmonic mean."""
        keys, values = self.table()
        part = keys % len(self.parts)
        missing = sorted(set(range(len(self.parts))) - set(part.tolist()))
        if missing:
            raise InputError(
                f"model utility: found no values of {', '.join(self.parts[i] for i in missing)}, "
                "expected some of every part"
            )
        means = [values[part == i].cpu().double().mean().item() for i in range(len(self.parts))]
        return torch.tensor(model_utility(means), dtype=torch.float64)


def _candidates(many: Tensor, one: Tensor, mask: Tensor | None) -> Tensor:
    mask = torch.ones_like(many, dtype=torch.bool) if mask is None else mask
    if many.ndim != 2 or one.shape != many.shape[:1] or mask.shape != many.shape:
        raise InputError(
            f"answers: found wrong ones {list(many.shape)}, mask {list(mask.shape)} and right ones "
            f"{list(one.shape)}, expected [rows, answers], the same, and [rows]"
        )
    empty = (~mask.any(-1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"answers: row {empty[0]} has no wrong answer, expected at least one")
    return mask
