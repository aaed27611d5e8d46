"""Draws figures with matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.style import CurveStyle, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes as MatplotlibAxes
    from matplotlib.figure import Figure as MatplotlibFigure

    Axes = dict[tuple[int, int], tuple[MatplotlibAxes, spec.Panel]]

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "legend.frameon": False,
    "figure.dpi": 160,
    "savefig.dpi": "figure",
    # Letters of a PDF stay letters, which editors and search can read.
    "pdf.fonttype": 42,
    **{f"{axis}tick.color": "#555555" for axis in "xy"},
    **{f"{axis}tick.labelcolor": "#222222" for axis in "xy"},
    **{f"{axis}tick.major.size": 3.0 for axis in "xy"},
}
GREY, DIM = "#444444", "#888888"
DASHED = {"linewidth": 1.4, "linestyle": (0, (4, 2.5)), "zorder": 1.9}
DOTTED = {"color": DIM, "linestyle": (0, (1, 1.5))}
# How each role is drawn; marks with a style have its color instead.
ROLES: dict[str, dict[str, Any]] = {
    "path": {"linewidth": 0.7, "alpha": 0.55},
    "pair": {"linewidth": 0.7, "alpha": 0.4},
    "example": {"linewidth": 0.8, "alpha": 0.5},
    "trail": {"linewidth": 1.6, "alpha": 0.8, "markersize": 3, "zorder": 2.3},
    "thin trail": {"linewidth": 0.8, "alpha": 0.8, "markersize": 3, "zorder": 2.3},
    "fit": {"color": "#000000", "linewidth": 2.2, "linestyle": (0, (3, 1.5)), "zorder": 3},
    "seeds": {"color": "#777777", "linewidth": 1.6, "linestyle": "-.", "zorder": 1.9},
    "oracle": {"color": GREY, **DASHED},
    "target": {"color": GREY, **DASHED},
    "floor": {"linewidth": 1.2, "zorder": 1.8, **DOTTED},
    "kept": {"linewidth": 1.0, "zorder": 1.5, **DOTTED},
    "strip": {"color": DIM, "linewidth": 8, "alpha": 0.25, "solid_capstyle": "butt"},
    "best": {
        **{"color": GREY, "marker": "o", "markersize": 12, "markerfacecolor": "none"},
        **{"markeredgewidth": 1.6, "linestyle": "none", "zorder": 3},
    },
    "crossing": {
        **{"color": "#000000", "marker": "|", "markersize": 9, "markeredgewidth": 1.3},
        **{"linestyle": "none", "zorder": 3},
    },
    "end": {"markersize": 9, "markeredgecolor": "white", "linestyle": "none", "zorder": 3},
    "small end": {"markersize": 6, "markeredgecolor": "white", "linestyle": "none", "zorder": 3},
}
# What differs in the legend.
IN_LEGEND: dict[str, dict[str, Any]] = {"trail": {"linewidth": 1.2}, "best": {"markersize": 9}}
GRID: dict[str, Any] = {"colors": "#E4E4E4", "linewidths": 0.8, "zorder": 0.6}
# Inches between neighboring panels, and around all.
BETWEEN, AROUND = 0.14, 0.1
DIFFER = "y axes differ between panels"


@contextmanager
def drawing_style() -> Iterator[None]:
    """matplotlib's defaults with `STYLE`, whatever the user's settings, which come back after."""
    import matplotlib

    settings: Any = {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(("backend", "toolbar", "interactive"))
    }
    settings.update(STYLE)
    with matplotlib.rc_context(settings):
        yield


def draw(figure: spec.Figure) -> MatplotlibFigure:
    """Draw a figure; call it, and write its result, within `drawing_style()`.

    Panels have one size. Room for their labels is found by matplotlib's constrained layout, once;
    then the figure is made as large as all that takes.

    Returns:
        The figure, with the Agg canvas and apart from pyplot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows, columns = len(figure.grid), max(map(len, figure.grid))
    width = {1: 5.3, 2: 3.9, 3: 3.15}.get(columns, 2.45)
    height = figure.height or (2.3 if rows > 2 else 3.0)
    drawn = MatplotlibFigure(figsize=(columns * (width + 2), rows * (height + 2)))
    FigureCanvasAgg(drawn)
    grid = drawn.add_gridspec(rows, columns)
    axes: Axes = {
        (row, column): (drawn.add_subplot(grid[row, column]), panel)
        for row, panels in enumerate(figure.grid)
        for column, panel in enumerate(panels)
        if panel is not None
    }
    differ = _fill(axes, figure, (width, height))
    pads: Any = {"w_pad": BETWEEN / 2, "h_pad": BETWEEN / 2, "wspace": 0, "hspace": 0}
    layout = ConstrainedLayoutEngine(**pads)
    layout.execute(drawn)
    # The panels are too large by this much.
    box = next(iter(axes.values()))[0].get_position()
    across, down = drawn.get_size_inches()
    across -= columns * (box.width * across - width) - 2 * (AROUND - BETWEEN / 2)
    down -= rows * (box.height * down - height)
    across, below = _legend(drawn, across, figure.legend)
    notes = " · ".join([*figure.notes, *[DIFFER] * differ])
    above = _headings(drawn, across, figure.title, notes)
    whole = above + down + below
    for text in drawn.texts:
        text.set_y(1 - text.get_position()[1] / whole)
    drawn.set_size_inches(round(across, 4), round(whole, 4))
    # The room that the layout leaves above the panels is part of `above` already.
    layout.set(rect=(0, (below + BETWEEN / 2) / whole, 1, down / whole))
    layout.execute(drawn)
    # The last digit of what the layout finds varies between runs; files must not.
    for axis, _ in axes.values():
        left, bottom, *size = (round(float(part), 6) for part in axis.get_position().bounds)
        axis.set_position((left, bottom, size[0], size[1]))
    return drawn


