"""Distances between a model and its oracle, the model retrained without the forget set."""

from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.token_statistics import TokenStatistics


def re_distance(policy: Tensor, oracle: Tensor) -> Tensor:
    """Compute the squared difference of the log-likelihoods of two models for each example.

    Its mean over examples is the retrain-equivalence distance with log-likelihoods as outputs.

    Args:
        policy: log-likelihood per label token, ``[examples]``.
        oracle: the same under the oracle, ``[examples]``.

    Returns:
        Nats squared, ``[examples]``.

    Source: Yu et al. 2025, arXiv 2510.16629, Def. 2.1.
    """
    _same(policy, oracle)
    return (policy - oracle).square()


def overshoot(policy: Tensor, oracle: Tensor) -> Tensor:
    """Find the examples that are less likely than under the oracle.

    Args:
        policy: log-likelihood, ``[examples]``.
        oracle: the same under the oracle, ``[examples]``.

    Returns:
        1 if the policy's value is below the oracle's, else 0, ``[examples]``. The mean is the share
        of examples that overshoot.

    Source: the missing-targets problem of Georgiev et al. 2024, arXiv 2410.23232.
    """
    _same(policy, oracle)
    return (policy < oracle).to(policy.dtype)


def kl_to_oracle(statistics: TokenStatistics) -> Tensor:
    """Compute the mean KL(oracle || model) of the next-token distributions at the label tokens.

    Args:
        statistics: statistics of the label tokens, with their KL.

    Returns:
        Nats per token, ``[sequences]``; NaN for a sequence without label tokens.
    """
    if statistics.kl is None:
        raise InputError(
            "KL to the oracle: found statistics without a KL, expected statistics of a pass with "
            "an oracle"
        )
    values = statistics.average(statistics.kl)
    return values.masked_fill(statistics.length == 0, float("nan"))


class REDistance(PerExampleMetric):
    """`re_distance` of all examples, ``[examples]``."""

    def measure(self, policy: Tensor, oracle: Tensor) -> Tensor:
        return re_distance(policy, oracle)


class Overshoot(PerExampleMetric):
    """`overshoot` of all examples, ``[examples]``."""

    def measure(self, policy: Tensor, oracle: Tensor) -> Tensor:
        return overshoot(policy, oracle)


class KLToOracle(PerExampleMetric):
    """`kl_to_oracle` of all examples, ``[examples]``; update with numbers and statistics."""

    def measure(self, statistics: TokenStatistics) -> Tensor:
        return kl_to_oracle(statistics)


def _same(policy: Tensor, oracle: Tensor) -> None:
    # [B] minus [B, 1] would give [B, B].
    if policy.shape != oracle.shape:
        raise InputError(
            f"distance to the oracle: found values {list(policy.shape)} and "
            f"{list(oracle.shape)}, expected equal shapes, one value per example"
        )
