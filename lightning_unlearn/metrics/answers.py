"""Metrics of how well a model knows given answers, from the statistics of their label tokens.

Functions return one value per sequence; NaN for a sequence without label tokens.
"""

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.token_statistics import TokenStatistics

# A smaller standard deviation of a next-token distribution is due to rounding: the distribution is
# flat, or one token has probability 1.
LEAST_DEVIATION = 1e-6


def probability(statistics: TokenStatistics) -> Tensor:
    """Compute the probability of the answer, normalized for its length: exp(-NLL / label tokens).

    Args:
        statistics: statistics of the label tokens.

    Returns:
        Between 0 and 1, ``[sequences]``.

    Source: Maini et al. 2024 (TOFU), arXiv 2401.06121.
    """
    return _defined(statistics.log_probs.mean.exp(), statistics)


def exact_memorization(statistics: TokenStatistics) -> Tensor:
    """Compute the share of the label tokens that are the most likely next token.

    The context is the true answer up to that token.

    Args:
        statistics: statistics of the label tokens.

    Returns:
        Between 0 and 1, ``[sequences]``.

    Source: Tirumala et al. 2022, arXiv 2205.10770.
    """
    return _defined(statistics.average(statistics.top), statistics)


def extraction_strength(statistics: TokenStatistics) -> Tensor:
    """Compute the share of the answer that greedy decoding adds to a prefix of it: 1 - k / L.

    k is the length of the shortest prefix of the answer after which every label token is the most
    likely one. k = L is allowed, so an answer with a wrong last token has 0.

    Args:
        statistics: statistics of the label tokens.

    Returns:
        Between 0 and 1, ``[sequences]``.

    Source: Wang et al. 2025, arXiv 2406.09179, after Carlini et al. 2021, arXiv 2012.07805.
    """
    position = statistics.mask.cumsum(-1)
    wrong = statistics.mask & (statistics.top < 0.5)
    prefix = (position * wrong).amax(-1) if position.shape[-1] else position.sum(-1)
    return _defined(1 - prefix / statistics.length.clamp(min=1), statistics)


def min_k(statistics: TokenStatistics, share: float = 0.2) -> Tensor:
    """Compute min-k %: the mean of the lowest log-probabilities of the label tokens.

    Args:
        statistics: statistics of the label tokens.
        share: share of the tokens that is averaged, rounded down, at least one token.

    Returns:
        Nats per token, ``[sequences]``; higher = more likely a member.

    Source: Shi et al. 2024, arXiv 2310.16789.
    """
    return _lowest(statistics.log_prob, statistics, share)


def min_k_plus_plus(statistics: TokenStatistics, share: float = 0.2) -> Tensor:
    """Compute min-k %++: the mean of the lowest standardized log-probabilities of label tokens.

    They are standardized under the model's own next-token distribution: (log p - mean) / deviation.
    If the deviation is 0, all tokens are equally likely or one is certain. It is then replaced by
    1e-6, so that the value is finite, and near 0 if the label is one of the most likely tokens.

    Args:
        statistics: statistics of the label tokens.
        share: share of the tokens that is averaged, rounded down, at least one token.

    Returns:
        ``[sequences]``; higher = more likely a member.

    Source: Zhang et al. 2024, arXiv 2404.02936.
    """
    deviation = statistics.std.clamp(min=LEAST_DEVIATION)
    return _lowest((statistics.log_prob - statistics.mean) / deviation, statistics, share)


def margin(statistics: TokenStatistics) -> Tensor:
    """Compute the mean margin of the label tokens, which KLoM compares.

    Args:
        statistics: statistics of the label tokens.

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
        count: number of examples; None for the highest number plus one.
        share: share of the tokens that is averaged.
    """

    def __init__(self, count: int | None = None, share: float = 0.2) -> None:
        super().__init__(count)
        check_share(share)
        self.share = share

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return min_k(statistics, self.share)


class MinKPlusPlus(MinK):
    """`min_k_plus_plus` of all examples, ``[examples]``; see `MinK` for the arguments."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return min_k_plus_plus(statistics, self.share)


def _lowest(values: Tensor, statistics: TokenStatistics, share: float) -> Tensor:
    check_share(share)
    if not values.shape[-1]:
        return values.new_full(values.shape[:1], torch.nan)
    # In floating point, 0.29 of 100 tokens is 28.999999999999996.
    counts = [max(1, int(length * share + 1e-9)) for length in statistics.length.tolist()]
    count = torch.tensor(counts, device=values.device)
    ascending = values.masked_fill(~statistics.mask, torch.inf).sort(-1).values
    selected = torch.arange(values.shape[-1], device=values.device) < count[:, None]
    mean = torch.where(selected, ascending, 0.0).sum(-1) / count
    return _defined(mean, statistics)


def _defined(values: Tensor, statistics: TokenStatistics) -> Tensor:
    return values.masked_fill(statistics.length == 0, torch.nan)
