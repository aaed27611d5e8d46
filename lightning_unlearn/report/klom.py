"""Whether unlearned models are distributed like oracles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.curves import Curves, Place, curves_of, oracles_by_seed
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

# Of a probe, the measure that is compared: margins, or log-likelihoods where there are none.
KINDS = ("margin", "log_likelihood")


@dataclass(frozen=True)
class Comparison:
    """The unlearned models of a path beside its oracles, on the examples of a probe.

    Attributes:
        curves: the runs, of which the last step is compared.
        path: of these.
        probe: its name.
        measure: what is compared.
        models: unlearned models.
        oracles: oracle models.
        points: examples that every one of the models has a finite value of.
        dropped: examples left out, for one of the models has none.
        klom: per point; None with fewer than ten models of either kind.
        difference: None with fewer than two models of either kind.
        wasserstein: per point, in the measure's unit.
        valueless: seeds of runs without any finite value at the last step.
        lonely: seeds of runs that have no oracle.
    """

    curves: Curves
    path: Place
    probe: str
    measure: str
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
class Missing:
    """A path that cannot be compared with oracles.

    Attributes:
        curves: the runs.
        path: of these.
        probe: its name.
        reason: why.
    """

    curves: Curves
    path: Place
    probe: str
    reason: str


def comparisons(examples: StudyRecords) -> list[Comparison | Missing]:
    """Compare the models at the last step of unlearning with the oracles, path by path.

    Args:
        examples: the examples.

    Returns:
        By probe, method, setting and path.
    """
    return [
        comparison
        for probe, measure in measures_of_probes(examples).items()
        for curves in curves_of(examples, measure)
        for comparison in _of_paths(examples, probe, measure, curves)
    ]


def measures_of_probes(examples: StudyRecords) -> dict[str, str]:
    """The measure to compare of each probe that runs and oracles have one of."""
    measures = set(examples.retrained["metric"].unique())
    found: dict[str, str] = {}
    for measure in [name for name in examples.runs["metric"].unique() if name in measures]:
        kind, _, probe = measure.partition("/")
        if kind in KINDS and (probe not in found or kind == KINDS[0]):
            found[probe] = measure
    return found


def _of_paths(
    examples: StudyRecords, probe: str, measure: str, curves: Curves
) -> Iterator[Comparison | Missing]:
    each = oracles_by_seed(examples, measure, curves)
    for path, runs, retrained in zip(curves.paths, curves.values, each, strict=True):
        oracles = np.array(list(retrained.values())).reshape(len(retrained), len(curves.examples))
        seeds = dict(zip(curves.seeds, np.isfinite(runs).any(axis=(1, 2)).tolist(), strict=True))
        own, aim = _with_values(runs[:, -1]), _with_values(oracles)
        known = np.isfinite(own).all(axis=0) & np.isfinite(aim).all(axis=0)
        if not len(own) or not len(aim) or not known.any():
            reason = "no example has a finite value of every model"
            if not len(own):
                reason = f"no run has a finite value at the last step, {curves.steps[-1]}"
            elif not len(aim):
                reason = "no oracle has a finite value"
            yield Missing(curves, path, probe, reason)
            continue
        last = np.isfinite(runs[:, -1]).any(axis=1).tolist()
        aims = [seed for seed, values in retrained.items() if np.isfinite(values).any()]
        own, aim = own[:, known], aim[:, known]
        fewest = min(len(own), len(aim))
        yield Comparison(
            curves=curves,
            path=path,
            probe=probe,
            measure=measure,
            models=len(own),
            oracles=len(aim),
            points=int(known.sum()),
            dropped=int((~known).sum()),
            klom=klom(own, aim) if fewest >= LEAST_MODELS else None,
            difference=standardized_difference(own, aim) if fewest >= 2 else None,
            wasserstein=wasserstein(own, aim),
            valueless=[s for s, has in zip(curves.seeds, last, strict=True) if seeds[s] > has],
            lonely=[seed for seed, ran in seeds.items() if ran and seed not in aims],
        )


def _with_values(models: NDArray[np.float64]) -> NDArray[np.float64]:
    """The models with any finite value."""
    return models[np.isfinite(models).any(axis=1)]
