"""Metrics of unlearning: pure functions, and torchmetrics classes that wrap them.

A function returns one value per example. A class is a `torchmetrics.Metric`: ``update`` takes the
numbers of some examples and the arguments of the function, on any process. ``compute`` returns the
values of all examples in the order of their numbers, each counted once, or a single number.
"""

from lightning_unlearn.metrics.answers import (
    ExactMemorization,
    ExtractionStrength,
    Margin,
    MinK,
    MinKPlusPlus,
    Probability,
    exact_memorization,
    extraction_strength,
    margin,
    min_k,
    min_k_plus_plus,
    probability,
)
from lightning_unlearn.metrics.distance import (
    KLToOracle,
    Overshoot,
    REDistance,
    kl_to_oracle,
    overshoot,
    re_distance,
)
from lightning_unlearn.metrics.klom import KLoM
from lightning_unlearn.metrics.membership import (
    MembershipAUC,
    auc,
    gradient_norm_score,
    loss_score,
    privleak,
    reference_score,
    zlib_score,
)
from lightning_unlearn.metrics.memorization import (
    KnowledgeMemorization,
    VerbatimMemorization,
    knowledge_memorization,
    verbatim_memorization,
)
from lightning_unlearn.metrics.rouge import RougeL, RougeScores, rouge_l
from lightning_unlearn.metrics.truth_ratio import (
    ChoiceProbability,
    ForgetQuality,
    ModelUtility,
    TruthRatio,
    choice_probability,
    forget_quality,
    model_utility,
    truth_ratio,
    truth_ratio_utility,
)

__all__ = [
    "ChoiceProbability",
    "ExactMemorization",
    "ExtractionStrength",
    "ForgetQuality",
    "KLToOracle",
    "KLoM",
    "KnowledgeMemorization",
    "Margin",
    "MembershipAUC",
    "MinK",
    "MinKPlusPlus",
    "ModelUtility",
    "Overshoot",
    "Probability",
    "REDistance",
    "RougeL",
    "RougeScores",
    "TruthRatio",
    "VerbatimMemorization",
    "auc",
    "choice_probability",
    "exact_memorization",
    "extraction_strength",
    "forget_quality",
    "gradient_norm_score",
    "kl_to_oracle",
    "knowledge_memorization",
    "loss_score",
    "margin",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "overshoot",
    "privleak",
    "probability",
    "re_distance",
    "reference_score",
    "rouge_l",
    "truth_ratio",
    "truth_ratio_utility",
    "verbatim_memorization",
    "zlib_score",
]
