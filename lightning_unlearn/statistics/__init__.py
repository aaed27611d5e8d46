"""Statistics of runs, paths, seeds and oracles: pure functions on arrays, numpy and scipy only."""

from lightning_unlearn.statistics.best_steps import (
    BestSteps,
    best_steps,
    complete_seeds,
    mean_over_seeds,
)
from lightning_unlearn.statistics.divergence import pairwise_distance, squared_distance
from lightning_unlearn.statistics.growth import Cause, Growth, NoGrowth, exponential_growth
from lightning_unlearn.statistics.icc import IntraclassCorrelation, icc1
from lightning_unlearn.statistics.intervals import (
    Interval,
    half_width,
    half_width_of_difference,
    mean_interval,
)
from lightning_unlearn.statistics.klom import (
    NoiseFloor,
    StandardizedDifference,
    inflation,
    klom,
    noise_floor,
    standardized_difference,
    wasserstein,
)
from lightning_unlearn.statistics.recency import recency_effect

__all__ = [
    "BestSteps",
    "Cause",
    "Growth",
    "Interval",
    "IntraclassCorrelation",
    "NoGrowth",
    "NoiseFloor",
    "StandardizedDifference",
    "best_steps",
    "complete_seeds",
    "exponential_growth",
    "half_width",
    "half_width_of_difference",
    "icc1",
    "inflation",
    "klom",
    "mean_interval",
    "mean_over_seeds",
    "noise_floor",
    "pairwise_distance",
    "recency_effect",
    "squared_distance",
    "standardized_difference",
    "wasserstein",
]
