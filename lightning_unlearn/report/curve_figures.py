"""Curves of a study: how the paths part while the forget stage is unlearned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.report.arrangement import (
    Trial,
    arrange,
    cells_of,
    means_of_looks,
    oracles_of,
    same_for_all,
)
from lightning_unlearn.report.curves import Band, Curves, band_of
from lightning_unlearn.report.drawn import GREY, Curve, Level, Part, Thin
from lightning_unlearn.report.formatting import span
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import (
    Looks,
    folded,
    looks_of_paths,
    looks_of_stages,
    plain,
)
from lightning_unlearn.report.panels import Grid, Panel, wrapped
from lightning_unlearn.report.reading import PathPosition, StudyRecords
from lightning_unlearn.settings.labels import run_name
from lightning_unlearn.statistics import mean_over_seeds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ORACLE = "retrained without the forget stage"
BAND = "line: mean of {count} seeds; band: 95 % interval (Student's t)"
DASHED = {"linewidth": 1.4, "linestyle": (0, (4, 2.5)), "zorder": 1.9}


class Drawing:
    """Panels of one figure, whose oracles are drawn alike."""

    def __init__(self, study: StudyRecords, looks: Looks) -> None:
        self.study, self.looks = study, looks
        self.measures: dict[str, dict[Trial, Curves]] = {}
        self.oracles: dict[tuple[str, Trial], dict[PathPosition, float]] = {}

    def curves(self, measure: str, cell: Trial) -> Curves | None:
        """The curves of a panel; None where nothing was measured."""
        if measure not in self.measures:
            self.measures[measure] = cells_of(self.study, measure)
        curves = self.measures[measure].get(cell)
        if curves is not None and (measure, cell) not in self.oracles:
            self.oracles[measure, cell] = oracles_of(self.study, measure, curves)
        return curves

    def panel(self, cell: Trial | None, measure: str, ylabel: str) -> Panel | None:
        """The panel of a method, setting and measure, still without oracles."""
        curves = cell and self.curves(measure, cell)
        if not cell or not curves:
            return None
        title, name = folded(cell[0], 30), self.study.name(cell[1])
        return Panel(parts_of(curves, self.looks), title, name, ylabel, (measure, cell))

    def finished(
        self,
        grid: Sequence[Sequence[Panel | None]],
        height: float,
        title: str,
        notes: Sequence[str],
    ) -> Figure:
        """The figure of panels whose `share` is their measure and cell."""
        shown = {panel.share for row in grid for panel in row if panel}
        drawn = {key: curves for key, curves in self._drawn().items() if key in shown}
        pairs = [(curves, self.oracles[key]) for key, curves in drawn.items()]
        one = same_for_all(pairs, self.looks)
        done = [[panel and self._with_oracles(panel, one) for panel in row] for row in grid]
        paths = [path for curves in drawn.values() for path in curves.paths]
        entries: list[Entry] = [(o.line(1), o.label) for o in self.looks.present(paths)]
        if any(oracles for _, oracles in pairs):
            mean = ", mean over paths" if self.looks.grouped else ""
            whose = "" if one else f", in the {self.looks.what}'s color"
            entries.append(({"color": GREY, **DASHED}, f"{ORACLE}{mean}{whose}"))
        said = [*notes, *seeds_note(list(drawn.values()), self.looks)]
        return compose(done, height, title, said, self.looks.heading, entries)

    def _drawn(self) -> dict[tuple[str, Trial], Curves]:
        return {
            (measure, cell): curves
            for measure, cells in self.measures.items()
            for cell, curves in cells.items()
        }

    def _with_oracles(self, panel: Panel, one: bool) -> Panel:
        key: Any = panel.share
        means = means_of_looks(self.oracles[key], self.looks)
        levels: list[Part] = [
            Level(value, {**DASHED, "color": GREY if one else self.looks.look[look].color})
            for look, value in means.items()
        ]
        return replace(panel, parts=[*panel.parts, *levels[: 1 if one else None]], share=key[0])


def parts_of(curves: Curves, looks: Looks, shade: float = 0.18) -> list[Part]:
    """A curve with its band for each path; or thin ones, and a thick one for each position.

    Args:
        curves: of one method and setting.
        looks: of the paths.
        shade: how opaque the bands are.
    """
    if not looks.grouped:
        pairs = zip(curves.paths, curves.means, strict=True)
        return [
            Curve(band, looks.of(path), shade)
            for path, values in pairs
            if (band := band_of(curves.steps, values)).seeds
        ]
    parts: list[Part] = []
    means = mean_over_seeds(curves.means)
    x = np.asarray(curves.steps, np.float64)
    keys = [looks.key(path) for path in curves.paths]
    for key, look in looks.look.items():
        own = means[[other == key for other in keys]]
        for values in own:
            known = np.isfinite(values)
            parts.append(Thin(x[known], values[known], {"color": look.color}))
        if len(own):
            band = band_of(curves.steps, own)
            if band.seeds:
                nothing = np.full(len(band.x), np.nan)
                parts.append(Curve(Band(band.x, band.mean, nothing, nothing, 1), look))
    return parts


def forget_figure(study: StudyRecords) -> Figure | None:
    """The log-likelihood of the unlearn label."""
    data = study.runs[study.runs["metric"] == "forget/label"]
    if data.empty:
        return None
    drawing = Drawing(study, looks_of_paths(study.runs))
    ylabel = "label log-likelihood\n(nats per token)"
    rows = [
        [drawing.panel(cell, "forget/label", ylabel) for cell in row]
        for row in arrange(data, study)
    ]
    grid = tidy(rows)
    title = f"Unlearning {forgotten(data)}: log-likelihood of the unlearn label"
    return drawing.finished(grid, (3.0, 2.3)[len(grid) > 2], title, ["lower = more forgotten"])


def tidy(rows: Sequence[Sequence[Panel | None]]) -> Grid:
    """The same panels, wrapped where they are a single row or column, which is hard to read."""
    if 1 not in (len(rows), len(rows[0])):
        return rows
    panels = [panel for row in rows for panel in row if panel]
    count = len(panels)
    return wrapped(panels, 2 if count == 4 else 4 if count > 6 and count % 3 else 3)


def utility_figure(study: StudyRecords) -> Figure | None:
    """The log-likelihood of the answers of the stages that are not forgotten."""
    answers = answers_of(study)
    data = answers[answers["stage"] != answers["forget"]]
    if data.empty:
        return None
    drawing = Drawing(replace(study, runs=data), looks_of_paths(study.runs))
    cells = arrange(data, study)
    stages = list(data["stage"].unique())
    grid: list[list[Panel | None]] = []
    if len(cells) == 1:
        for stage in stages:
            ylabel = f"{folded(stage, 18)} answers\n(nats per token)"
            grid.append([drawing.panel(cell, f"answers/{stage}", ylabel) for cell in cells[0]])
        grid = titled_once(grid)
    else:
        for row in cells:
            grid.append([])
            for stage in stages:
                for cell in row:
                    made = drawing.panel(cell, f"answers/{stage}", "nats per token")
                    if made:
                        made = replace(made, title=f"{made.title}: {folded(stage, 18)} answers")
                    grid[-1].append(made)
    title = f"Unlearning {forgotten(data)}: the other stages' log-likelihood"
    height = 2.1 if len(cells) == 1 or len(grid) < 3 else 1.9
    return drawing.finished(grid, height, title, ["flat = kept"])


def answers_figure(study: StudyRecords) -> Figure | None:
    """The answers of all stages together, where those of the forget stage were measured."""
    data = answers_of(study)
    if not (data["stage"] == data["forget"]).any():
        return None
    stages = list(data["stage"].unique())
    looks = looks_of_stages(stages, list(data["forget"].unique()))
    every = {stage: cells_of(study, f"answers/{stage}") for stage in stages}
    methods = zip(*arrange(data, study), strict=True)
    runs = [cell for settings in methods for cell in settings if cell]
    pairs = data[["path", "position"]].drop_duplicates().sort_values("position", kind="stable")
    places = [(str(path), int(p)) for path, p in pairs.itertuples(index=False)]
    columns = 6 if len(runs) > 1 or len(places) > 9 else 2 if len(places) == 4 else 3
    grid: list[Sequence[Panel | None]] = []
    for cell in runs:
        name = run_name(cell[0], study.name(cell[1])) if len(runs) > 1 else ""
        own = {stage: cells[cell] for stage, cells in every.items() if cell in cells}
        grid += wrapped(
            [_answers_panel(own, place, name, looks, study) for place in places], columns
        )
    drawn = [curves for cells in every.values() for curves in cells.values()]
    entries: list[Entry] = [(look.line(1), look.label) for look in looks.look.values()]
    if any(isinstance(p, Level) for row in grid for panel in row if panel for p in panel.parts):
        entries.append(({"color": GREY, **DASHED}, f"{ORACLE}, in the stage's color"))
    title = f"Unlearning {forgotten(data)}: log-likelihood of every stage's answers"
    notes = ["superficial = only the forgotten stage falls", *seeds_note(drawn, looks)]
    return compose(grid, (2.8, 2.1)[len(grid) > 2], title, notes, looks.heading, entries)


def _answers_panel(
    own: Mapping[str, Curves], place: PathPosition, name: str, looks: Looks, study: StudyRecords
) -> Panel | None:
    parts: list[Part] = []
    for stage, curves in own.items():
        if place not in curves.paths:
            continue
        look = looks.look[stage,]
        band = band_of(curves.steps, curves.means[curves.paths.index(place)])
        parts += [Curve(band, look)] if band.seeds else []
        value = oracles_of(study, f"answers/{stage}", curves).get(place)
        parts += [Level(value, {**DASHED, "color": look.color})] if value is not None else []
    title = folded(f"p = {place[1]}: {place[0]}", 28)
    ylabel = "log-likelihood of answers\n(nats per token)"
    return Panel(parts, title, name, ylabel) if parts else None


def answers_of(study: StudyRecords) -> pd.DataFrame:
    """The rows on answers, their stage in the column `stage`."""
    answers = study.runs[study.runs["metric"].str.startswith("answers/")]
    return answers.assign(stage=answers["metric"].str.removeprefix("answers/"))


def titled_once(grid: Sequence[Sequence[Panel | None]]) -> list[list[Panel | None]]:
    """The panels without title and setting but for the topmost of each column."""
    titled: set[int] = set()
    kept = []
    for row in grid:
        kept.append(
            [
                p and replace(p, title="", setting="") if c in titled else p
                for c, p in enumerate(row)
            ]
        )
        titled |= {column for column, panel in enumerate(row) if panel}
    return kept


def seeds_note(drawn: Sequence[Curves], looks: Looks) -> list[str]:
    """What was averaged, in words."""
    each = [np.isfinite(c.means).any(axis=2).sum(axis=1) for c in drawn]
    counts = [int(count) for found in each for count in found if count]
    count, several = span(counts), max(counts) > 1
    if looks.grouped:
        over = f", mean over {count} seeds" if several else ""
        return [f"thin: one path{over}; thick: mean of the position"]
    return [BAND.format(count=count)] if several else []


def forgotten(data: pd.DataFrame) -> str:
    """The name of the forget stage, or of all of them, for a title."""
    names = [plain(stage) for stage in data["forget"].unique()]
    return names[0] if len(names) == 1 else f"the forget stage ({', '.join(names)})"
