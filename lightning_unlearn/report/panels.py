"""Panels side by side, on axes that can be compared where they can be shared."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.drawn import Curve, Part, Words, span_of
from lightning_unlearn.report.looks import folded_setting
from lightning_unlearn.report.ticks import draw_grid, label_x, label_y, places_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

READABLE = 1 / 5
FLAT = 0.05
# As much of a decade as a logarithmic axis shows at least.
LEAST_DECADES = 0.5
STEPS = "unlearning step"


@dataclass(frozen=True, eq=False)
class Panel:
    """What one pair of axes shows.

    Attributes:
        parts: in the order in which they are drawn.
        title: over it; "" for none.
        setting: under the title, in smaller letters; "" for none.
        ylabel: beside it if it is the leftmost of its row, or of those that share its y axis.
        share: panels of the same value share the y axis where that is readable.
        xlabel: under it if it is the lowest of its column.
        log: whether the y axis is logarithmic.
        own_x: whether its x axis has limits of its own instead of those of all panels.
    """

    parts: Sequence[Part]
    title: str
    setting: str
    ylabel: str
    share: Hashable = None
    xlabel: str = STEPS
    log: bool = False
    own_x: bool = False


Grid = Sequence[Sequence[Panel | None]]
Axis = dict[tuple[int, int], tuple["Axes", Panel]]


def wrapped(panels: Sequence[Panel | None], columns: int) -> Grid:
    """Panels in rows of `columns`."""
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def size_of(grid: Grid, height: float) -> tuple[float, float]:
    """Width and height in inches of each panel of a grid."""
    return {1: 5.3, 2: 3.9, 3: 3.15}.get(max(map(len, grid)), 2.45), height


def draw(grid: Grid, height: float) -> tuple[Figure, Axis, bool]:
    """Draw panels, all over each other; `lightning_unlearn.report.frame.frame` puts them in place.

    Args:
        grid: the panels row by row; None leaves a gap.
        height: of one panel in inches.

    Returns:
        The figure, with the Agg canvas and apart from pyplot; its axes and their panels by row and
        column; and whether y axes differ among panels that should share one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size_of(grid, height)
    figure = Figure(figsize=(2 * width, 2 * height))
    FigureCanvasAgg(figure)
    axes: Axis = {}
    for row, panels in enumerate(grid):
        for column, panel in enumerate(panels):
            if panel is not None:
                # Their size is final: neither ticks nor labels change when they are moved.
                axis = figure.add_axes((0.25, 0.25, 0.5, 0.5), label=f"{row}, {column}")
                axes[row, column] = (axis, panel)
    for axis, panel in axes.values():
        if panel.log:
            axis.set_yscale("log")
        for part in panel.parts:
            part.draw(axis)
        _titles(axis, panel, width)
    differ = _limits(axes)
    _x_limits(axes)
    for (row, column), (axis, panel) in axes.items():
        left, under = axes.get((row, column - 1)), axes.get((row + 1, column))
        first = left is None or left[1].share != panel.share
        own = first or left is None or left[0].get_ylim() != axis.get_ylim()
        (left_end, right_end), (low, high) = axis.get_xlim(), axis.get_ylim()
        xs = places_of(left_end, right_end, whole=not panel.own_x)
        ys = places_of(low, high, panel.log)
        draw_grid(axis, xs, ys)
        if under is None or panel.own_x:
            label_x(axis, xs, _x_label(panel, width) if under is None else "")
        if own:
            label_y(axis, ys, panel.ylabel if first else "", panel.log)
        _end_labels(axis, panel, height)
    return figure, axes, differ


def _x_label(panel: Panel, width: float) -> str:
    return f"{STEPS} (optimizer updates)" if panel.xlabel == STEPS and width > 3 else panel.xlabel


def _titles(axis: Axes, panel: Panel, width: float) -> None:
    """Title and setting over a panel of `width` inches."""
    lines = panel.setting.split("\n")
    setting = "\n".join(folded_setting(line, int(width * 14)) for line in lines if line)
    if panel.title:
        axis.set_title(panel.title, y=1.0, pad=6 + 12 * len(setting.splitlines()))
    if not setting:
        return
    axis.text(
        0.5,
        1.03,
        setting,
        transform=axis.transAxes,
        color="#444444",
        fontsize=8.5,
        horizontalalignment="center",
        verticalalignment="bottom",
    )


