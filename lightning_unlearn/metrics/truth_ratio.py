"""The metrics of TOFU that compare answers: truth ratio, choices, forget quality, utility.

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
    """Compute the truth ratio R: mean probability of wrong answers / that of the paraphrase.

    The paraphrase is that of the correct answer. Probabilities are normalized for length,
    exp(log-likelihood per token). R is near 0 for a model that knows the answer and about 1 for one
    that does not.

    Args:
        alternatives: log-likelihood per token of wrong answers, ``[rows, answers]``.
        paraphrase: the same of the paraphrased correct answer, ``[rows]``.
        mask: True for wrong answers, False for padding, ``[rows, answers]``; None without padding.
        variant: mean of the wrong answers' probabilities. The paper uses "arithmetic"; much
            published code uses "geometric", which is never higher.

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
    """Convert the truth ratio to a utility, for facts that a model should know: max(0, 1 - R).

    Args:
        ratio: R, any shape.

    Returns:
        Between 0 and 1, same shape; higher = better.
    """
    return (1 - ratio).clamp(min=0)


def choice_probability(right: Tensor, wrong: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the probability of the correct answer among all: P(a) / sum of all candidates' P.

    P is normalized for length. TOFU evaluates real authors and world facts in this way.

    Args:
        right: log-likelihood per token of the correct answer, ``[rows]``.
        wrong: the same of wrong answers, ``[rows, answers]``.
        mask: True for wrong answers, False for padding, ``[rows, answers]``; None without padding.

    Returns:
        Between 0 and 1, ``[rows]``.
    """
    mask = _candidates(wrong, right, mask)
    both = torch.cat([right[:, None], wrong.masked_fill(~mask, -torch.inf)], dim=-1)
    return (right - both.logsumexp(-1)).exp()


def forget_quality(unlearned: Tensor, retrained: Tensor) -> float:
    """Compute the p-value of a two-sample Kolmogorov-Smirnov test of truth ratios.

    Args:
        unlearned: truth ratios of the unlearned model on the forget set, ``[rows]``.
        retrained: truth ratios of the oracle, ``[rows]``.

    Returns:
        Between 0 and 1; low = the two models differ.

    Raises:
        InputError: if a sample is empty or has a NaN.
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
    """Compute the harmonic mean of several utilities; it is 0 if one of them is 0.

    TOFU uses nine parts: probability, ROUGE-L recall and truth ratio as a utility, each on the
    retain set, real authors and world facts.

    Args:
        parts: utilities, each 0 or more, higher = better.

    Returns:
        The harmonic mean.

    Raises:
        InputError: if there are no parts, or a part is negative or not finite.
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
        count: number of examples; None for the highest number plus one.
        variant: mean of the wrong answers' probabilities, "arithmetic" or "geometric".
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
        counts: expected rows of the unlearned and of the retrained model; None for any numbers.
    """

    def update(self, index: Tensor, ratios: Tensor, unlearned: Tensor | bool) -> None:
        """Add truth ratios.

        Args:
            index: example numbers, from 0 for each model, ``[rows]``.
            ratios: ``[rows]``.
            unlearned: True for ratios of the unlearned model, False for those of the retrained
                model, ``[rows]`` or one value for all.
        """
        self.keep_side(index, ratios, unlearned)

    def compute(self) -> Tensor:
        """Return the p-value."""
        return torch.tensor(forget_quality(*self.samples()), dtype=torch.float64)


class ModelUtility(Table):
    """`model_utility` of the means of named parts, a scalar.

    Args:
        parts: names of the parts; `update` must add values to each of them.
    """

    def __init__(self, parts: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = list(dict.fromkeys(parts))
        if not self.parts:
            raise InputError("model utility: found no parts, expected at least one")

    def update(self, part: str, index: Tensor, values: Tensor) -> None:
        """Add values of examples to a part.

        Args:
            part: name of the part.
            index: example numbers, from 0 in each part, ``[rows]``.
            values: ``[rows]``.
        """
        if part not in self.parts:
            raise InputError(
                f"model utility: found part {part!r}, expected one of {', '.join(self.parts)}"
            )
        self.keep(index * len(self.parts) + self.parts.index(part), values)

    def compute(self) -> Tensor:
        """Return the harmonic mean of the means of the parts."""
        keys, values = self.table()
        part = keys % len(self.parts)
        missing = sorted(set(range(len(self.parts))) - set(part.tolist()))
        if missing:
            raise InputError(
                f"model utility: found no values of {', '.join(self.parts[i] for i in missing)}, "
                "expected values of every part"
            )
        means = [values[part == i].cpu().double().mean().item() for i in range(len(self.parts))]
        return torch.tensor(model_utility(means), dtype=torch.float64)


def _candidates(many: Tensor, one: Tensor, mask: Tensor | None) -> Tensor:
    mask = torch.ones_like(many, dtype=torch.bool) if mask is None else mask
    if many.ndim != 2 or one.shape != many.shape[:1] or mask.shape != many.shape:
        raise InputError(
            f"answers: found wrong answers {list(many.shape)}, mask {list(mask.shape)} and right "
            f"answers {list(one.shape)}, expected [rows, answers] twice, and [rows]"
        )
    empty = (~mask.any(-1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"answers: row {empty[0]} has no wrong answer, expected at least one")
    return mask
