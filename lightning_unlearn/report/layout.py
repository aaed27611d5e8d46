"""Tables of runs as Markdown, as LaTeX and for the terminal, by method and mostly by path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_unlearn.report.formatting import number
from lightning_unlearn.report.latex import bold_latex, escape_latex, table_latex
from lightning_unlearn.report.reading import RUN, forget_stage, settings_of
from lightning_unlearn.settings.labels import setting_name

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SEVERAL = "Several seeds: mean (lowest to highest)."


@dataclass(frozen=True)
class Row:
    """One method, setting and path, or all paths, all seeds together.

    Attributes:
        method: its label.
        setting: in words; "" where there is none.
        position: of the forget stage; 0 for a row of all paths.
        path: the stages, joined by "-"; "" for a row of all paths.
        seeds: how many.
        cells: the formatted values.
        bold: the cell that stands out, if any.
    """

    method: str
    setting: str
    position: int
    path: str
    seeds: int
    cells: Sequence[str]
    bold: int | None = None


@dataclass(frozen=True)
class Layout:
    """A table, ready to be written.

    Attributes:
        swept: whether the study has sweep keys, so that settings are shown.
        headings: of the cells.
        rows: those of one method and setting follow each other.
        notes: sentences on how to read it.
        seeds: one more sentence, for rows of several seeds.
        by_path: whether rows are of single paths; otherwise neither paths nor seeds are shown.
    """

    swept: bool
    headings: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]
    seeds: str = SEVERAL
    by_path: bool = True

    def markdown(self) -> str:
        """The table and its notes for GitHub, with names escaped, ending in a newline."""
        identity, alignment, _ = self._identity()
        lines = [
            [*map(escape, identity), *map(escape, self.headings)],
            ["---:" if right else "---" for right in alignment] + ["---:"] * len(self.headings),
        ]
        for row, texts in self._named(escape, _emphasized):
            cells = [
                f"**{cell}**" if place == row.bold else cell for place, cell in enumerate(row.cells)
            ]
            lines.append([*texts, *cells])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(filter(None, [table, self._caption()])) + "\n"

    def latex(self, caption: str = "") -> str:
        """The table and its notes as a float for the LaTeX package booktabs, names escaped.

        Args:
            caption: over the table; "" for none.
        """
        identity, alignment, _ = self._identity()
        groups: list[list[list[str]]] = []
        before: tuple[str, str] | None = None
        for row, texts in self._named(escape_latex, _emphasized_latex):
            cells = [escape_latex(cell) for cell in row.cells]
            if row.bold is not None:
                cells[row.bold] = bold_latex(cells[row.bold])
            if before is None or (self.by_path and before != (row.method, row.setting)):
                groups.append([])
            groups[-1].append([*texts, *cells])
            before = row.method, row.setting
        head = [*map(escape_latex, identity), *map(escape_latex, self.headings)]
        right = [*alignment, *([True] * len(self.headings))]
        return table_latex(head, right, groups, self._caption(), caption)

    def render(self, title: str | None = None) -> Table:
        """The table for the terminal, with its notes as caption."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        caption = self._caption()
        table = Table(title=title, box=box.SIMPLE_HEAD, caption=Text(caption) if caption else None)
        # A column that may wrap is narrowed first, and then put back to its least width: what must
        # stay whole is better not to wrap at all.
        identity, alignment, least = self._identity()
        named = list(self._named(str, lambda row: row.path))
        for place, (name, right, width) in enumerate(zip(identity, alignment, least, strict=True)):
            whole = width is not None and all(len(texts[place]) <= width for _, texts in named)
            justify: Literal["left", "right"] = "right" if right else "left"
            table.add_column(name, justify=justify, overflow="fold", min_width=width, no_wrap=whole)
        for place, heading in enumerate(self.headings):
            split = [row.cells[place].split() for row in self.rows]
            longest = max((len(word) for words in split for word in words), default=0)
            whole = len(heading) <= longest and all(len(words) < 2 for words in split)
            table.add_column(Text(heading), justify="right", min_width=longest, no_wrap=whole)
        for index, (row, texts) in enumerate(named):
            cells = [
                Text(cell, style="bold" if place == row.bold else "")
                for place, cell in enumerate(row.cells)
            ]
            after = self.rows[index + 1] if index + 1 < len(self.rows) else None
            closes = after is None or (after.method, after.setting) != (row.method, row.setting)
            table.add_row(*map(Text, texts), *cells, end_section=closes)
        return table

    def _identity(self) -> tuple[list[str], list[bool], list[int | None]]:
        """Headings of the first columns, whether they are right-aligned, their least widths."""
        longest = max((len(row.path) for row in self.rows), default=0)
        columns: list[tuple[str, bool, int | None]] = [("method", False, None)]
        if self.swept:
            widest = max((len(row.setting) for row in self.rows), default=0)
            columns.append(("setting", False, min(widest, 24)))
        if self.by_path:
            columns += [("p", True, None), ("path", False, min(longest, 32))]
        if self.by_path and self._several():
            columns.append(("seeds", True, None))
        names, right, widths = zip(*columns, strict=True)
        return list(names), list(right), list(widths)

    def _named(
        self, shown: Callable[[str], str], path: Callable[[Row], str]
    ) -> Iterable[tuple[Row, list[str]]]:
        """The rows with the texts of their first columns; what the row before has is left out."""
        method = setting = None
        for row in self.rows:
            same_method = row.method == method
            texts = ["" if same_method else shown(row.method)]
            if self.swept:
                same = same_method and row.setting == setting
                texts.append("" if same else shown(row.setting or "n/a"))
            if self.by_path:
                texts += [str(row.position), path(row)]
            if self.by_path and self._several():
                texts.append(str(row.seeds))
            yield row, texts
            method, setting = row.method, row.setting

    def _caption(self) -> str:
        return " ".join([*self.notes, *([self.seeds] if self.seeds and self._several() else [])])

    def _several(self) -> bool:
        return any(row.seeds > 1 for row in self.rows)


