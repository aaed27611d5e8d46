"""The scores of a study as Markdown, as CSV and as a table for the terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_unlearn.report.scores import DECIMALS, RUN, forget_stage, number

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

NOTE = "Bold: the lowest forget score of a method, where forgetting was slowest."
SEVERAL = "Several seeds: mean (lowest to highest)."


@dataclass(frozen=True)
class _Row:
    """One method and path, all seeds together; `cells` are the formatted values."""

    method: str
    position: int
    path: str
    seeds: int
    cells: list[str]
    slowest: bool


def markdown(scores: pd.DataFrame) -> str:
    """The scores as a GitHub table: rows are paths by position, grouped by method.

    Several seeds are drawn together as mean (lowest to highest). Within a method with several
    paths the lowest forget score is bold. Names are escaped.

    Args:
        scores: what `lightning_unlearn.report.scores` returns.

    Returns:
        The table and a line on how to read it, ending in a newline.
    """
    names, rows = _values(scores), _rows(scores)
    several = any(row.seeds > 1 for row in rows)
    header = ["method", "p", "path", *(["seeds"] if several else []), *map(_heading, names)]
    rules = ["---", "---:", "---"] + ["---:"] * (len(header) - 3)
    lines = [[_escape(name) for name in header], rules]
    previous = None
    for row in rows:
        cells = list(row.cells)
        if row.slowest:
            cells[0] = f"**{cells[0]}**"
        method = "" if row.method == previous else _escape(row.method)
        seeds = [str(row.seeds)] if several else []
        lines.append([method, str(row.position), _path(row), *seeds, *cells])
        previous = row.method
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = ([NOTE] if any(row.slowest for row in rows) else []) + ([SEVERAL] if several else [])
    return "\n\n".join([table, *([" ".join(notes)] if notes else [])]) + "\n"


def csv(scores: pd.DataFrame) -> str:
    """The scores as CSV, one row per run at full precision; a missing value is an empty field."""
    return str(scores.to_csv(index=False, lineterminator="\n"))


def render(scores: pd.DataFrame) -> Table:
    """The table of `markdown` for the terminal; print it with `rich.console.Console().print`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names, rows = _values(scores), _rows(scores)
    several = any(row.seeds > 1 for row in rows)
    notes = ([NOTE] if any(row.slowest for row in rows) else []) + ([SEVERAL] if several else [])
    table = Table(box=box.SIMPLE_HEAD, caption=Text(" ".join(notes)) if notes else None)
    table.add_column("method")
    table.add_column("p", justify="right")
    longest = max((len(row.path) for row in rows), default=0)
    table.add_column("path", overflow="fold", min_width=min(longest, 32))
    if several:
        table.add_column("seeds", justify="right")
    for name in names:
        table.add_column(Text(_heading(name)), justify="right")
    previous = None
    for index, row in enumerate(rows):
        cells = [Text(cell) for cell in row.cells]
        if row.slowest:
            cells[0].stylize("bold")
        method = Text("" if row.method == previous else row.method)
        seeds = [str(row.seeds)] if several else []
        closes = index + 1 == len(rows) or rows[index + 1].method != row.method
        table.add_row(method, str(row.position), Text(row.path), *seeds, *cells, end_section=closes)
        previous = row.method
    return table


def _values(scores: pd.DataFrame) -> list[str]:
    return [str(name) for name in scores.columns if name not in RUN]


def _heading(name: str) -> str:
    if name == "forget_score":
        return "forget score"
    return f"{name} change" if name.endswith(" accuracy") else name


def _rows(scores: pd.DataFrame) -> list[_Row]:
    """Rows grouped by method in order of appearance, within a method by position."""
    rows: list[_Row] = []
    for method, runs in scores.groupby("method", sort=False):
        paths = sorted(runs.groupby(["path", "position"], sort=False), key=lambda item: item[0][1])
        means = [round(group["forget_score"].mean(), DECIMALS) for _, group in paths]
        lowest = min((mean for mean in means if mean == mean), default=None)
        for ((path, position), group), mean in zip(paths, means, strict=True):
            cells = [_cell(group[name], name.endswith(" accuracy")) for name in _values(scores)]
            slowest = len(paths) > 1 and mean == lowest
            rows.append(_Row(method, int(position), path, len(group), cells, slowest))
    return rows


def _cell(values: pd.Series, signed: bool) -> str:
    known = values.dropna()
    if known.empty:
        return "n/a"
    mean = number(known.mean(), signed)
    if len(values) == 1:
        return mean
    missing = f", {len(known)} of {len(values)} seeds" if len(known) < len(values) else ""
    return f"{mean} ({number(known.min(), signed)} to {number(known.max(), signed)}{missing})"


def _path(row: _Row) -> str:
    """The path with its forget stage in bold."""
    stages = [_escape(stage) for stage in row.path.split("-")]
    forget_stage(row.path, row.position)
    stages[row.position - 1] = f"**{stages[row.position - 1]}**"
    return "-".join(stages)


def _escape(text: str) -> str:
    """`text` as plain characters of one Markdown table cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", " ".join(text.split()))
