"""The figures and the table of the paper, drawn from a study of one's own.

Source: Yu, He, Goyal and Arora, arXiv 2510.16629, whose captions and panels these follow. Columns
of several base models there need the sweep key `model.base` here, and are one column without it.
There are no titles, for a caption follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.report.arrangement import cells_of
from lightning_unlearn.report.curve_figures import titled_once
from lightning_unlearn.report.curves import band_of
from lightning_unlearn.report.drawn import Curve, Part
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import (
    PALETTE,
    Look,
    drawing_style,
    plain,
)
from lightning_unlearn.report.makers import finite
from lightning_unlearn.report.panels import Panel
from lightning_unlearn.report.paper_cells import LABEL, Cells, Lacking
from lightning_unlearn.report.paper_table import table_one
from lightning_unlearn.report.reading import read_records
from lightning_unlearn.report.saving import (
    check_formats,
    make_folder,
    need_matplotlib,
    write_figure,
)
from lightning_unlearn.settings.labels import short_value
from lightning_unlearn.storage.records import write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABEL_TITLE = "unlearn label"
UNIT = "log-likelihood\n(nats per token)"
# The orders of Figure 4, as the paper numbers them.
ORDERS = ("R-C-U", "C-R-U", "U-C-R", "U-R-C", "R-U-C", "C-U-R")
THREE = {
    ("U",): Look(PALETTE[3], "o", r"$\mathbf{U}$: compliant, unlearned", "U"),
    ("C",): Look(PALETTE[0], "s", r"$\mathbf{C}$: compliant, another phrasing", "C"),
    ("R",): Look(PALETTE[1], "^", r"$\mathbf{R}$: refusal", "R"),
}


@dataclass(frozen=True)
class Paper:
    """What was written of the paper's figures and what was not.

    Attributes:
        written: the files.
        missing: a sentence for each figure left out, by its name.
    """

    written: list[Path] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def paper_figures(
    records: pd.DataFrame, examples: pd.DataFrame | None = None
) -> dict[str, Callable[[], Figure]]:
    """Functions that draw those of the paper's figures the study has the cells for, by name.

    - "figure-1": forget label by step, one method (NPO where it was run), a panel per base model.
    - "figure-3": label, and answers of TOFU, side by side for each base model; a row per method
      (NPO and SimNPO where they were run; in the paper GA is in the table alone).
    - "figure-4": answers of U, C and R, a panel per order of these three stages.
    - "figure-5": label above, TOFU below, a column per method: means over seeds, 95 % bands.
    - "figure-6": label under NPO, a row per learning rate and a column per base model.
    - "figure-7": label and TOFU at the highest learning rate, under NPO.
    - "figure-8": label, a row per method and a column per schedule.

    TOFU is the stage named tofu, or the first that is not forgotten. A figure of one setting takes
    the upper median learning rate and the first of the rest, and says so. The paper's Figure 2 is a
    drawing of the set-up.

    Args:
        records: as for `scores`.
        examples: not needed so far; taken so that all figures of a study are called alike.

    Returns:
        To be called within `lightning_unlearn.report.looks.drawing_style()`.

    Raises:
        InputError: as for `scores`.
    """
    found, _ = _plan(records)
    return found


def save_paper(
    records: pd.DataFrame,
    examples: pd.DataFrame | None,
    folder: str | Path,
    formats: Sequence[str] = ("pdf",),
) -> Paper:
    """Write the paper's figures, and its Table 1 as table-1.md and table-1.tex, into a folder.

    Args:
        records: as for `paper_figures`.
        examples: the same.
        folder: made where it is missing; files of the same name are replaced.
        formats: "png", "pdf" (vectors) or both; the files are figure-1.pdf and so on.

    Raises:
        InputError: matplotlib is not installed, the folder cannot be made, a format is unknown, or
            the records are wrong.
    """
    need_matplotlib()
    check_formats(tuple(formats))
    figures, missing = _plan(records)
    folder = make_folder(folder)
    written = []
    with drawing_style():
        for name, make in figures.items():
            written += write_figure(make(), folder, name, tuple(formats))
    table = table_one(records) if len(records) else None
    if table is None:
        missing["table-1"] = "table-1 is left out: the study has no forget score."
    else:
        for suffix, text in (("md", table.markdown()), ("tex", table.latex())):
            path = folder / f"table-1.{suffix}"
            write_text(path, text)
            written.append(path)
    return Paper(written, missing)


def _plan(records: pd.DataFrame) -> tuple[dict[str, Callable[[], Figure]], dict[str, str]]:
    """What can be drawn, and why the rest cannot."""
    if not len(records):
        return {}, {name: f"{name} is left out: nothing was measured." for name in MAKERS}
    study = finite(read_records(records))
    found: dict[str, Callable[[], Figure]] = {}
    missing = {}
    for name, prepare in MAKERS.items():
        try:
            found[name] = prepare(Cells(study))
        except Lacking as lacking:
            missing[name] = f"{name} is left out: the study has {lacking}."
    return found, missing


Maker = Callable[[Cells], "Callable[[], Figure]"]


def figure_one(cells: Cells) -> Callable[[], Figure]:
    """Figure 1: the label by step for one method; a panel per base model.

    The paper does not say of which method its four panels (Llama 1B and 13B, Qwen 1B and 14B) are.
    """
    label, method = cells.label(), cells.local()
    chosen = cells.choose(label, method)
    if not chosen:
        raise Lacking(f"no {LABEL} under {method}")
    row = [
        cells.panel(
            label[c], cells.model_name(c) or method, cells.words(c), f"label {UNIT}", "label"
        )
        for c in chosen
    ]
    return lambda: cells.figure([row], label, 2.6)


def figure_three(cells: Cells) -> Callable[[], Figure]:
    """Figure 3: label and TOFU answers, for each base model; a row per method.

    Its y axes are each their own, as in the paper.
    """
    label = cells.label()
    stage, kept = cells.retained()
    methods = [name for name in cells.methods if name != "GA"] or cells.methods
    grid = []
    for method in methods:
        row: list[Panel | None] = []
        for cell in cells.choose(label, method):
            own = cells.model_name(cell)
            for name, curves in ((LABEL_TITLE, label.get(cell)), (stage, kept.get(cell))):
                title = f"{own}: {name}" if own else name
                first = f"{plain(method)}\n(nats per token)" if not row else ""
                row.append(
                    cells.panel(curves, title, cells.words(cell), first, (method, cell, name))
                )
        grid.append(row)
    return lambda: cells.figure(titled_once(grid), label, 2.1)


def figure_four(cells: Cells) -> Callable[[], Figure]:
    """Figure 4: the answers of U, C and R while U is unlearned; a panel per order.

    In nats per token; the paper sums over tokens.
    """
    study = cells.study
    three = {name[0]: cells_of(study, f"answers/{name[0]}") for name in THREE}
    for stage, own in three.items():
        if not own:
            raise Lacking(f"no answers/{stage}; its paths are orders of the stages R, C and U")
    method = cells.methods[0]
    cell = next(iter(cells.choose(three["U"], method)), None)
    paths = {path for curves in three["U"].values() for path, _ in curves.paths}
    orders = [order for order in ORDERS if order in paths]
    if cell is None or not orders:
        raise Lacking(f"no path among {', '.join(ORDERS)}")
    panels = []
    for order in orders:
        parts: list[Part] = []
        for key, look in THREE.items():
            curves = three[key[0]].get(cell)
            names = [path for path, _ in curves.paths] if curves else []
            if curves and order in names:
                band = band_of(curves.steps, curves.means[names.index(order)])
                parts += [Curve(band, look)] if band.seeds else []
        number, arrows = ORDERS.index(order) + 1, order.replace("-", " \u2192 ")
        title = rf"$\theta_{number}$: {arrows}"
        panels.append(Panel(parts, title, "", UNIT, "answers"))
    grid = [panels[start : start + 3] for start in range(0, len(panels), 3)]
    entries: list[Entry] = [(look.line(1), look.label) for look in THREE.values()]
    return lambda: compose(grid, 2.1, "", [], "", entries)


def figure_five(cells: Cells) -> Callable[[], Figure]:
    """Figure 5: label above and TOFU answers below, a column per method, over seeds."""
    label = cells.label()
    stage, kept = cells.retained()
    chosen = [(m, cells.choose(label, m)[:1]) for m in cells.methods]
    if max(len(curves.seeds) for curves in label.values()) < 2:
        raise Lacking("one seed; the figure shows intervals over several")
    grid = [
        [
            cells.panel(source.get(c), m, cells.words(c), f"{plain(name)}\n(nats per token)", name)
            for m, found in chosen
            for c in found
        ]
        for name, source in ((LABEL_TITLE, label), (f"{stage} answers", kept))
    ]
    return lambda: cells.figure(titled_once(grid), label, 2.2)


def figure_six(cells: Cells) -> Callable[[], Figure]:
    """Figure 6: the label under NPO, a row per learning rate and a column per base model.

    With one base model the rates are side by side.
    """
    label, method = cells.label(), cells.local()
    rates = cells.values("lr", method, label)
    if len(rates) < 2:
        raise Lacking(f"fewer than two learning rates under {method}; sweep over data.unlearn.lr")
    grid = [
        [
            cells.panel(label[c], cells.model_name(c) or method, cells.words(c), UNIT, c)
            for c in cells.choose(label, method, lr=rate)
        ]
        for rate in rates
    ]
    if max(map(len, grid)) == 1:
        flat = [panel for row in grid for panel in row]
        flat = [panel and replace(panel, share="label") for panel in flat]
        columns = 2 if len(flat) == 4 else 3
        grid = [flat[start : start + columns] for start in range(0, len(flat), columns)]
    return lambda: cells.figure(grid, label, 2.1)


def figure_seven(cells: Cells) -> Callable[[], Figure]:
    """Figure 7: label and TOFU answers at the highest learning rate, under NPO."""
    label, method = cells.label(), cells.local()
    stage, kept = cells.retained()
    rates = cells.values("lr", method, label)
    if len(rates) < 2:
        raise Lacking(f"fewer than two learning rates under {method}; sweep over data.unlearn.lr")
    (cell, *_) = cells.choose(label, method, lr=rates[-1])
    setting = f"{method}, {cells.words(cell)}"
    row = [
        cells.panel(label[cell], f"forget quality: {LABEL_TITLE}", setting, UNIT, 0),
        cells.panel(kept.get(cell), f"retained utility: {plain(stage)} answers", setting, "", 1),
    ]
    return lambda: cells.figure([row], label, 2.8)


def figure_eight(cells: Cells) -> Callable[[], Figure]:
    """Figure 8: the label, a row per method and a column per schedule.

    In the paper the schedule is that of all training stages as well; here it is whatever the study
    sweeps over, such as data.unlearn.schedule alone.
    """
    label = cells.label()
    schedules = {m: cells.values("schedule", m, label) for m in cells.methods}
    every = list(dict.fromkeys(value for values in schedules.values() for value in values))
    if len(every) < 2:
        raise Lacking("fewer than two schedules; sweep over data.unlearn.schedule")
    grid = []
    for method in cells.methods:
        row: list[Panel | None] = []
        for schedule in every:
            found = cells.choose(label, method, schedule=schedule)[:1]
            ylabel = f"{plain(method)}\nlabel {UNIT}"
            curves = label[found[0]] if found else None
            words = cells.words(found[0]) if found else ""
            row.append(cells.panel(curves, short_value(schedule), words, ylabel, method))
        if any(row):
            grid.append(row)
    return lambda: cells.figure(titled_once(grid), label, 2.3)


MAKERS: dict[str, Maker] = {
    "figure-1": figure_one,
    "figure-3": figure_three,
    "figure-4": figure_four,
    "figure-5": figure_five,
    "figure-6": figure_six,
    "figure-7": figure_seven,
    "figure-8": figure_eight,
}
