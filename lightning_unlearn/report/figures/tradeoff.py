"""Utility against forget score over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.curves import band_of, paths_of
from lightning_unlearn.analysis.reading import Condition, PathPosition, StudyRecords
from lightning_unlearn.analysis.tradeoff import tradeoffs
from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.labels import forgotten, full_name, grid_of
from lightning_unlearn.report.figures.style import StyleMap
from lightning_unlearn.report.formatting import span

if TYPE_CHECKING:
    import pandas as pd


def tradeoff_figure(study: StudyRecords, styles: StyleMap) -> spec.Figure | None:
    """Utility against forget score, a curve over the steps for each path."""
    data = tradeoffs(study)
    data = data[data.groupby(["method", "setting"])["step"].transform("nunique") > 1]
    if data.empty:
        return None
    trials = dict(study.by_condition(data))

    def panel(of: Condition) -> spec.Panel:
        marks = [spec.level(1.0, "kept", "utility 1: unchanged")]
        for (path, position), own in trials[of].groupby(["path", "position"], sort=False):
            marks += _trail(own, styles, (str(path), int(position)))
        ylabel = "utility\n(mean over the other stages)"
        xlabel = f"forget score of {study.label_words}\n(nats per token)"
        return spec.Panel(marks, of.method, of.words, ylabel, "tradeoff", xlabel)

    entries = [spec.Entry("trail", o.label, o) for o in styles.present(paths_of(data))]
    seeds = span(data.groupby(["method", "setting", "path"])["seed"].nunique().tolist())
    notes = [
        "right = more forgotten, up = more kept",
        "a dot per measured step, from (0,\u00a01) on",
    ]
    if seeds != "1" and not styles.grouped:
        notes.append(f"means of {seeds} seeds; bars: 95 % intervals at the last step")
    title = f"Unlearning {forgotten(study.runs)}: what forgetting costs the other stages"
    grid = grid_of(data, study, panel)
    return spec.Figure(title, notes, grid, spec.Legend(styles.heading, entries))


def _trail(own: pd.DataFrame, styles: StyleMap, path: PathPosition) -> list[spec.Mark]:
    """The curve of a path, its last point and the interval of that."""
    style, name = styles.of(path), full_name(path)
    wide = own.pivot(index="seed", columns="step")
    steps = wide["score"].columns
    score, utility = (band_of(steps, wide[name]) for name in ("score", "utility"))
    x, y = score.mean, utility.mean
    trail, end = ("thin trail", "small end") if styles.grouped else ("trail", "end")
    halves = float(x[-1] - score.low[-1]), float(y[-1] - utility.low[-1])
    error = halves if not styles.grouped and np.isfinite(halves).all() else None
    last = spec.Mark(x[-1:], y[-1:], end, name, style, error=error)
    return [spec.Mark(x, y, trail, name, style, at=score.x), last]
