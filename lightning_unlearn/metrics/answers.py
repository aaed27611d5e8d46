"""How well a model knows given answers, from the statistics of their label tokens.

Functions give one value per sequence; NaN for a sequence without label tokens.
"""

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.token_statistics import TokenStatistics

# Below this, the deviation of a next-token distribution is rounding: the distribution is flat or
# one token has all of it.
LEAST_DEVIATION = 1e-6


def probability(statistics: TokenStatistics) -> Tensor:
    """Probability of the answer, normalized for its length: exp(-NLL / label tokens).

    Args:
        statistics: of the label tokens.

    Returns:
        Between 0 and 1, ``[sequences]``.

    Source: Maini et al. 2024 (TOFU), arXiv 2401.06121.
    """
    return _defined(statistics.log_probs.mean.exp(), statistics)


def exact_memorization(statistics: TokenStatistics) -> Tensor:
    """Share of the label tokens that the model would write next, given the true ones before.

    Args:
        statistics: of the label tokens.

    Returns:
        Between 0 and 1, ``[sequences]``.

    Source: Tirumala et al. 2022, arXiv 2205.10770.
    """
    return _defined(statistics.average(statistics.top), statistics)


def extraction_strength(statistics: TokenStatistics) -> Tensor:
    """How much of the answer need not be given: 1 - k / L.

    k is the length of the shortest prefix of the answer after which every label token is the one
    the model would write. k = L is allowed, so an answer with a wrong last token has 0.

    Args:
        statistics: of the label tokens.

    Returns:
        Between 0 and 1, ``[sequences]``.

    Source: Wang et al. 2025, arXiv 2406.09179, after Carlini et al. 2021, arXiv 2012.07805.
    """
    place = statistics.mask.cumsum(-1)
    wrong = statistics.mask & (statistics.top < 0.5)
    prefix = (place * wrong).amax(-1) if place.shape[-1] else place.sum(-1)
    return _defined(1 - prefix / statistics.length.clamp(min=1), statistics)


def min_k(statistics: TokenStatistics, share: float = 0.2) -> Tensor:
    """Min-k %: mean of the lowest log-probabilities of the label tokens.

    Args:
        statistics: of the label tokens.
        share: of the tokens, rounded down, at least one token.

    Returns:
        Nats per token, ``[sequences]``; higher = more likely a member.

    Source: Shi et al. 2024, arXiv 2310.16789.
    """
    return _lowest(statistics.log_prob, statistics, share)


def min_k_plus_plus(statistics: TokenStatistics, share: float = 0.2) -> Tensor:
    """Min-k %++: mean of the lowest standardized log-probabilities of the label tokens.

    Standardized under the model's own next-token distribution: (log p - mean) / deviation. Where
    the deviation is 0, all tokens are equally likely or one is certain; it then counts as 1e-6,
    so that the value is finite, and near 0 if the label is one of the likeliest tokens.

    Args:
        statistics: of the label tokens.
        share: of the tokens, rounded down, at least one token.

    Returns:
        ``[sequences]``; higher = more likely a member.

    Source: Zhang et al. 2024, arXiv 2404.02936.
    """
    deviation = statistics.std.clamp(min=LEAST_DEVIATION)
    return _lowest((statistics.log_prob - statistics.mean) / deviation, statistics, share)


def margin(statistics: TokenStatistics) -> Tensor:
    """Mean margin of the label tokens, what KLoM compares.

    Args:
        statistics: of the label tokens.

    Returns:
        Mean of log p - log(1 - p), nats, ``[sequences]``.

    Source: Georgiev et al. 2024, arXiv 2410.23232.
    """
    return _defined(statistics.average(statistics.margin), statistics)


def check_share(share: float) -> None:
    """Refuse a share of tokens that is not in (0, 1]."""
    if not 0 < share <= 1:
        raise InputError(
            f"min-k: found a share of {share}, expected more than 0 and at most 1 (0.2 for 20 %)"
        )


class Probability(PerExampleMetric):
    """`probability` of all examples, ``[examples]``; update with numbers and statistics."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return probability(statistics)


class ExactMemorization(PerExampleMetric):
    """`exact_memorization` of all examples, ``[examples]``."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return exact_memorization(statistics)


class ExtractionStrength(PerExampleMetric):
    """`extraction_strength` of all examples, ``[examples]``."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return extraction_strength(statistics)


class Margin(PerExampleMetric):
    """`margin` of all examples, ``[examples]``."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return margin(statistics)


class MinK(PerExampleMetric):
    """`min_k` of all examples, ``[examples]``.

    Args:
        count: number of examples; None for the highest number seen and one.
        share: of the tokens.
    """

    def __init__(self, count: int | None = None, share: float = 0.2) -> None:
        super().__init__(count)
        check_share(share)
        self.share = share

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return min_k(statistics, self.share)


class MinKPlusPlus(MinK):
    """`min_k_plus_plus` of all examples, ``[examples]``; arguments as of `MinK`."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return min_k_plus_plus(statistics, self.share)


def _lowest(values: Tensor, statistics: TokenStatistics, share: float) -> Tensor:
    check_share(share)
    if not values.shape[-1]:
        return values.new_full(values.shape[:1], torch.nan)
    # 0.29 of 100 tokens is 28.999999999999996 to a computer.
    counts = [max(1, int(length * share + 1e-9)) for length in statistics.length.tolist()]
    wanted = torch.tensor(counts, device=values.device)
    rising = values.masked_fill(~statistics.mask, torch.inf).sort(-1).values
    taken = torch.arange(values.shape[-1], device=values.device) < wanted[:, None]
    mean = torch.where(taken, rising, 0.0).sum(-1) / wanted
    return _defined(mean, statistics)


def _defined(values: Tensor, statistics: TokenStatistics) -> Tensor:
    return values.masked_fill(statistics.length == 0, torch.nan)