def _fill(axes: Axes, figure: spec.Figure, size: tuple[float, float]) -> bool:
    """Draw panels of this width and height in inches; return whether y axes differ."""
    width, height = size
    limits, differ = spec.y_limits(figure.grid)
    for axis, panel in axes.values():
        if panel.log:
            axis.set_yscale("log")
        for mark in panel.marks:
            _draw_mark(axis, mark)
        if panel.note:
            corner: Any = {"transform": axis.transAxes, "va": "bottom", "zorder": 4}
            axis.text(0.03, 0.04, panel.note, **corner, fontsize=8.5, color="#222222")
        if panel in limits:
            axis.set_ylim(*limits[panel])
    _x_limits(axes)
    heads: dict[int, tuple[str, str]] = {}
    for (row, column), (axis, panel) in axes.items():
        if heads.get(column) != (panel.title, panel.setting):
            heads[column] = (panel.title, panel.setting)
            _titles(axis, panel, width)
        left, under = axes.get((row, column - 1)), axes.get((row + 1, column))
        first = left is None or left[1].share != panel.share
        own = first or left is None or left[0].get_ylim() != axis.get_ylim()
        xlabel = panel.xlabel if under is None else ""
        if xlabel == spec.STEPS and width > 3:
            xlabel += " (optimizer updates)"
        by_step = panel.xlabel == spec.STEPS
        _ticks(axis, by_step, panel.log, under is None or not by_step, own)
        axis.set_xlabel(xlabel)
        ylabel = "\n".join(filter(None, [textwrap.fill(panel.row, 24), panel.ylabel]))
        axis.set_ylabel(escaped(ylabel) if first else "")
        _end_labels(axis, panel, height)
    return differ


def _draw_mark(axis: MatplotlibAxes, mark: spec.Mark) -> None:
    if mark.role == "range":
        axis.axvspan(*mark.x, color="#B8A000", alpha=0.1, linewidth=0, zorder=0.5)
    elif mark.role == "strip":
        axis.axhspan(*mark.y, color=DIM, alpha=0.16, linewidth=0, zorder=0.5)
    elif mark.role in spec.LEVELS:
        axis.axhline(mark.y[0], **_keywords(mark.role, mark.style))
    elif mark.role == "line" and mark.style:
        if np.isfinite(mark.low).any():
            shade: Any = {"color": mark.style.color, "alpha": mark.shade, "linewidth": 0}
            axis.fill_between(mark.x, mark.low, mark.high, **shade)
        # Thick lines over all thin ones.
        axis.plot(mark.x, mark.y, **_thick(mark.style, len(mark.x)), zorder=2.5)
    else:
        axis.plot(mark.x, mark.y, **_keywords(mark.role, mark.style))
        if mark.error and mark.style:
            bar: Any = {"ecolor": mark.style.color, "elinewidth": 1.4, "alpha": 0.55}
            across, up = mark.error
            axis.errorbar(mark.x, mark.y, up, across, fmt="none", zorder=2.2, **bar)


