"""Panels of curves side by side, on y axes that can be compared where they can be shared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_unlearn.report.looks import Looks, folded_setting

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

READABLE = 1 / 5
FLAT = 0.05
GREY = "#444444"


@dataclass(frozen=True)
class Panel:
    """The curves of one pair of axes.

    Attributes:
        data: the rows to draw, all of one method and setting.
        title: over it; "" for none.
        setting: under the title, in smaller letters; "" for none.
        ylabel: beside it if it is the leftmost of its row, or of those that share its y axis.
        share: panels of the same value share the y axis where that is readable.
        oracles: values of the oracle, by the key of the curve in `Looks.by`.
    """

    data: pd.DataFrame
    title: str
    setting: str
    ylabel: str
    share: Hashable = None
    oracles: Mapping[tuple[Hashable, ...], float] = field(default_factory=dict)


Grid = Sequence[Sequence[Panel | None]]


def wrapped(panels: Sequence[Panel | None], columns: int) -> Grid:
    """Panels in rows of `columns`."""
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def draw(grid: Grid, looks: Looks, height: float, one_oracle: bool) -> tuple[Figure, bool]:
    """Draw panels.

    Args:
        grid: the panels row by row; None leaves a gap.
        looks: of the curves.
        height: of one panel in inches.
        one_oracle: whether the oracles of a panel are one line.

    Returns:
        The figure, with the Agg canvas and apart from pyplot, and whether y axes differ among
        panels that should share one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(grid), max(map(len, grid))
    each = 3.7 if columns < 4 else 2.9
    width = {1: 6.4, 2: 9.2}.get(columns, 0.9 + each * columns)
    figure = Figure(figsize=(width, 0.9 + (height + 0.25) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(rows, columns, sharex=True, squeeze=False)
    axes: dict[tuple[int, int], tuple[Axes, Panel]] = {}
    for row in range(rows):
        for column in range(columns):
            panel = grid[row][column] if column < len(grid[row]) else None
            if panel is None:
                every[row, column].remove()
            else:
                axes[row, column] = (every[row, column], panel)
    for axis, panel in axes.values():
        _curves(axis, panel, looks)
        _oracle_lines(axis, panel, looks, one_oracle)
        _titles(axis, panel, each)
    differ = _limits(axes)
    for (row, column), (axis, panel) in axes.items():
        left = axes.get((row, column - 1))
        first = left is None or left[1].share != panel.share
        own = first or left is None or left[0].get_ylim() != axis.get_ylim()
        bottom = (row + 1, column) not in axes
        axis.tick_params(axis="x", labelbottom=bottom, length=3 if bottom else 0)
        axis.tick_params(axis="y", labelleft=own, length=3 if own else 0)
        if bottom:
            axis.set_xlabel(
                "unlearning step (optimizer updates)" if each > 3 else "unlearning step"
            )
        if first:
            axis.set_ylabel(panel.ylabel)
        _end_labels(axis, panel.data, looks, height)
    return figure, differ


def _titles(axis: Axes, panel: Panel, width: float) -> None:
    """Title and setting over a panel of `width` inches."""
    setting = folded_setting(panel.setting, int(width * 11))
    if panel.title:
        axis.set_title(panel.title, pad=6 + 12 * len(setting.splitlines()))
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


def _curves(axis: Axes, panel: Panel, looks: Looks) -> None:
    from matplotlib.ticker import MaxNLocator

    for key, look in looks.look.items():
        mine = _rows(panel.data, looks.groups, key)
        if looks.grouped:
            for _, curve in mine.groupby(looks.by, sort=False):
                means = curve.groupby("step")["value"].mean()
                axis.plot(means.index, means, color=look.colour, linewidth=0.7, alpha=0.55)
        means = _means(mine, looks)
        if not looks.grouped and mine["seed"].nunique() > 1:
            ends = mine.groupby("step")["value"].agg(["min", "max"])
            axis.fill_between(
                ends.index, ends["min"], ends["max"], color=look.colour, alpha=0.2, linewidth=0
            )
        if len(means):
            # Thick lines over all thin ones.
            axis.plot(means.index, means, **look.line(len(means)), zorder=2.5)
    axis.xaxis.set_major_locator(
        MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _rows(data: pd.DataFrame, names: Sequence[str], key: Sequence[Hashable]) -> pd.DataFrame:
    for name, value in zip(names, key, strict=True):
        data = data[data[name] == value]
    return data


def _means(rows: pd.DataFrame, looks: Looks) -> pd.Series:
    """By step: the mean over seeds, then over the curves of the look."""
    return rows.groupby([*looks.by, "step"])["value"].mean().groupby("step").mean()


def _oracle_lines(axis: Axes, panel: Panel, looks: Looks, one: bool) -> None:
    """Dashed lines at the oracles' values: one in grey, or one for each look."""
    for group, value in oracle_means(panel, looks).items():
        if one:
            axis.axhline(value, **oracle_line())
            return
        axis.axhline(value, **oracle_line(looks.look[group].colour))


def oracle_means(panel: Panel, looks: Looks) -> dict[tuple[Hashable, ...], float]:
    """The mean of the oracles of all curves that look alike, by look."""
    places = [looks.by.index(name) for name in looks.groups]
    values: dict[tuple[Hashable, ...], list[float]] = {}
    for key, value in panel.oracles.items():
        values.setdefault(tuple(key[place] for place in places), []).append(value)
    return {group: sum(found) / len(found) for group, found in values.items()}


def oracle_line(colour: str = GREY) -> dict[str, Any]:
    """Keywords of the line of an oracle; under the curves, so that none is hidden."""
    return {"color": colour, "linewidth": 1.4, "linestyle": (0, (4, 2.5)), "zorder": 1.9}


def _limits(axes: Mapping[tuple[int, int], tuple[Axes, Panel]]) -> bool:
    """Set the y limits: shared by all panels that should, else by those of a row, else by none.

    Sharing is given up where the values of one panel span less than `READABLE` of those of
    another.

    Returns:
        Whether sharing was given up anywhere.
    """
    shares: dict[Hashable, list[tuple[int, int]]] = {}
    for place, (_, panel) in axes.items():
        shares.setdefault(panel.share, []).append(place)
    differ = False
    for places in shares.values():
        groups = [places]
        if not _readable([_ends(axes[place][1]) for place in places]):
            differ = True
            rows = sorted({row for row, _ in places})
            groups = [[place for place in places if place[0] == row] for row in rows]
        for group in groups:
            ends = [_ends(axes[place][1]) for place in group]
            if _readable(ends):
                ends = [(min(low for low, _ in ends), max(high for _, high in ends))] * len(ends)
            for place, (low, high) in zip(group, ends, strict=True):
                room = max(0.06 * (high - low), (FLAT - (high - low)) / 2)
                axes[place][0].set_ylim(low - room, high + room)
    return differ


def _ends(panel: Panel) -> tuple[float, float]:
    """The lowest and the highest value of a panel."""
    values = [*panel.data["value"].agg(["min", "max"]), *panel.oracles.values()]
    known = [float(value) for value in values if math.isfinite(value)]
    return min(known), max(known)


def _readable(ends: Sequence[tuple[float, float]]) -> bool:
    """Whether panels whose values lie between these ends can share a y axis."""
    spans = [high - low for low, high in ends]
    return min(spans) >= READABLE * max(spans) or max(spans) <= FLAT


def _end_labels(axis: Axes, data: pd.DataFrame, looks: Looks, height: float) -> None:
    """Name each thick curve beside its end, moved apart where ends are close."""
    low, high = axis.get_ylim()
    ends = []
    for key, look in looks.look.items():
        means = _means(_rows(data, looks.groups, key), looks)
        if len(means):
            ends.append(((float(means.iloc[-1]) - low) / (high - low), look))
    ends.sort(key=lambda end: end[0])
    places = apart([end for end, _ in ends], gap=9.5 / (72 * height))
    for place, (_, look) in zip(places, ends, strict=True):
        axis.text(
            1.015,
            place,
            look.end,
            transform=axis.transAxes,
            color=look.colour,
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
