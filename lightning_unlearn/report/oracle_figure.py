"""How close each path comes to its oracle, and when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.analysis.oracle_distance import (
    OracleDistances,
    OraclePairs,
    between_oracles,
    oracle_distances,
)
from lightning_unlearn.report.arrangement import arrange
from lightning_unlearn.report.curve_figures import forgotten, parts_of, seeds_note, tidy
from lightning_unlearn.report.drawn import Curve, Level, Part, Spots, Zone
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import Looks, folded, looks_of_paths
from lightning_unlearn.report.panels import Panel
from lightning_unlearn.report.reading import StudyRecords

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURE = "distance/forget"
RING = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 1.6}
FLOOR = {"color": "#888888", "linewidth": 1.2, "linestyle": (0, (1, 1.5)), "zorder": 1.8}
STRIP = {"color": "#888888", "linewidth": 8, "alpha": 0.25, "solid_capstyle": "butt"}


def oracle_figure(study: StudyRecords, examples: StudyRecords | None = None) -> Figure | None:
    """The RE distance to the oracle on the forget set by step, on a logarithmic axis.

    Args:
        study: the records.
        examples: of the forget probe; oracles of different seeds are compared in them.
    """
    data = study.runs[study.runs["metric"] == MEASURE]
    found = {
        (o.distance.method, study.settings.index(o.distance.setting)): o
        for o in oracle_distances(study, "forget")
    }
    if not found:
        return None
    floors = between_oracles(examples, "forget") if examples is not None else {}
    looks = looks_of_paths(study.runs)
    positive = all(
        (o.distance.means[np.isfinite(o.distance.means)] > 0).all() for o in found.values()
    )
    rows = [
        [
            Panel(
                _parts(found[cell], looks, floors),
                folded(cell[0], 30),
                study.name(cell[1]),
                "RE distance to the oracle\n(nats per token)$^2$",
                MEASURE,
                log=positive,
            )
            if cell in found
            else None
            for cell in row
        ]
        for row in arrange(data, study)
    ]
    panels = [panel for row in rows for panel in row if panel]
    drawn = [o.distance for o in found.values()]
    entries: list[Entry] = [
        (look.line(1), look.label) for look in looks.present(p for c in drawn for p in c.paths)
    ]
    if not looks.grouped:
        ring = {"linestyle": "none", "color": "#444444", **RING, "markersize": 9}
        entries.append((ring, "the path's best step"))
    if any(isinstance(part, Zone) for panel in panels for part in panel.parts):
        entries.append((STRIP, "two oracles of different seeds (mean, lowest to highest)"))
    title = f"Unlearning {forgotten(data)}: distance to the model that never saw it"
    notes = ["lower = closer to retraining", *seeds_note(drawn, looks)]
    parts = [part for panel in panels for part in panel.parts if isinstance(part, Curve)]
    if positive and any((part.band.low <= 0).any() for part in parts):
        notes[-1] += ", to the bottom where it reaches below 0"
    grid = tidy(rows)
    return compose(grid, (3.0, 2.3)[len(grid) > 2], title, notes, looks.heading, entries)


def _parts(own: OracleDistances, looks: Looks, floors: OraclePairs) -> list[Part]:
    parts = parts_of(own.distance, looks, 0.1)
    if not looks.grouped:
        for path, step in zip(own.paths, own.steps, strict=True):
            look = looks.of(path)
            (curve,) = (p for p in parts if isinstance(p, Curve) and p.look is look)
            at = curve.band.x == step
            style = {**RING, "markeredgecolor": look.color, "zorder": 3}
            parts.append(Spots(curve.band.x[at], curve.band.mean[at], style))
    return [*_floor(own, floors), *parts]


def _floor(own: OracleDistances, floors: OraclePairs) -> Sequence[Part]:
    """How far oracles of different seeds are from each other, all paths together."""
    pairs = [floors.get((own.distance.setting, path), []) for path in own.paths]
    # Paths whose other stages have the same order share their oracles.
    every = list(itertools.chain(*{tuple(found): found for found in pairs}.values()))
    if not every:
        return []
    return [Zone(min(every), max(every)), Level(sum(every) / len(every), FLOOR)]