def _x_limits(axes: Axis) -> None:
    """The x limits: those of all panels, but for panels that have their own."""
    shared = [axis for axis, panel in axes.values() if not panel.own_x]
    if shared:
        ends = [axis.dataLim.intervalx for axis in shared if np.isfinite(axis.dataLim.x0)]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        room = 0.045 * (high - low) or 0.5
        for axis in shared:
            axis.set_xlim(low - room, high + room)


def _limits(axes: Axis) -> bool:
    """Set the y limits: shared by all panels that should, else by those of a row, else by none.

    Sharing is given up where the values of one panel span less than `READABLE` of those of
    another.

    Returns:
        Whether sharing was given up anywhere.
    """
    shares: dict[Hashable, list[tuple[int, int]]] = {}
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    for place, (_, panel) in axes.items():
        span = span_of(panel.parts, panel.log)
        if span is not None:
            shares.setdefault(panel.share, []).append(place)
            spans[place] = span
    differ = False
    for places in shares.values():
        groups = [places]
        if not _readable([spans[place] for place in places]):
            differ = True
            rows = sorted({row for row, _ in places})
            groups = [[place for place in places if place[0] == row] for row in rows]
        for group in groups:
            # Room for words under the curves.
            worded = any(isinstance(part, Words) for p in group for part in axes[p][1].parts)
            below = 0.14 if worded else 0.0
            ends = [spans[place] for place in group]
            if _readable(ends):
                ends = [(min(low for low, _ in ends), max(high for _, high in ends))] * len(ends)
            for place, (low, high) in zip(group, ends, strict=True):
                axis, panel = axes[place]
                least = LEAST_DECADES if panel.log else FLAT
                room = max(0.06 * (high - low), (least - (high - low)) / 2)
                low, high = low - room, high + room
                limits = low - below * (high - low), high
                axis.set_ylim(*(10**end for end in limits) if panel.log else limits)
    return differ


def _readable(ends: Sequence[tuple[float, float]]) -> bool:
    """Whether panels whose values lie between these ends can share a y axis."""
    spans = [high - low for low, high in ends]
    return min(spans) >= READABLE * max(spans) or max(spans) <= FLAT


def _end_labels(axis: Axes, panel: Panel, height: float) -> None:
    """Name each thick curve beside its end, moved apart where ends are close."""
    curves = [p for p in panel.parts if isinstance(p, Curve) and p.look.end and len(p.band.x)]
    to_axes = (axis.transData + axis.transAxes.inverted()).transform
    ends = [
        (float(to_axes((curve.band.x[-1], curve.band.mean[-1]))[1]), curve.look) for curve in curves
    ]
    ends.sort(key=lambda end: end[0])
    places = apart([end for end, _ in ends], gap=9.5 / (72 * height))
    for place, (_, look) in zip(places, ends, strict=True):
        axis.text(
            1.015,
            place,
            look.end,
            transform=axis.transAxes,
            color=look.color,
            fontsize=8,
            fontweight="bold",
            verticalalignment="center",
        )


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


def extents(axes: Axis) -> Mapping[tuple[int, int], tuple[float, float, float, float]]:
    """How far labels reach beyond each pair of axes: left, right, below, above, in inches."""
    found = {}
    for place, (axis, _) in axes.items():
        figure = axis.get_figure(root=True)
        assert figure is not None
        own, texts = axis.bbox, [axis.title, *axis.texts]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        x0, y0 = (
            min([edge, *ends])
            for edge, ends in (
                (own.x0, [box.x0 for box in boxes]),
                (own.y0, [box.y0 for box in boxes]),
            )
        )
        x1, y1 = (
            max([edge, *ends])
            for edge, ends in (
                (own.x1, [box.x1 for box in boxes]),
                (own.y1, [box.y1 for box in boxes]),
            )
        )
        reach = own.x0 - x0, x1 - own.x1, own.y0 - y0, y1 - own.y1
        left, right, below, above = (float(pixels) / figure.dpi for pixels in reach)
        found[place] = (left, right, below, above)
    return found