def rows_of(
    table: pd.DataFrame,
    sweep: Sequence[str],
    cells: Callable[[pd.DataFrame], list[str]],
    bold: Callable[[list[pd.DataFrame]], list[int | None]] | None = None,
) -> list[Row]:
    """Group runs by method and setting in order of appearance, and within them by position.

    Args:
        table: one row per run, with the columns of `RUN` and the sweep keys.
        sweep: the sweep keys.
        cells: gives the formatted values of the runs of one path.
        bold: gives the cell that stands out of each path of a method and setting.
    """
    codes, settings = settings_of(table, sweep)
    rows = []
    for method, runs in table.assign(setting=codes).groupby("method", sort=False):
        # Settings are numbered in order of appearance over all methods, so methods list them alike.
        for code, group in runs.groupby("setting"):
            name = setting_name(sweep, settings[code])
            found = group.groupby(["path", "position"], sort=False)
            paths = sorted(found, key=lambda item: item[0][1])
            stand_out = bold([part for _, part in paths]) if bold else [None] * len(paths)
            for ((path, position), part), place in zip(paths, stand_out, strict=True):
                seeds = len(part)
                rows.append(Row(method, name, int(position), path, seeds, cells(part), place))
    return rows


def spread(values: pd.Series, signed: bool = False) -> str:
    """The value of one seed, or mean (lowest to highest) of several."""
    known = values.dropna()
    if known.empty:
        return "n/a"
    mean = number(known.mean(), signed)
    if len(values) == 1:
        return mean
    missing = f", {len(known)} of {len(values)} seeds" if len(known) < len(values) else ""
    return f"{mean} ({number(known.min(), signed)} to {number(known.max(), signed)}{missing})"


def names_of_values(table: pd.DataFrame, sweep: Sequence[str]) -> list[str]:
    """The columns that are neither those of `RUN` nor sweep keys."""
    return [str(name) for name in table.columns if name not in (*RUN, *sweep)]


def bullets(sentences: Sequence[str]) -> str:
    """Sentences as a Markdown list; "" where there are none."""
    return "".join(f"- {line}\n" for line in sentences)


def escape(text: str) -> str:
    """`text` as plain characters of one Markdown table cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", " ".join(text.split()))


def _emphasized(row: Row) -> str:
    """The path with its forget stage in bold, as Markdown."""
    return _with_bold(row, escape, "**{}**".format)


def _emphasized_latex(row: Row) -> str:
    """The same as LaTeX."""
    return _with_bold(row, escape_latex, bold_latex)


def _with_bold(row: Row, shown: Callable[[str], str], bold: Callable[[str], str]) -> str:
    stages = [shown(stage) for stage in row.path.split("-")]
    forget_stage(row.path, row.position)
    stages[row.position - 1] = bold(stages[row.position - 1])
    return "-".join(stages)
