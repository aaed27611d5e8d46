"""Whether unlearned models are distributed like oracles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from lightning_unlearn.analysis.curves import Curves, Floats, curves_of, oracles_by_seed
from lightning_unlearn.analysis.reading import PathPosition, StudyRecords
from lightning_unlearn.statistics.klom import (
    LEAST_MODELS,
    NoiseFloor,
    klom,
    noise_floor,
    standardized_difference,
    wasserstein,
)

# The metric of a group that is compared: margins, or log-likelihoods where there are none.
KINDS = ("margin", "log_likelihood")


@dataclass(frozen=True)
class Comparison:
    """The unlearned models of a path beside its oracles, on the examples of a group.

    What takes more models than there are is NaN: KLoM ten of either kind, differences two.

    Attributes:
        curves: the runs, of which the last step is compared.
        path: of these.
        group: of examples.
        metric: what is compared.
        reason: why there is no comparison; "" where there is one.
        models: unlearned models.
        oracles: oracle models.
        examples: those that every one of the models has a finite value of.
        missing: examples left out, because one of the models has none.
        klom: mean over examples; with its 95th percentile, and both of models that are as good as
            oracles (`floor`).
        difference: of the means, in standard deviations of the oracles, with its interval; and its
            absolute value, beside that of equals (`absolute_floor`).
        wasserstein: mean over examples, in the metric's unit, and its 95th percentile.
        valueless: seeds of runs without any finite value at the last step.
        lonely: seeds of runs that have no oracle.
    """

    curves: Curves
    path: PathPosition
    group: str
    metric: str
    reason: str = ""
    models: int = 0
    oracles: int = 0
    examples: int = 0
    missing: int = 0
    klom: float = math.nan
    klom_p95: float = math.nan
    floor: float = math.nan
    floor_p95: float = math.nan
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    absolute: float = math.nan
    absolute_floor: float = math.nan
    wasserstein: float = math.nan
    wasserstein_p95: float = math.nan
    valueless: list[int] = field(default_factory=list)
    lonely: list[int] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The step that is compared."""
        return self.curves.steps[-1]

    @property
    def fewest(self) -> int:
        """The models of the kind that has fewer."""
        return min(self.models, self.oracles)


def comparisons(examples: StudyRecords) -> list[Comparison]:
    """Compare the models at the last step of unlearning with the oracles, path by path.

    Returns:
        By group, method, setting and path.
    """
    return [
        _compared(Comparison(curves, path, group, metric), runs, retrained)
        for group, metric in metrics_of_groups(examples).items()
        for curves in curves_of(examples, metric)
        for path, runs, retrained in zip(
            curves.paths, curves.values, oracles_by_seed(examples, metric, curves), strict=True
        )
    ]


def metrics_of_groups(examples: StudyRecords) -> dict[str, str]:
    """The metric to compare of each group of examples that runs and oracles have one of."""
    retrained = set(examples.retrained["metric"].unique())
    found: dict[str, str] = {}
    for metric in examples.runs["metric"].unique():
        kind, _, group = metric.partition("/")
        if metric in retrained and kind in KINDS and (group not in found or kind == KINDS[0]):
            found[group] = metric
    return found


def _compared(own: Comparison, runs: Floats, retrained: dict[int, Floats]) -> Comparison:
    """Compare the runs of a path, [seeds, steps, examples], with its oracles, each [examples]."""
    oracles = np.array(list(retrained.values())).reshape(len(retrained), runs.shape[-1])
    has_oracle = np.isfinite(oracles).any(axis=1)
    ran, ends = np.isfinite(runs).any(axis=(1, 2)), np.isfinite(runs[:, -1]).any(axis=1)
    models, aims = runs[ends, -1], oracles[has_oracle]
    known = np.isfinite(models).all(axis=0) & np.isfinite(aims).all(axis=0)
    if not len(models):
        return replace(own, reason=f"no run has a finite value at the last step, {own.step}")
    if not len(aims):
        return replace(own, reason="no oracle has a finite value")
    if not known.any():
        return replace(own, reason="no example has a finite value of every model")
    seeds, of_oracles = np.array(own.curves.seeds), np.array(list(retrained))[has_oracle]
    distances = wasserstein(models[:, known], aims[:, known])
    own = replace(
        own,
        models=len(models),
        oracles=len(aims),
        examples=int(known.sum()),
        missing=int((~known).sum()),
        wasserstein=distances.mean(),
        wasserstein_p95=np.percentile(distances, 95),
        valueless=seeds[ran & ~ends].tolist(),
        lonely=seeds[ran & ~np.isin(seeds, of_oracles)].tolist(),
    )
    return _with_distributions(own, models[:, known], aims[:, known])


def _with_distributions(own: Comparison, models: Floats, oracles: Floats) -> Comparison:
    """A comparison with what needs several models of either kind, if there are as many."""
    if own.fewest > 1:
        d = standardized_difference(models, oracles)
        own = replace(own, difference=d.mean, difference_low=d.low, difference_high=d.high)
        own = replace(own, absolute=d.absolute, absolute_floor=d.absolute_floor)
    if own.fewest >= LEAST_MODELS:
        each, floor = klom(models, oracles), noise_floor_of(own.models, own.oracles)
        own = replace(own, klom=each.mean(), klom_p95=np.percentile(each, 95))
        own = replace(own, floor=floor.mean, floor_p95=floor.percentile95)
    return own


@lru_cache
def noise_floor_of(models: int, oracles: int) -> NoiseFloor:
    """`noise_floor`, which draws random numbers, once for each pair of counts."""
    return noise_floor(models, oracles)
