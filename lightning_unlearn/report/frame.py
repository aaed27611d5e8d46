"""Title, notes and legend of a figure, with room of their own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def frame(
    figure: Figure,
    title: str,
    notes: Sequence[str],
    heading: str,
    entries: Sequence[tuple[dict[str, Any], str]],
) -> None:
    """Put title and notes over the panels and the legend under them.

    Args:
        figure: grows by the room they take.
        title: in bold, on as many lines as it needs.
        notes: how to read the curves, in words.
        heading: of the legend.
        entries: keywords of the line, and the label, of each entry of the legend.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **line) for line, _ in entries]
    width, height = figure.get_size_inches()
    for rows in range(1, len(entries) + 1):
        legend = figure.legend(
            handles,
            [label for _, label in entries],
            title=heading,
            loc="lower center",
            ncols=-(-len(entries) // rows),
        )
        box = legend.get_window_extent()
        if rows == len(entries) or box.width <= 0.97 * figure.bbox.width:
            break
        legend.remove()
    # The layout of the panels is kept off the legend by the rectangle below.
    legend.set_in_layout(False)
    width = max(width, box.width / figure.dpi / 0.97)
    below = box.height / figure.dpi + 0.12

    titles = textwrap.wrap(title, int(width * 8.5))
    remarks = textwrap.wrap(" · ".join(notes), int(width * 12))
    title_top, remarks_top = 0.1, 0.14 + 0.24 * len(titles)
    above = remarks_top + 0.19 * len(remarks) + 0.08
    full = height + above + below
    figure.set_size_inches(width, full)
    panels = (0.08 / width, below / full, 1 - 0.16 / width, height / full)
    figure.set_layout_engine("constrained", rect=panels, h_pad=0.07)
    for lines, top, look in (
        (titles, title_top, {"fontsize": 12.5, "fontweight": "bold"}),
        (remarks, remarks_top, {"fontsize": 9.5, "color": "#444444"}),
    ):
        text = figure.text(0.5, 1 - top / full, "\n".join(lines), ha="center", va="top")
        text.set(**look)
        text.set_in_layout(False)

    # The solver behind the layout is exact to the last digits only, which could move a pixel.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        left, bottom, across, up = (round(place, 6) for place in axis.get_position().bounds)
        axis.set_position((left, bottom, across, up))
