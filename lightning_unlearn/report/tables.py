"""Tables of runs: one list of columns, for Markdown, LaTeX, the terminal and the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from lightning_unlearn.analysis.known_rows import DECIMALS
from lightning_unlearn.analysis.reading import Condition, PathPosition, by_condition
from lightning_unlearn.report.formatting import MISSING, number

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table as RichTable

SEVERAL = "Several seeds: mean (lowest to highest)."
# Pieces of a cell's text, and whether each is bold.
Cell = Sequence[tuple[str, bool]]
_LATEX_SIGNS = "\\{}$&#%_~^<>|`[]\u00b1\u2212\u00b7\u2192\u2191"
# After the double backslash of the row before, a bracket would be read as its argument.
_AS_LATEX = (
    r"\textbackslash{} \{ \} \$ \& \# \% \_ \textasciitilde{} \textasciicircum{} \textless{} "
    r"\textgreater{} \textbar{} \textasciigrave{} {[} {]} $\pm$ $-$ $\cdot$ $\to$ $\uparrow$"
)
_LATEX = str.maketrans(dict(zip(_LATEX_SIGNS, _AS_LATEX.split(), strict=True)))


@dataclass(frozen=True)
class Row:
    """One row of a table: the runs of one method and setting on one path, or on all.

    Attributes:
        of: method and setting.
        data: what the columns read.
        path: with the position of its forget stage; ("", 0) for all paths.
        seeds: how many.
        bold: headings of the columns whose cells stand out.
    """

    of: Condition
    data: Any
    path: PathPosition = ("", 0)
    seeds: int = 1
    bold: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: over it.
        text: gives the text of a row's cell.
        is_name: whether texts are names, which are aligned to the left; numbers are to the right.
        once: whether a cell is left empty where the row before has the same.
        whole: names of at most so many characters are not broken in a terminal.
        is_path: whether texts are paths, whose forget stage is bold.
        shade: gives how dark a row's cell is in HTML, from 0 to 1; None for no shade.
    """

    heading: str
    text: Callable[[Row], str]
    is_name: bool = False
    once: bool = False
    whole: int | None = None
    is_path: bool = False
    shade: Callable[[Row], float | None] | None = None

    def cell(self, row: Row) -> Cell:
        """The cell of a row."""
        if not self.is_path:
            return [(self.text(row), self.heading in row.bold)]
        stages = enumerate(self.text(row).split("-"), start=1)
        pieces = [(("-", False), (stage, place == row.path[1])) for place, stage in stages]
        return list(chain.from_iterable(pieces))[1:]


