"""The distance of each path to its oracle, and the step at which it is least."""

from __future__ import annotations

import numpy as np

from lightning_unlearn.analysis.oracle_distance import (
    OracleDistances,
    OraclePairs,
    between_oracles,
    distinct_pairs,
    oracle_distances,
)
from lightning_unlearn.analysis.reading import Condition, StudyRecords
from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.curves import path_entries, path_marks, seeds_note
from lightning_unlearn.report.figures.labels import forgotten, grid_of
from lightning_unlearn.report.figures.style import StyleMap, plain

FLOOR = "two oracles of different seeds"


def oracle_figure(
    study: StudyRecords,
    styles: StyleMap,
    examples: StudyRecords | None = None,
    group: str = "forget",
) -> spec.Figure | None:
    """The RE distance to the oracle by step, on a logarithmic axis where all values are positive.

    Oracles of different seeds are compared in the examples, which are those of the forget set.
    `group` names the rows whose distance is shown.
    """
    data = study.runs[study.runs["metric"] == f"distance/{group}"]
    found = {own.distance.condition: own for own in oracle_distances(study, group)}
    if not found:
        return None
    floors = between_oracles(examples, group) if examples is not None else {}
    drawn = [own.distance for own in found.values()]
    positive = all((curves.means[np.isfinite(curves.means)] > 0).all() for curves in drawn)

    def panel(of: Condition) -> spec.Panel | None:
        if of not in found:
            return None
        marks = [*_floor(found[of], floors), *_curves(found[of], styles)]
        unit = "RE distance to the oracle\n(nats per token)²"
        return spec.Panel(marks, of.method, of.words, unit, f"distance/{group}", log=positive)

    grid = grid_of(data, study, panel)
    marks = [mark for row in grid for own in row if own for mark in own.marks]
    entries = path_entries(drawn, styles)
    if not styles.grouped:
        entries.append(spec.Entry("best", plain("the path's best step")))
    if any(mark.role == "strip" for mark in marks):
        entries.append(spec.Entry("strip", plain(f"{FLOOR} (mean, lowest to highest)")))
    title = f"Unlearning {forgotten(data)}: distance to the model that never saw it"
    notes = ["lower = closer to retraining", *seeds_note(drawn, styles)]
    if positive and any((mark.low <= 0).any() for mark in marks):
        notes[-1] += ", to the bottom where it reaches below 0"
    return spec.Figure(title, notes, grid, spec.Legend(styles.heading, entries))


def _curves(own: OracleDistances, styles: StyleMap) -> list[spec.Mark]:
    """The curves of a panel, and the best step of each path."""
    marks = path_marks(own.distance, styles, 0.1)
    if not styles.grouped:
        for path, step in zip(own.paths, own.steps, strict=True):
            style = styles.of(path)
            for curve in [mark for mark in marks if mark.role == "line" and mark.style == style]:
                x, y, at = curve.x, curve.y, curve.x == step
                marks.append(spec.Mark(x[at], y[at], "best", f"best step of {style.short}", style))
    return marks


def _floor(own: OracleDistances, floors: OraclePairs) -> list[spec.Mark]:
    """The distances between oracles of different seeds, all paths together."""
    keys = [(own.distance.setting, path) for path in own.paths]
    every = distinct_pairs({key: floors[key] for key in keys if key in floors})
    if not every:
        return []
    ends = np.array([min(every), max(every)])
    mean = spec.level(sum(every) / len(every), "floor", FLOOR)
    return [spec.Mark(spec.NOTHING, ends, "strip", FLOOR), mean]
