"""Tables of the report as values that the page's template writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightning_unlearn.report.layout import Layout
from lightning_unlearn.report.naming import number, setting_name, short_number
from lightning_unlearn.report.study_report import StudyReport


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: what it says.
        kind: its class: "n" for numbers.
        small: said smaller, after the text.
        head: whether it heads a row.
        bold: whether the text is bold.
        position: of the stage in bold, where the text is a path.
        shade: of the ground, 0 to 1; None for none.
    """

    text: str
    kind: str = ""
    small: str = ""
    head: bool = False
    bold: bool = False
    position: int = 0
    shade: float | None = None


@dataclass(frozen=True)
class HtmlTable:
    """A table of the page.

    Attributes:
        caption: what it is, for those who cannot see where it stands.
        headings: of the columns.
        rows: cells of each row.
        notes: sentences under it.
        kind: its class.
    """

    caption: str
    headings: Sequence[str | Cell]
    rows: Sequence[Sequence[Cell]]
    notes: str = ""
    kind: str = ""


def layout_table(caption: str, layout: Layout) -> HtmlTable:
    """A layout with its notes."""
    several = any(row.seeds > 1 for row in layout.rows)
    headings = ["method"]
    headings += ["setting"] if layout.swept else []
    headings += ["p", "path"] if layout.by_path else []
    headings += ["seeds"] if layout.by_path and several else []
    rows = []
    before = None
    for row in layout.rows:
        same = before == (row.method, row.setting)
        cells = [Cell("" if same else row.method, head=True)]
        if layout.swept:
            cells.append(Cell("" if same else row.setting or "n/a"))
        if layout.by_path:
            path = Cell(row.path, "path", position=row.position)
            cells += [Cell(str(row.position), "n"), path]
        if layout.by_path and several:
            cells.append(Cell(str(row.seeds), "n"))
        for place, cell in enumerate(row.cells):
            head, opened, rest = cell.partition(" (")
            # The spread goes on a line of its own where there is little room.
            small = f"({rest}" if opened else ""
            cells.append(Cell(head, "n", small, bold=place == row.bold))
        rows.append(cells)
        before = (row.method, row.setting)
    notes = " ".join([*layout.notes, *([layout.seeds] if layout.seeds and several else [])])
    return HtmlTable(caption, [*headings, *layout.headings], rows, notes)


def sweep_grid(told: StudyReport, value: str, title: str, signed: bool = False) -> HtmlTable | None:
    """Means over seeds of a score: a row per setting, a column per method and path, shaded.

    Args:
        told: a study with sweep keys.
        value: a column of the scores.
        title: of the table.
        signed: whether numbers have a plus.

    Returns:
        The table; None without any value.
    """
    cells = told.study.runs.drop_duplicates("run").set_index("run")
    scores = told.scores.assign(code=cells["setting"])
    means = scores.groupby(["code", "method", "path", "position"])[value].mean().dropna()
    if means.empty:
        return None
    columns = sorted(
        {(str(method), int(position), str(path)) for _, method, path, position in means.index},
        key=lambda column: (list(scores["method"]).index(column[0]), column[1], column[2]),
    )
    low, high = float(means.min()), float(means.max())
    rows = []
    for code in sorted({int(code) for code, *_ in means.index}):
        words = setting_name(told.study.sweep, told.study.settings[code])
        row = [Cell(words or "n/a", head=True)]
        for method, position, path in columns:
            found = means.get((code, method, path, position))
            if found is None:
                row.append(Cell("n/a", "n"))
                continue
            share = (float(found) - low) / (high - low) if high > low else 0.0
            text = number(float(found), signed)
            row.append(Cell(text, "n heat", shade=0.06 + 0.5 * share))
        rows.append(row)
    headings: list[str | Cell] = ["setting"]
    headings += [Cell(m, small=f"p = {p}") for m, p, _ in columns]
    paths = {path: position for _, position, path in columns}
    note = f"Darker: higher. From {short_number(low)} to {short_number(high)}. " + "; ".join(
        f"p = {position}: {path}" for path, position in paths.items()
    )
    return HtmlTable(title, headings, rows, note, "grid")
