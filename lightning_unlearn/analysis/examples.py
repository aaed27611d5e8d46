"""Single forget examples beside their oracles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_unlearn.analysis.curves import Curves, Floats, curves_by_condition, spread_over_seeds
from lightning_unlearn.analysis.reading import Condition, PathPosition, StudyRecords
from lightning_unlearn.statistics import mean_over_seeds


@dataclass(frozen=True, eq=False)
class Trajectories:
    """The examples of one path, means over seeds.

    Attributes:
        steps: of the runs.
        numbers: of the examples.
        gaps: log-likelihood minus the oracle's, whose 0 is the target; or, without an
            oracle, the log-likelihood. [examples, steps]; NaN where it is missing.
        half: half the 95 % interval of the oracles' mean over their seeds, mean over examples; NaN
            with one oracle.
        has_oracle: whether there is a target.
    """

    steps: Floats
    numbers: list[int]
    gaps: Floats
    half: float
    has_oracle: bool

    @property
    def crossings(self) -> Floats:
        """The steps, interpolated, at which examples first fall to their target."""
        found = map(self._crossing, self.gaps) if self.has_oracle else ()
        return np.array([c for c in found if np.isfinite(c)])

    def _crossing(self, gaps: Floats) -> float:
        known = np.isfinite(gaps)
        x, y = self.steps[known], gaps[known]
        falls = np.flatnonzero((y[:-1] > 0) & (y[1:] <= 0))
        if not falls.size:
            return float("nan")
        at = falls[0]
        return float(x[at] + (x[at + 1] - x[at]) * y[at] / (y[at] - y[at + 1]))


def trajectories_of(curves: Curves, oracles: list[Floats]) -> dict[PathPosition, Trajectories]:
    """Each path's examples against its oracles, where it has any.

    Args:
        curves: of examples.
        oracles: what `oracles_of_paths` gives for them.
    """
    found = {}
    for path, values, models in zip(curves.paths, curves.values, oracles, strict=True):
        has_oracle = bool(np.isfinite(models).any())
        half, target = np.empty(0), np.zeros(values.shape[-1])
        if has_oracle:
            (target,), (half,) = spread_over_seeds(models[None])
            half = half[np.isfinite(half)]
        # [seeds, steps, examples] to [steps, seeds, examples], whose seeds are averaged.
        gaps = (mean_over_seeds(values.swapaxes(0, 1)) - target).T
        kept = np.flatnonzero(np.isfinite(gaps).any(axis=1))
        if len(kept):
            found[path] = Trajectories(
                np.asarray(curves.steps, np.float64),
                [curves.examples[place] for place in kept],
                gaps[kept],
                float(half.mean()) if half.size else float("nan"),
                has_oracle,
            )
    return found


def overshoots(study: StudyRecords) -> dict[tuple[Condition, PathPosition], float]:
    """The share of examples below their oracle at the last step, mean over seeds."""
    found = {}
    for of, curves in curves_by_condition(study, "overshoot/forget").items():
        means = mean_over_seeds(curves.means)
        for path, values in zip(curves.paths, means, strict=True):
            known = values[np.isfinite(values)]
            if known.size:
                found[of, path] = float(known[-1])
    return found
