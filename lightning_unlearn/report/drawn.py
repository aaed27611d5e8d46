"""What a panel shows: plain values that know how to draw themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lightning_unlearn.report.curves import Band
from lightning_unlearn.report.looks import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

GREY = "#444444"
NOTHING = np.empty(0)


class Part(Protocol):
    """Something that can be drawn."""

    def draw(self, axis: Axes) -> None:
        """Draw it."""

    def reach(self) -> NDArray[np.float64]:
        """The y values that the axis has to show."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A thick curve with its band, named beside its end.

    Attributes:
        band: its values.
        look: its color, marker and name.
        shade: how opaque the band is.
    """

    band: Band
    look: Look
    shade: float = 0.18

    def draw(self, axis: Axes) -> None:
        band, look = self.band, self.look
        if np.isfinite(band.low).any():
            axis.fill_between(
                band.x, band.low, band.high, color=look.color, alpha=self.shade, linewidth=0
            )
        # Thick lines over all thin ones.
        axis.plot(band.x, band.mean, **look.line(len(band.x)), zorder=2.5)

    def reach(self) -> NDArray[np.float64]:
        return self.band.mean


@dataclass(frozen=True, eq=False)
class Thin:
    """A thin curve, one of many.

    Attributes:
        x: along the axis.
        y: up the axis.
        style: keywords of the line.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    style: Mapping[str, Any]

    def draw(self, axis: Axes) -> None:
        axis.plot(self.x, self.y, **{"linewidth": 0.7, "alpha": 0.55, **self.style})

    def reach(self) -> NDArray[np.float64]:
        return self.y


@dataclass(frozen=True)
class Level:
    """A horizontal line, under the curves so that none is hidden.

    Attributes:
        value: where.
        style: keywords of the line.
    """

    value: float
    style: Mapping[str, Any]

    def draw(self, axis: Axes) -> None:
        axis.axhline(self.value, **self.style)

    def reach(self) -> NDArray[np.float64]:
        return np.array([self.value])


@dataclass(frozen=True)
class Zone:
    """A shaded strip across the panel.

    Attributes:
        low: where it begins.
        high: where it ends.
        upright: whether it lies between two places of the x axis.
        style: keywords of the patch.
    """

    low: float
    high: float
    upright: bool = False
    style: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, axis: Axes) -> None:
        style = {"color": "#888888", "alpha": 0.16, "linewidth": 0, "zorder": 0.5, **self.style}
        (axis.axvspan if self.upright else axis.axhspan)(self.low, self.high, **style)

    def reach(self) -> NDArray[np.float64]:
        return NOTHING if self.upright else np.array([self.low, self.high])


@dataclass(frozen=True, eq=False)
class Spots:
    """Points that stand out.

    Attributes:
        x: along the axis.
        y: up the axis.
        style: keywords of the markers.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    style: Mapping[str, Any]

    def draw(self, axis: Axes) -> None:
        axis.plot(self.x, self.y, **{"linestyle": "none", **self.style})

    def reach(self) -> NDArray[np.float64]:
        return self.y


@dataclass(frozen=True)
class Cross:
    """The 95 % interval of a point along and up the axis.

    Attributes:
        x: of the point.
        y: of the point.
        across: half the interval of x; NaN for none.
        up: half the interval of y; likewise.
        color: of the bars.
    """

    x: float
    y: float
    across: float
    up: float
    color: str

    def draw(self, axis: Axes) -> None:
        style: Any = {"color": self.color, "linewidth": 1.4, "alpha": 0.55, "zorder": 2.2}
        axis.plot([self.x - self.across, self.x + self.across], [self.y, self.y], **style)
        axis.plot([self.x, self.x], [self.y - self.up, self.y + self.up], **style)

    def reach(self) -> NDArray[np.float64]:
        return np.array([self.y - self.up, self.y, self.y + self.up])


@dataclass(frozen=True)
class Words:
    """A few words in the lower left corner of the panel, under the curves.

    Attributes:
        text: what they say.
    """

    text: str

    def draw(self, axis: Axes) -> None:
        axis.text(
            0.03,
            0.04,
            self.text,
            transform=axis.transAxes,
            verticalalignment="bottom",
            fontsize=8.5,
            color="#222222",
            zorder=4,
        )

    def reach(self) -> NDArray[np.float64]:
        return NOTHING


def span_of(parts: Sequence[Part], log: bool = False) -> tuple[float, float] | None:
    """The lowest and the highest y value, with as much of the bands as does not dwarf the curves.

    The band of two seeds is a dozen times as wide as their spread: it may take a quarter of the
    curves' span above and below them, and the axis cuts the rest.

    Args:
        parts: of one panel.
        log: whether the axis is logarithmic; ends are decimal logarithms then, of positive values.

    Returns:
        None where there is no finite value.
    """
    values = _shown([part.reach() for part in parts], log)
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 4
    bands = [part.band for part in parts if isinstance(part, Curve)]
    ends = _shown([end for band in bands for end in (band.low, band.high)], log)
    if ends.size:
        least, most = float(ends.min()), float(ends.max())
        low, high = max(min(low, least), low - room), min(max(high, most), high + room)
    return low, high


def _shown(values: Sequence[NDArray[np.float64]], log: bool) -> NDArray[np.float64]:
    found = np.concatenate([NOTHING, *values])
    found = found[np.isfinite(found)]
    return np.asarray(np.log10(found[found > 0]) if log else found, np.float64)
