"""The distance between paths, and how fast it grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

import numpy as np

from lightning_unlearn.analysis.curves import log_band_of
from lightning_unlearn.analysis.divergence import Divergence, divergences
from lightning_unlearn.analysis.reading import Condition, StudyRecords
from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.curves import mean_line
from lightning_unlearn.report.figures.labels import forgotten, grid_of
from lightning_unlearn.report.figures.style import PALETTE, CurveStyle, plain
from lightning_unlearn.report.formatting import names_of_paths, short_number, span
from lightning_unlearn.report.sections.base import with_half

FIT = "mean exponential fit (shaded: range of steps it holds over)"
SEEDS = "two seeds of one path"
# Up to this number of pairs have a line each where they share a color.
LINES = 80

Pairs = dict[CurveStyle, list[int]]


def divergence_figure(examples: StudyRecords) -> spec.Figure | None:
    """RE distances between paths by step, on a logarithmic axis, and their exponential growth.

    The examples are those of one metric, whose log-likelihoods are compared.
    """
    metrics = list(examples.runs["metric"].unique())
    found = {
        own.curves.condition: own
        for own in (divergences(examples, metrics[0]) if metrics else [])
        if (own.paths > 0).any()
    }
    if not found:
        return None
    styles = {of: styles_of_pairs(own) for of, own in found.items()}

    def panel(of: Condition) -> spec.Panel | None:
        if of not in found:
            return None
        marks = [*pair_marks(found[of], styles[of]), *_growth(found[of])]
        growth = growth_in_words(found[of]).replace(" (rate", "\n(rate")
        setting = f"{of.words}\n{growth}".strip("\n")
        unit = "RE distance between paths\n(nats per token)²"
        return spec.Panel(marks, of.method, setting, unit, "divergence", log=True)

    grid = grid_of(examples.runs, examples, panel)
    every = {style.label: style for own in styles.values() for style in own}
    entries = [spec.Entry("line", style.label, style) for style in every.values()]
    if any(own.fits for own in found.values()):
        entries.append(spec.Entry("fit", plain(FIT)))
    if any(own.seed_pairs for own in found.values()):
        entries.append(spec.Entry("seeds", plain(SEEDS)))
    seeds = span([len(own.curves.seeds) for own in found.values()])
    notes = [f"line: geometric mean of {seeds} seeds; band: 95 % interval"] * (seeds != "1")
    title = f"Unlearning {forgotten(examples.runs)}: how far apart the paths are on its examples"
    legend = spec.Legend("between the paths", entries)
    return spec.Figure(title, notes, grid, legend)


def styles_of_pairs(own: Divergence) -> Pairs:
    """The pairs of each style: each pair its own, or those of equally distant positions."""
    few = len(own.pairs) <= len(PALETTE)
    names = names_of_paths(own.curves.paths)
    texts = [
        f"{names[one]} and {names[other]}" if few else _apart(own, one, other)
        for one, other in own.pairs
    ]
    distinct = list(dict.fromkeys(texts))
    if not few:
        distinct.sort(key=lambda label: (label != "same place", label))
    return {
        CurveStyle(f"pair:{label}", rank, len(distinct), plain(label), label): [
            place for place, other in enumerate(texts) if other == label
        ]
        for rank, label in enumerate(distinct)
    }


def _apart(own: Divergence, one: int, other: int) -> str:
    places = [position for _, position in own.curves.paths]
    count = abs(places[one] - places[other])
    return f"{count} place{'s' * (count > 1)} apart" if count else "same place"


def pair_marks(own: Divergence, styles: Mapping[CurveStyle, list[int]]) -> list[spec.Mark]:
    """The curves of a panel, and the distance between seeds."""
    steps, marks = own.curves.steps, list[spec.Mark]()
    names = names_of_paths(own.curves.paths)
    for style, places in styles.items():
        bands = [log_band_of(steps, own.paths[place]) for place in places]
        if len(places) == 1:
            (band,) = bands
            marks += [spec.thick_line(band, style, style.short, 0.1)] if band.seeds else []
            continue
        for band, place in zip(bands, places, strict=True):
            if len(own.pairs) <= LINES:
                pair = " and ".join(names[path] for path in own.pairs[place])
                marks.append(spec.Mark(band.x, band.mean, "pair", pair, style))
        # The pairs are not independent: there is no interval.
        mean = log_band_of(steps, own.paths[places].reshape(-1, len(steps)))
        name = f"mean of {len(places)} pairs of paths, {style.short}"
        marks += mean_line(mean.x, mean.mean, style, name)
    if own.seed_pairs:
        band = log_band_of(steps, own.seeds.reshape(-1, len(steps)))
        marks += [spec.Mark(band.x, band.mean, "seeds", f"{SEEDS}, mean")] if band.seeds else []
    return marks


def _growth(own: Divergence) -> list[spec.Mark]:
    """The mean rate of the fits, through the mean of all pairs over the median range."""
    if not own.fits:
        return []
    first = median(fit.first for fit in own.fits)
    last = median(fit.last for fit in own.fits)
    rate = own.rate
    every = log_band_of(own.curves.steps, own.paths.reshape(-1, len(own.curves.steps)))
    inside = (every.x >= first) & (every.x <= last)
    x = np.array([first, last], np.float64)
    level = float(np.log(every.mean[inside]).mean()) - rate.mean * float(every.x[inside].mean())
    fit = spec.Mark(x, np.exp(level + rate.mean * x), "fit", f"fit: {growth_in_words(own)}")
    return [spec.Mark(x, spec.NOTHING, "range", "range of the fit"), fit]


def growth_in_words(own: Divergence) -> str:
    """The mean rate and how long it takes to double or halve; "" without a fit."""
    rate = own.rate
    if not own.fits:
        return ""
    how = f"(rate {with_half(rate)})"
    if math.isnan(own.doubling):
        return f"no sure growth {how}"
    steps = short_number(abs(own.doubling), 2)
    return f"{'doubles' if own.doubling > 0 else 'halves'} in {steps} steps {how}"
