"""Curves of a study: how the paths part while the forget stage is unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.errors import InputError
from lightning_unlearn.report.arrangement import arrange, oracles_of, same_for_all
from lightning_unlearn.report.frame import frame
from lightning_unlearn.report.looks import (
    Looks,
    drawing_style,
    folded,
    looks_of_paths,
    looks_of_stages,
    plain,
)
from lightning_unlearn.report.naming import run_name, span
from lightning_unlearn.report.panels import Grid, Panel, draw, oracle_line, wrapped
from lightning_unlearn.report.reading import StudyRecords, read_records

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ORACLE = "retrained without the forget stage"


def save_figures(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw `forget.png`, `utility.png` and `answers.png` into `folder`, made where it is missing.

    All show values in nats per token against the unlearning step, a panel per method and setting:

    - `forget.png`: the log-likelihood of the unlearn label ("forget/label").
    - `utility.png`: that of the other stages' answers ("answers/<stage>"): a row per stage and a
      column per method; where there are settings, a row per setting and columns for every stage. A
      run is left out of the panels of its own forget stage.
    - `answers.png`, where answers of the forget stage were measured but not its label: the answers
      of all stages together, a panel per path, with a row per method and setting.

    How they are drawn:

    - Up to seven paths: one colour and marker per path; several seeds are drawn as their mean
      with a band from the lowest to the highest. More paths: one colour per position, a thin line
      for each path's mean over seeds and a thick one for the mean over the position's paths.
    - Oracles are dashed: one grey line where all paths have the same value, else one in the colour
      of the path or position, at the mean over seeds.
    - Panels that show the same measure share the y axis unless the values of one panel span less
      than a fifth of those of another. Then those of a row share it, if they can by the same rule,
      or each has its own, at least 0.05 nats high so that noise is not blown up; and the figure
      says so.

    The same records give the same bytes with the same version of matplotlib.

    Args:
        records: as for `lightning_unlearn.report.scores`; a table without rows needs no columns.
        folder: where the figures go; files of the same name are replaced.

    Returns:
        The files written. A figure without a finite value to show is not written.

    Raises:
        InputError: matplotlib is not installed, the folder cannot be made, or the records are
            wrong as described for `lightning_unlearn.report.scores`.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "figures: found no matplotlib, expected it for drawing; install it with "
            'pip install "lightning-unlearn[figures]"'
        ) from error

    if not len(records):
        return []
    study = read_records(records)
    study = replace(study, runs=study.runs[study.runs["value"].abs() < float("inf")])
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"figures: found {folder} not usable as a folder ({error.strerror}), expected a folder "
            f"that can be written to; choose another one"
        ) from error

    measures = study.runs["measure"]
    answers = study.runs[measures.str.startswith("answers/")]
    answers = answers.assign(stage=answers["measure"].str.removeprefix("answers/"))
    label = study.runs[measures == "forget/label"]
    own = answers["stage"] == answers["forget"]
    written = []
    with drawing_style():
        for name, make, part in (
            ("forget.png", _forget_figure, label),
            ("utility.png", _utility_figure, answers[~own]),
            ("answers.png", _answers_figure, answers if own.any() and label.empty else label[:0]),
        ):
            if len(part):
                figure = make(part, study)
                figure.savefig(folder / name, metadata={"Software": None})
                written.append(folder / name)
    return written


def _forget_figure(data: pd.DataFrame, study: StudyRecords) -> Figure:
    looks, cells = looks_of_paths(study.runs), arrange(data, study)
    ylabel = "label log-likelihood\n(nats per token)"
    rows = [
        [cell and _panel(data, cell, "forget/label", looks, study, ylabel) for cell in row]
        for row in cells
    ]
    panels = [panel for row in rows for panel in row if panel]
    count = len(panels)
    # A single row or column of many panels is hard to read.
    columns = 2 if count == 4 else 4 if count > 6 and count % 3 else 3
    grid: Grid = wrapped(panels, columns) if 1 in (len(rows), len(rows[0])) else rows
    title = f"Unlearning {_forgotten(data)}: log-likelihood of the unlearn label"
    return _finished(grid, looks, data, title, "lower = more forgotten", (3.0, 2.3))


def _utility_figure(data: pd.DataFrame, study: StudyRecords) -> Figure:
    looks, cells = looks_of_paths(study.runs), arrange(data, study)
    stages = list(data["stage"].unique())

    def panel(cell: tuple[str, int] | None, stage: str, ylabel: str) -> Panel | None:
        return cell and _panel(data, cell, f"answers/{stage}", looks, study, ylabel)

    grid: list[list[Panel | None]] = []
    if len(cells) == 1:
        for stage in stages:
            ylabel = f"{folded(stage, 18)} answers\n(nats per token)"
            grid.append([panel(cell, stage, ylabel) for cell in cells[0]])
        grid = _titled_once(grid)
    else:
        for row in cells:
            grid.append([])
            for stage in stages:
                for cell in row:
                    made = panel(cell, stage, "nats per token")
                    if made:
                        made = replace(made, title=f"{made.title}: {folded(stage, 18)} answers")
                    grid[-1].append(made)
    title = f"Unlearning {_forgotten(data)}: the other stages' log-likelihood"
    return _finished(
        grid, looks, data, title, "flat = kept", (2.1, 2.1 if len(cells) == 1 else 1.9)
    )


def _answers_figure(data: pd.DataFrame, study: StudyRecords) -> Figure:
    looks = looks_of_stages(list(data["stage"].unique()), list(data["forget"].unique()))
    methods = zip(*arrange(data, study), strict=True)
    runs = [cell for settings in methods for cell in settings if cell]
    pairs = data[["position", "path"]].drop_duplicates().sort_values("position", kind="stable")
    ylabel = "log-likelihood of answers\n(nats per token)"
    columns = 6 if len(runs) > 1 or len(pairs) > 9 else 2 if len(pairs) == 4 else 3
    grid: list[Sequence[Panel | None]] = []
    for method, setting in runs:
        mine = data[(data["method"] == method) & (data["setting"] == setting)]
        name = run_name(method, study.name(setting)) if len(runs) > 1 else ""
        panels = []
        for position, path in pairs.itertuples(index=False):
            rows = mine[(mine["path"] == path) & (mine["position"] == position)]
            title = folded(f"p = {position}: {path}", 28)
            found = oracles_of(rows, study, looks)
            made = Panel(rows, title, name, ylabel, oracles=found)
            panels.append(made if len(rows) else None)
        grid += wrapped(panels, columns)
    title = f"Unlearning {_forgotten(data)}: log-likelihood of every stage's answers"
    note = "superficial = only the forgotten stage falls"
    return _finished(grid, looks, data, title, note, (2.8, 2.1))


def _panel(
    data: pd.DataFrame,
    cell: tuple[str, int],
    measure: str,
    looks: Looks,
    study: StudyRecords,
    ylabel: str,
) -> Panel | None:
    """The panel of a method, setting and measure; None where nothing was measured."""
    method, setting = cell
    of_cell = (data["method"] == method) & (data["setting"] == setting)
    rows = data[of_cell & (data["measure"] == measure)]
    if rows.empty:
        return None
    title, name = folded(method, 30), study.name(setting)
    return Panel(rows, title, name, ylabel, measure, oracles_of(rows, study, looks))


def _titled_once(grid: list[list[Panel | None]]) -> list[list[Panel | None]]:
    """The panels without title and setting but for the topmost of each column."""
    titled = set()
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


def _finished(
    grid: Grid,
    looks: Looks,
    data: pd.DataFrame,
    title: str,
    note: str,
    heights: tuple[float, float],
) -> Figure:
    """The figure of a grid; `heights` of its panels in inches: of up to two rows, of more."""
    panels = [panel for row in grid for panel in row if panel]
    one = same_for_all(panels, looks)
    figure, differ = draw(grid, looks, heights[len(grid) > 2], one)
    notes = [note, *_notes(data, looks), *(["y axes differ between panels"] if differ else [])]
    entries = [(look.line(1), look.label) for look in looks.present(data)]
    if any(panel.oracles for panel in panels):
        mean = ", mean over paths" if looks.by != looks.groups else ""
        whose = "" if one else f", in the {looks.what}'s colour"
        entries.append((oracle_line(), f"{ORACLE}{mean}{whose}"))
    frame(figure, title, notes, looks.heading, entries)
    return figure


def _notes(data: pd.DataFrame, looks: Looks) -> list[str]:
    """What was averaged, in words."""
    seeds = data.groupby(["method", "setting", "path", "position"])["seed"].nunique()
    count = span(seeds.tolist())
    if looks.grouped:
        over = f", mean over {count} seeds" if seeds.max() > 1 else ""
        return [f"thin: one path{over}; thick: mean of the position"]
    return [f"line: mean of {count} seeds; band: lowest to highest"] if seeds.max() > 1 else []


def _forgotten(data: pd.DataFrame) -> str:
    names = [plain(stage) for stage in data["forget"].unique()]
    return names[0] if len(names) == 1 else f"the forget stage ({', '.join(names)})"
