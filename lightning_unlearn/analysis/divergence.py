"""How far paths are from each other, and how fast they diverge."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.analysis.curves import Curves, Floats, curves_of
from lightning_unlearn.analysis.reading import StudyRecords
from lightning_unlearn.statistics import (
    Cause,
    Growth,
    Interval,
    NoGrowth,
    exponential_growth,
    mean_interval,
    pairwise_distance,
)


@dataclass(frozen=True)
class Divergence:
    """The RE distances between the models of one method and setting.

    Attributes:
        curves: the log-likelihoods of the examples.
        pairs: of paths, as places in `curves.paths`.
        paths: distances between the paths of a pair, of one seed, [pairs, seeds, steps].
        seed_pairs: of seeds, as places in `curves.seeds`.
        seeds: distances between the seeds of a pair, on one path, [seed pairs, paths, steps].
        growth: the fit of each pair and seed, [pairs][seeds].
    """

    curves: Curves
    pairs: list[tuple[int, int]]
    paths: Floats
    seed_pairs: list[tuple[int, int]]
    seeds: Floats
    growth: list[list[Growth | NoGrowth]]

    @property
    def fits(self) -> list[Growth]:
        """The fits of all pairs and seeds that have one."""
        return [fit for row in self.growth for fit in row if isinstance(fit, Growth)]

    @property
    def growing(self) -> int:
        """How many of the fits grow."""
        return sum(fit.rate > 0 for fit in self.fits)

    @property
    def shrinking(self) -> int:
        """How many of the fits shrink."""
        return len(self.fits) - self.growing

    @property
    def measured(self) -> int:
        """Of how many pairs of paths and seeds there are distances."""
        return int(np.isfinite(self.paths).any(axis=-1).sum())

    @property
    def causes(self) -> dict[Cause, int]:
        """How many of those have no fit for which cause."""
        known = np.isfinite(self.paths).any(axis=-1).ravel()
        fits = zip(itertools.chain(*self.growth), known, strict=True)
        return Counter(fit.cause for fit, has in fits if has and isinstance(fit, NoGrowth))

    @property
    def doubling(self) -> float:
        """Steps in which distances double at the mean rate; negative, in which they halve.

        NaN where some fits grow and others shrink, or where the interval of the rate contains 0.
        """
        rate, unsure = self.rate, bool(self.growing and self.shrinking)
        if unsure or not rate.mean or rate.low <= 0 <= rate.high:
            return math.nan
        return math.log(2) / rate.mean

    @property
    def rate(self) -> Interval:
        """The mean growth rate of the fits, as a mean over seeds with its interval."""
        by_seed = zip(*self.growth, strict=True)
        each = [[fit.rate for fit in fits if isinstance(fit, Growth)] for fits in by_seed]
        return mean_interval([sum(rates) / len(rates) for rates in each if rates])


def divergences(examples: StudyRecords, metric: str) -> list[Divergence]:
    """What `compared` finds."""
    return compared(examples, metric)[0]


def compared(examples: StudyRecords, metric: str) -> tuple[list[Divergence], list[Curves]]:
    """Compare the paths, and the seeds, of every method and setting by the values of examples.

    Returns:
        In order of first appearance, and the curves that have no two paths to compare.
    """
    found, left = [], []
    for curves in curves_of(examples, metric):
        paths = pairwise_distance(curves.values)
        if not np.isfinite(paths).any():
            left.append(curves)
            continue
        growth = [[exponential_growth(curves.steps, curve) for curve in pair] for pair in paths]
        found.append(
            Divergence(
                curves,
                list(itertools.combinations(range(len(curves.paths)), 2)),
                paths,
                list(itertools.combinations(range(len(curves.seeds)), 2)),
                pairwise_distance(curves.values.swapaxes(0, 1)),
                growth,
            )
        )
    return found, left
