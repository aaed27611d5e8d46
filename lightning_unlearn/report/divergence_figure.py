"""How far paths are from each other, and how fast they part."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.analysis.divergence import Divergence, divergences
from lightning_unlearn.report.arrangement import arrange
from lightning_unlearn.report.curve_figures import forgotten, tidy
from lightning_unlearn.report.curves import Band, log_band_of, names_of_paths
from lightning_unlearn.report.drawn import Curve, Part, Thin, Zone
from lightning_unlearn.report.formatting import short_number, span
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import PALETTE, Look, colors, folded, plain
from lightning_unlearn.report.panels import Panel
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.report.sections.base import with_half

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIT = {"color": "#000000", "linewidth": 2.2, "linestyle": (0, (3, 1.5)), "alpha": 1, "zorder": 3}
SEEDS = {"color": "#777777", "linewidth": 1.6, "linestyle": "-.", "alpha": 1, "zorder": 1.9}
RANGE = {"color": "#B8A000", "alpha": 0.10}
# So many pairs have a line each where they share a color.
LINES = 80

Pairs = dict[Look, list[int]]


def divergence_figure(examples: StudyRecords) -> Figure | None:
    """RE distances between paths by step, on a logarithmic axis, and their exponential growth.

    Args:
        examples: of one measure, whose log-likelihoods are compared.
    """
    measures = list(examples.runs["metric"].unique())
    found = {
        (own.curves.method, examples.settings.index(own.curves.setting)): own
        for own in (divergences(examples, measures[0]) if measures else [])
        if (own.paths > 0).any()
    }
    if not found:
        return None
    looks = {cell: looks_of_pairs(own) for cell, own in found.items()}
    rows = [
        [
            Panel(
                parts_of_pairs(found[cell], looks[cell]),
                folded(cell[0], 30),
                f"{examples.name(cell[1])}\n{growth_in_words(found[cell])}".replace(
                    " (rate", "\n(rate"
                ),
                "RE distance between paths\n(nats per token)$^2$",
                "divergence",
                log=True,
            )
            if cell in found
            else None
            for cell in row
        ]
        for row in arrange(examples.runs, examples)
    ]
    every = {look.label: look for own in looks.values() for look in own}
    entries: list[Entry] = [(look.line(1), look.label) for look in every.values()]
    panels = [panel for row in rows for panel in row if panel]
    if any(isinstance(part, Zone) for panel in panels for part in panel.parts):
        entries.append((FIT, "mean exponential fit (shaded: range of steps it holds over)"))
    if any(own.seed_pairs for own in found.values()):
        entries.append((SEEDS, "two seeds of one path"))
    seeds = span([len(own.curves.seeds) for own in found.values()])
    notes = [f"line: geometric mean of {seeds} seeds; band: 95 % interval"] * (seeds != "1")
    data = examples.runs
    title = f"Unlearning {forgotten(data)}: how far apart the paths are on its examples"
    grid = tidy(rows)
    heading = "between the paths"
    return compose(grid, (3.0, 2.3)[len(grid) > 2], title, notes, heading, entries)


def looks_of_pairs(own: Divergence) -> Pairs:
    """The pairs of each look: each pair its own, or those of equally distant positions."""
    if len(own.pairs) <= len(PALETTE):
        names = [plain(name) for name in names_of_paths(own.curves.paths)]
        labels = [f"{names[one]} and {names[other]}" for one, other in own.pairs]
    else:
        places = [position for _, position in own.curves.paths]
        apart = [abs(places[one] - places[other]) for one, other in own.pairs]
        labels = [f"{a} places apart" if a != 1 else "1 place apart" for a in apart]
        labels = ["same place" if a == 0 else label for a, label in zip(apart, labels, strict=True)]
    distinct = sorted(set(labels), key=labels.index)
    if len(own.pairs) > len(PALETTE):
        distinct.sort(key=lambda label: (label != "same place", label))
    looks = [
        Look(color, marker, label, "")
        for (color, marker), label in zip(colors(len(distinct)), distinct, strict=True)
    ]
    return {
        look: [place for place, label in enumerate(labels) if label == look.label] for look in looks
    }


def parts_of_pairs(own: Divergence, looks: Pairs) -> list[Part]:
    """The curves of a panel, the fit and its range, and the distance between seeds."""
    steps, parts = own.curves.steps, list[Part]()
    for look, places in looks.items():
        bands = [log_band_of(steps, own.paths[place]) for place in places]
        if len(places) > 1:
            if len(own.pairs) <= LINES:
                parts += [Thin(b.x, b.mean, {"color": look.color, "alpha": 0.4}) for b in bands]
            every = own.paths[places].reshape(-1, len(steps))
            bands = [without_ends(log_band_of(steps, every))]
        parts += [Curve(band, look, 0.1) for band in bands if band.seeds]
    if own.seed_pairs:
        band = log_band_of(steps, own.seeds.reshape(-1, len(steps)))
        parts += [Thin(band.x, band.mean, SEEDS)] if band.seeds else []
    return [*parts, *_growth(own)]


def without_ends(band: Band) -> Band:
    """The band of values that are not independent, which has no interval."""
    nothing = np.full(len(band.x), np.nan)
    return Band(band.x, band.mean, nothing, nothing, band.seeds)


def _growth(own: Divergence) -> list[Part]:
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
    return [
        Zone(first, last, True, RANGE),
        Thin(x, np.exp(level + rate.mean * x), FIT),
    ]


def growth_in_words(own: Divergence) -> str:
    """The mean rate and what it comes to; "" without a fit."""
    rate = own.rate
    if not own.fits:
        return ""
    how = f"(rate {with_half(rate)})"
    if math.isnan(own.doubling):
        return f"no sure growth {how}"
    steps = short_number(abs(own.doubling), 2)
    return f"{'doubles' if own.doubling > 0 else 'halves'} in {steps} steps {how}"