def _thick(style: CurveStyle, points: int = 1) -> dict[str, Any]:
    """Keywords of a thick line through `points` points."""
    return {
        **{"color": style.color, "linewidth": 2.0, "marker": style.marker, "markersize": 5},
        **{"markeredgecolor": "white", "markeredgewidth": 0.6, "markevery": max(1, points // 10)},
    }


def _keywords(role: str, style: CurveStyle | None) -> dict[str, Any]:
    """Keywords of a thin line, a horizontal one, or of markers."""
    own: dict[str, Any] = {"color": style.color} if style else {}
    if style and role in ("trail", "thin trail", "end", "small end"):
        own["marker"] = style.marker
    return {**ROLES[role], **own}


def _titles(axis: MatplotlibAxes, panel: spec.Panel, width: float) -> None:
    """Title and setting over a panel of `width` inches."""
    # Broken between keys where possible.
    lines = panel.setting.replace(" = ", "\u00a0=\u00a0").split("\n")
    setting = "\n".join(textwrap.fill(line, int(width * 14)) for line in lines)
    title = textwrap.fill(panel.title, min(30, int(width * 11.5)))
    axis.set_title(escaped(title), y=1.0, pad=6 + 12 * len(setting.splitlines()))
    under: Any = {"ha": "center", "va": "bottom", "transform": axis.transAxes}
    if setting:
        axis.text(0.5, 1.03, escaped(setting), color=GREY, fontsize=8.5, **under)


def _x_limits(axes: Axes) -> None:
    """Set the x limits of panels over steps, which are those of all of them."""
    shared = [axis for axis, panel in axes.values() if panel.xlabel == spec.STEPS]
    if shared:
        ends = [axis.dataLim.intervalx for axis in shared if np.isfinite(axis.dataLim.x0)]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        room = 0.045 * (high - low) or 0.5
        for axis in shared:
            axis.set_xlim(low - room, high + room)


def _ticks(axis: MatplotlibAxes, by_step: bool, log: bool, with_x: bool, with_y: bool) -> None:
    """Grid lines under everything, and ticks with numbers along the axes that have them.

    matplotlib's own grid and ticks are five objects each, laid out whenever they are measured or
    drawn: with a hundred panels they would take most of the time of a figure.
    """
    from matplotlib.collections import LineCollection

    xs = places_of(*axis.get_xlim(), whole=by_step)
    ys = places_of(*axis.get_ylim(), log)
    for lines, transform in (
        ([[(x, 0.0), (x, 1.0)] for x in xs], axis.get_xaxis_transform()),
        ([[(0.0, y), (1.0, y)] for y in ys], axis.get_yaxis_transform()),
    ):
        axis.add_collection(LineCollection(lines, transform=transform, **GRID), autolim=False)
    axis.xaxis.set_visible(with_x)
    axis.yaxis.set_visible(with_y)
    if with_x:
        axis.set_xticks(xs, written(xs))
    if with_y:
        axis.set_yticks(ys, [f"{y:g}" for y in ys] if log else written(ys))
        axis.minorticks_off()


def places_of(low: float, high: float, log: bool = False, whole: bool = False) -> list[float]:
    """Round numbers (or only whole ones) from `low` to `high`, at most seven, for ticks."""
    if log:
        decades = math.log10(high / low)
        subs = (1, 2, 5) if decades <= 1.2 else (1, 3) if decades <= 2.2 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = -(-len(powers) // 8)
        found = [s * 10.0**p for p in powers if p % every == 0 for s in subs]
    else:
        from matplotlib.ticker import MaxNLocator

        least = {"min_n_ticks": 1} if whole else {}
        locator = MaxNLocator(nbins=6, integer=whole, steps=[1, 2, 5, 10], **least)
        found = [float(place) for place in locator.tick_values(low, high)]
    return [place for place in found if low <= place <= high]


def written(places: Sequence[float]) -> list[str]:
    """Numbers with as many digits after the point as their steps ask for."""
    if not places:
        return []
    steps = np.diff(places)
    step = float(steps.min()) if len(steps) else abs(places[0]) or 1.0
    largest = max(abs(place) for place in places)
    if largest >= 1e6 or step < 1e-5:
        texts = [f"{place:g}" for place in places]
    else:
        digits = next((d for d in range(6) if abs(round(step, d) - step) < 1e-3 * step), 5)
        texts = [f"{place:.{digits}f}" for place in places]
    return [text.replace("-", "\u2212") if float(text) else text.lstrip("-") for text in texts]


def _end_labels(axis: MatplotlibAxes, panel: spec.Panel, height: float) -> None:
    """Name each thick curve beside its end, moved apart where ends are close."""
    curves = [mark for mark in panel.marks if mark.role == "line" and len(mark.x)]
    to_axes = (axis.transData + axis.transAxes.inverted()).transform
    ends = [
        (float(to_axes((curve.x[-1], curve.y[-1]))[1]), curve.style)
        for curve in curves
        if curve.style and curve.style.end
    ]
    ends.sort(key=lambda end: end[0])
    places = apart([end for end, _ in ends], gap=9.5 / (72 * height))
    beside: Any = {"transform": axis.transAxes, "va": "center", "fontweight": "bold"}
    for place, (_, style) in zip(places, ends, strict=True):
        axis.text(1.015, place, escaped(style.end), color=style.color, fontsize=8, **beside)


def apart(places: list[float], gap: float) -> list[float]:
    """The nearest places, in least squares, that lie at least `gap` apart within 0 to 1.

    `places` ascend. Less `gap` for each place before it, this is isotonic regression, solved by
    pooling adjacent violators.
    """
    blocks: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        mean, count = place - index * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        blocks.append((mean, count))
    level = [mean for mean, count in blocks for _ in range(count)]
    room = max(1 - gap * (len(places) - 1), 0)
    return [min(max(base, 0), room) + index * gap for index, base in enumerate(level)]


def _headings(drawn: MatplotlibFigure, width: float, title: str, notes: str) -> float:
    """Add title and notes, placed in inches from the top, and return the inches they take."""
    titles = textwrap.wrap(title, int(width * 8.5))
    remarks = textwrap.wrap(notes, int(width * 12))
    top = 0.14 + 0.24 * len(titles)
    middle: Any = {"ha": "center", "va": "top"}
    drawn.text(0.5, 0.1, escaped("\n".join(titles)), fontsize=12.5, fontweight="bold", **middle)
    drawn.text(0.5, top, escaped("\n".join(remarks)), fontsize=9.5, color=GREY, **middle)
    return top + 0.19 * len(remarks) + 0.08


def _legend(drawn: MatplotlibFigure, width: float, legend: spec.Legend) -> tuple[float, float]:
    """Add the legend, in as many rows as keep it within `width` inches if that can be.

    Returns:
        The width of the figure and the height of the legend, with its margin, in inches.
    """
    from matplotlib.lines import Line2D

    if not legend.entries:
        return width, AROUND
    count = len(legend.entries)
    styles = []
    for entry in legend.entries:
        thick = _thick(entry.style) if entry.style else {}
        styles.append({**(thick or _keywords(entry.role, None)), **IN_LEGEND.get(entry.role, {})})
    handles = [Line2D([], [], **own) for own in styles]
    drawn.set_size_inches(width, 10)
    for rows in range(1, count + 1):
        made = drawn.legend(
            handles,
            [mathtext(entry.label) for entry in legend.entries],
            title=legend.heading or None,
            loc="lower center",
            ncols=-(-count // rows),
        )
        box = made.get_window_extent()
        if rows == count or box.width <= 0.97 * drawn.bbox.width:
            break
        made.remove()
    return max(width, box.width / drawn.dpi / 0.97), box.height / drawn.dpi + 0.12


def mathtext(label: Label) -> str:
    """A text with bold pieces where mathtext can set them."""
    return "".join(
        rf"$\mathbf{{{text}}}$" if bold and text.isascii() and text.isalnum() else escaped(text)
        for text, bold in label
    )


def escaped(text: str) -> str:
    """A text without a meaning for mathtext."""
    return text.replace("$", r"\$")
