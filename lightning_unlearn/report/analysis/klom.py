"""Whether unlearned models are distributed like oracles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.curves import Curves, PathPosition, curves_of, oracles_by_seed
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.statistics.klom import (
    LEAST_MODELS,
    StandardizedDifference,
    klom,
    standardized_difference,
    wasserstein,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The metric of a group that is compared: margins, or log-likelihoods where there are none.
KINDS = ("margin", "log_likelihood")


@dataclass(frozen=True)
class Compared:
    """A path of which models and oracles are to be compared.

    Attributes:
        curves: the runs, of which the last step is compared.
        path: of these.
        group: of examples.
    """

    curves: Curves
    path: PathPosition
    group: str


@dataclass(frozen=True)
class Comparison(Compared):
    """The unlearned models of a path beside its oracles, on the examples of a group.

    Attributes:
        metric: what is compared.
        models: unlearned models.
        oracles: oracle models.
        points: examples that every one of the models has a finite value of.
        dropped: examples left out, because one of the models has none.
        klom: per point; None with fewer than ten models of either kind.
        difference: None with fewer than two models of either kind.
        wasserstein: per point, in the metric's unit.
        valueless: seeds of runs without any finite value at the last step.
        lonely: seeds of runs that have no oracle.
    """

    metric: str
    models: int
    oracles: int
    points: int
    dropped: int
    klom: NDArray[np.float64] | None
    difference: StandardizedDifference | None
    wasserstein: NDArray[np.float64]
    valueless: list[int]
    lonely: list[int]


@dataclass(frozen=True)
class Missing(Compared):
    """A path that cannot be compared with oracles.

    Attributes:
        reason: why.
    """

    reason: str


def comparisons(examples: StudyRecords) -> list[Comparison | Missing]:
    """Compare the models at the last step of unlearning with the oracles, path by path.

    Args:
        examples: the examples.

    Returns:
        By group, method, setting and path.
    """
    return [
        _compared(Compared(curves, path, group), metric, runs, retrained)
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


def _compared(
    own: Compared,
    metric: str,
    runs: NDArray[np.float64],
    retrained: dict[int, NDArray[np.float64]],
) -> Comparison | Missing:
    """Compare the runs of a path, [seeds, steps, examples], with its oracles, each [examples]."""
    seeds, steps = own.curves.seeds, own.curves.steps
    oracles = np.array(list(retrained.values())).reshape(len(retrained), runs.shape[-1])
    ran, ends = np.isfinite(runs).any(axis=(1, 2)), np.isfinite(runs[:, -1]).any(axis=1)
    models, aims = runs[ends, -1], oracles[np.isfinite(oracles).any(axis=1)]
    known = np.isfinite(models).all(axis=0) & np.isfinite(aims).all(axis=0)
    reason = ""
    if not len(models):
        reason = f"no run has a finite value at the last step, {steps[-1]}"
    elif not len(aims):
        reason = "no oracle has a finite value"
    elif not known.any():
        reason = "no example has a finite value of every model"
    if reason:
        return Missing(own.curves, own.path, own.group, reason)
    with_oracle = [seed for seed, values in retrained.items() if np.isfinite(values).any()]
    models, aims = models[:, known], aims[:, known]
    fewest = min(len(models), len(aims))
    return Comparison(
        own.curves,
        own.path,
        own.group,
        metric,
        models=len(models),
        oracles=len(aims),
        points=int(known.sum()),
        dropped=int((~known).sum()),
        klom=klom(models, aims) if fewest >= LEAST_MODELS else None,
        difference=standardized_difference(models, aims) if fewest >= 2 else None,
        wasserstein=wasserstein(models, aims),
        valueless=np.array(seeds)[ran & ~ends].tolist(),
        lonely=[s for s, has in zip(seeds, ran, strict=True) if has and s not in with_oracle],
    )
