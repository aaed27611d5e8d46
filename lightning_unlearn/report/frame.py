"""Title, notes and legend of a figure, with room of their own, and the panels between them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_unlearn.report.panels import Grid, draw, extents, size_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Entry = tuple[dict[str, Any], str]
# Inches between what belongs to neighboring panels, and around all.
BETWEEN, AROUND = 0.14, 0.1
DIFFER = "y axes differ between panels"


def compose(
    grid: Grid,
    height: float,
    title: str,
    notes: Sequence[str],
    heading: str,
    entries: Sequence[Entry],
) -> Figure:
    """A figure: title and notes, the panels under them, the legend under these.

    The panels are as wide as their number asks for and the figure is as large as all that takes,
    so nothing is cut and one pass over the labels is enough to place everything.

    Args:
        grid: the panels.
        height: of one panel in inches.
        title: in bold, on as many lines as it needs.
        notes: how to read the curves, in words.
        heading: of the legend.
        entries: keywords of the line, and the label, of each entry of the legend.
    """
    figure, axes, differ = draw(grid, height)
    width, height = size_of(grid, height)
    reach = extents(axes)
    rows, columns = len(grid), max(map(len, grid))

    def most(side: int, row: int | None = None, column: int | None = None) -> float:
        return max(
            (
                ends[side]
                for (at, beside), ends in reach.items()
                if row in (None, at) and column in (None, beside)
            ),
            default=0.0,
        )

    lefts, across = [], AROUND
    for column in range(columns):
        lefts.append(across + most(0, column=column))
        across = lefts[-1] + width + most(1, column=column) + BETWEEN
    across += AROUND - BETWEEN
    tops, down = [], 0.0
    for row in range(rows):
        tops.append(down + most(3, row=row))
        down = tops[-1] + height + most(2, row=row) + BETWEEN

    full_width, below = _legend(figure, across, heading, entries)
    titles = textwrap.wrap(title, int(full_width * 8.5))
    remarks = textwrap.wrap(
        " · ".join([*notes, *([DIFFER] if differ else [])]), int(full_width * 12)
    )
    remarks_top = 0.14 + 0.24 * len(titles)
    above = remarks_top + 0.19 * len(remarks) + 0.08
    full = above + down + below
    figure.set_size_inches(full_width, full)
    shift = (full_width - across) / 2
    for (row, column), (axis, _) in axes.items():
        left, top = shift + lefts[column], above + tops[row]
        axis.set_position(
            (left / full_width, 1 - (top + height) / full, width / full_width, height / full)
        )
    for lines, top, look in (
        (titles, 0.1, {"fontsize": 12.5, "fontweight": "bold"}),
        (remarks, remarks_top, {"fontsize": 9.5, "color": "#444444"}),
    ):
        text = figure.text(0.5, 1 - top / full, "\n".join(lines), ha="center", va="top")
        text.set(**look)
    return figure


def _legend(
    figure: Figure, width: float, heading: str, entries: Sequence[Entry]
) -> tuple[float, float]:
    """Add the legend, in as many rows as keep it within `width` inches if that can be.

    Returns:
        The width of the figure and the height of the legend, with its margin, in inches.
    """
    from matplotlib.lines import Line2D

    if not entries:
        return width, AROUND
    handles = [Line2D([], [], **line) for line, _ in entries]
    figure.set_size_inches(width, 10)
    for rows in range(1, len(entries) + 1):
        legend = figure.legend(
            handles,
            [label for _, label in entries],
            title=heading or None,
            loc="lower center",
            ncols=-(-len(entries) // rows),
        )
        box = legend.get_window_extent()
        if rows == len(entries) or box.width <= 0.97 * figure.bbox.width:
            break
        legend.remove()
    return max(width, box.width / figure.dpi / 0.97), box.height / figure.dpi + 0.12