METHOD = Column("method", lambda row: row.of.method, is_name=True, once=True)
SETTING = Column("setting", lambda row: row.of.words or MISSING, True, once=True, whole=24)
POSITION = Column("p", lambda row: str(row.path[1]))
PATH = Column("path", lambda row: row.path[0], is_name=True, whole=32, is_path=True)
SEEDS = Column("seeds", lambda row: str(row.seeds))


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        columns: from left to right.
        rows: from top to bottom; those of one method and setting follow each other.
        note: how to read it.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""

    def markdown(self) -> str:
        """The table and its note for GitHub, with names escaped, ending in a newline."""
        lines = [
            [escape(column.heading) for column in self.columns],
            ["---" if column.is_name else "---:" for column in self.columns],
            *([_marked(cell, escape, "**{}**") for cell in cells] for _, cells, _ in self.body()),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(filter(None, [table, escape(self.note)])) + "\n"

    def latex(self, caption: str = "") -> str:
        """The table and its note as a float for the LaTeX package booktabs, names escaped."""
        lines = [latex_row(escape_latex(column.heading) for column in self.columns)]
        for _, cells, begins in self.body():
            if len(lines) == 1 or (begins and PATH in self.columns):
                lines.append(r"\midrule")
            lines.append(latex_row(map(latex_cell, cells)))
        alignment = "".join("l" if column.is_name else "r" for column in self.columns)
        return latex_float(alignment, lines, self.note, caption)

    def rich(self, title: str | None = None) -> RichTable:
        """The table for the terminal, with its note as caption."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        caption = Text(self.note) if self.note else None
        table = RichTable(title=title, box=box.SIMPLE_HEAD, caption=caption)
        # A column that may wrap is narrowed first, and then put back to its least width: what must
        # stay whole is better not to wrap at all.
        for column in self.columns:
            texts = [column.text(row) for row in self.rows]
            if column.is_name:
                widest = max(map(len, texts), default=0)
                least = None if column.whole is None else min(widest, column.whole)
                whole = widest == least
            else:
                least = max((len(word) for text in texts for word in text.split()), default=0)
                whole = len(column.heading) <= least and all(len(t.split()) < 2 for t in texts)
            table.add_column(
                Text(column.heading),
                justify="left" if column.is_name else "right",
                overflow="fold" if column.is_name or column is SEEDS else "ellipsis",
                min_width=least,
                no_wrap=whole,
            )
        for _, cells, begins in self.body():
            if begins:
                table.add_section()
            texts = ["".join(text for text, _ in cell) for cell in cells]
            # Of paths no stage is bold.
            bold = ["bold" * (len(cell) == 1 and cell[0][1]) for cell in cells]
            table.add_row(*map(Text, texts, bold))
        return table

    def body(self) -> Iterable[tuple[Row, list[Cell], bool]]:
        """The rows with their cells, and whether a row differs in what is said once."""
        before: list[str] = []
        for row in self.rows:
            once = [column.text(row) if column.once else "" for column in self.columns]
            pairs = enumerate(zip(once, before, strict=False))
            new = next((place for place, (own, last) in pairs if own != last), len(before))
            known = [column.once and place < new for place, column in enumerate(self.columns)]
            cells = [[] if k else c.cell(row) for k, c in zip(known, self.columns, strict=True)]
            yield row, cells, new < len(once)
            before = once


def table_of_runs(
    columns: Sequence[Column],
    rows: Sequence[Row],
    notes: Sequence[str],
    swept: bool,
    by_path: bool = True,
    spread: str = SEVERAL,
) -> Table:
    """A table whose first columns say which runs a row is of.

    Args:
        columns: the others.
        rows: those of one method and setting follow each other.
        notes: sentences on how to read it.
        swept: whether the study has sweep keys, so that settings are shown.
        by_path: whether rows are of single paths; otherwise neither paths nor seeds are shown.
        spread: one more note, for rows by path of several seeds.
    """
    first = [METHOD, *([SETTING] if swept else []), *([POSITION, PATH] if by_path else [])]
    if by_path and any(row.seeds > 1 for row in rows):
        return Table([*first, SEEDS, *columns], rows, " ".join([*notes, spread]))
    return Table([*first, *columns], rows, " ".join(notes))


def rows_of(table: pd.DataFrame, before: str, lowest: str = "") -> list[Row]:
    """Rows of the paths by position, grouped by method and setting; their data are the runs.

    Args:
        table: a row per run, with the columns of `RUN` and the sweep keys.
        before: the column after the sweep keys.
        lowest: a column whose lowest mean of a method and setting stands out, in the column that
            is headed so with a space for "_"; "" for none.
    """
    rows = []
    for own, runs in by_condition(table, before):
        paths = sorted(runs.groupby(["path", "position"], sort=False), key=lambda item: item[0][1])
        means = [round(part[lowest].mean(), DECIMALS) if lowest else 0.0 for _, part in paths]
        least = min((mean for mean in means if mean == mean), default=None)
        for mean, ((path, position), part) in zip(means, paths, strict=True):
            bold = [lowest.replace("_", " ")] if len(means) > 1 and mean == least else []
            rows.append(Row(own, part, (path, int(position)), len(part), bold))
    return rows


def mean_and_range(values: pd.Series, signed: bool = False) -> str:
    """The value of one seed, or mean (lowest to highest) of several."""
    known = values.dropna()
    if known.empty:
        return MISSING
    mean = number(known.mean(), signed)
    if len(values) == 1:
        return mean
    missing = f", {len(known)} of {len(values)} seeds" if len(known) < len(values) else ""
    return f"{mean} ({number(known.min(), signed)} to {number(known.max(), signed)}{missing})"


def csv(table: pd.DataFrame | Sequence[Mapping[str, Any]]) -> str:
    """A table as CSV: one line per row at full precision; a missing value is an empty field.

    Args:
        table: what `scores` or `depth` returns,
            or rows by column, which are in the order of their first appearance.
    """
    import pandas as pd

    return str(pd.DataFrame(table).to_csv(index=False, lineterminator="\n"))


def bullets(sentences: Sequence[str]) -> str:
    """Sentences as a Markdown list; "" where there are none."""
    return "".join(f"- {line}\n" for line in sentences)


def escape(text: str) -> str:
    """`text` as plain characters of one Markdown table cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """`text` as plain letters of LaTeX, on one line."""
    plain = " ".join(text.split()).translate(_LATEX)
    # The unit of distances, (nats per token)^2.
    plain = plain.replace(r")\textasciicircum{}2", ")$^2$")
    # Two hyphens would be set as a dash, and one before a number is a minus.
    return re.sub(r"(?<![\w}-])-(?=\d)", "$-$", re.sub(r"-(?=-)", "-{}", plain))


def latex_row(cells: Iterable[str]) -> str:
    """Escaped cells as a row."""
    return rf"{' & '.join(cells)} \\"


def latex_cell(cell: Cell) -> str:
    """A cell as LaTeX."""
    return _marked(cell, escape_latex, r"\textbf{{{}}}")


def latex_float(alignment: str, lines: Sequence[str], note: str = "", caption: str = "") -> str:
    """A table float with rules of booktabs, ending in a newline.

    Args:
        alignment: "l" or "r" for each column.
        lines: finished rows and rules.
        note: what stands under the table, not escaped yet; "" for none.
        caption: over the table, likewise.
    """
    under = [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {escape_latex(note)}}}"]
    above = [r"\begin{table}[tbp]", r"\centering", r"\small"]
    above += [rf"\caption{{{escape_latex(caption)}}}"] if caption else []
    above += [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    end = [r"\bottomrule", r"\end{tabular}", *(under if note else []), r"\end{table}", ""]
    return "\n".join([*above, *lines, *end])


def _marked(cell: Cell, escaped: Callable[[str], str], bold: str) -> str:
    """A cell as text of a format, with `bold` around its bold pieces."""
    return "".join(bold.format(escaped(t)) if is_bold else escaped(t) for t, is_bold in cell)
