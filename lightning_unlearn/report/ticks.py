"""Grid lines, ticks and labels of a panel, drawn once.

matplotlib's own ticks are five objects each, laid out anew at every measuring and drawing: with a
hundred panels they take most of the time of a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

GRID: dict[str, Any] = {"colors": "#E4E4E4", "linewidths": 0.8, "zorder": 0.6}
MARKS: dict[str, Any] = {"colors": "#555555", "linewidths": 0.8, "clip_on": False, "zorder": 2.6}
TEXT = "#222222"
# Points: of a tick, of a label's distance from it, of an axis label's distance from that.
LENGTH, PAD, LABEL_PAD = 3.0, 3.5, 4.0


def draw_grid(axis: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Grid lines at these places, under everything."""
    from matplotlib.collections import LineCollection

    across = [[(x, 0.0), (x, 1.0)] for x in xs]
    up = [[(0.0, y), (1.0, y)] for y in ys]
    for lines, transform in (
        (across, axis.get_xaxis_transform()),
        (up, axis.get_yaxis_transform()),
    ):
        axis.add_collection(LineCollection(lines, transform=transform, **GRID), autolim=False)
    axis.xaxis.set_visible(False)
    axis.yaxis.set_visible(False)


def label_x(axis: Axes, xs: Sequence[float], label: str) -> None:
    """Ticks with their numbers under the axis, and `label` under these; "" for none."""
    move = _mover(axis)
    transform = axis.get_xaxis_transform()
    _marks(axis, [[(x, 0.0), (x, -LENGTH / 72)] for x in xs], upright=True)
    for x, text in zip(xs, written(xs), strict=True):
        own = transform + move(0, -LENGTH - PAD)
        axis.text(x, 0, text, transform=own, color=TEXT, ha="center", va="top")
    if label:
        down = LENGTH + PAD + LABEL_PAD + _size() * 1.05
        axis.text(0.5, 0, label, transform=axis.transAxes + move(0, -down), ha="center", va="top")


def label_y(axis: Axes, ys: Sequence[float], label: str, log: bool = False) -> None:
    """Ticks with their numbers beside the axis, and `label` beside these; "" for none."""
    move = _mover(axis)
    transform = axis.get_yaxis_transform()
    _marks(axis, [[(0.0, y), (-LENGTH / 72, y)] for y in ys], upright=False)
    names = [f"{y:g}" for y in ys] if log else written(ys)
    own = transform + move(-LENGTH - PAD, 0)
    texts = [
        axis.text(0, y, text, transform=own, color=TEXT, ha="right", va="center_baseline")
        for y, text in zip(ys, names, strict=True)
    ]
    if label:
        figure = axis.get_figure(root=True)
        assert figure is not None
        wide = max((text.get_window_extent().width for text in texts), default=0.0)
        left = LENGTH + PAD + LABEL_PAD + wide * 72 / figure.dpi
        axis.text(
            0,
            0.5,
            label,
            transform=axis.transAxes + move(-left, 0),
            rotation=90,
            ha="right",
            va="center",
            multialignment="center",
        )


def places_of(low: float, high: float, log: bool = False, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, at most seven, for ticks.

    Args:
        low: where the axis begins.
        high: where it ends.
        log: whether the axis is logarithmic.
        whole: whether only whole numbers will do.
    """
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


def _mover(axis: Axes) -> Callable[[float, float], Transform]:
    """Moves by points."""
    from matplotlib.transforms import ScaledTranslation

    figure = axis.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi_scale_trans
    return lambda across, up: ScaledTranslation(across / 72, up / 72, scale)


def _marks(axis: Axes, lines: list[list[tuple[float, float]]], upright: bool) -> None:
    """Ticks; along the axis in its own unit, away from it in inches."""
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import blended_transform_factory

    figure = axis.get_figure(root=True)
    assert figure is not None
    corner = _corner(axis)
    away = figure.dpi_scale_trans + corner
    parts = (axis.transData, away) if upright else (away, axis.transData)
    transform = blended_transform_factory(*parts)
    axis.add_collection(LineCollection(lines, transform=transform, **MARKS), autolim=False)


def _corner(axis: Axes) -> Transform:
    """Moves to the lower left corner of the axes, wherever they are put."""
    from matplotlib.transforms import ScaledTranslation

    whole: Any = axis.transAxes
    return ScaledTranslation(0, 0, whole)


def _size() -> float:
    import matplotlib

    return float(matplotlib.rcParams["font.size"])
