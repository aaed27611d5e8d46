"""What a chart shows, apart from how it is drawn: the page's script draws it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.errors import visible
from lightning_unlearn.report.formatting import short_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Axes are shared where the values of no panel span less than this share of those of another.
READABLE = 1 / 5
DIGITS = 5
# A logarithmic axis goes so many times below its lowest curve for the sake of a band.
BELOW = 4


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        keys: the toggles that must all be on for it to be shown.
        name: in words, for those who point at it.
        short: the same in a few letters.
        color: place in the palette; None for grey.
        dash: place in the list of line styles.
        y: its values; what is not finite is a gap.
        x: where they are, unless at the steps of the chart.
        low: lower ends of its band.
        high: upper ends.
        role: "line", "thin" for one of many, "fit" for a fitted one, "trail" for one on a plane.
        best: place of the value that is marked.
        note: what else there is to say of it.
    """

    keys: Sequence[str]
    name: str
    short: str
    color: int | None
    dash: int
    y: ArrayLike
    x: ArrayLike | None = None
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    role: str = "line"
    best: int | None = None
    note: str = ""

    def values(self) -> dict[str, Any]:
        """It for the page's script."""
        found: dict[str, Any] = {
            "keys": list(self.keys),
            "name": visible(self.name),
            "short": visible(self.short),
            "color": self.color,
            "dash": self.dash,
            "role": self.role,
            "y": rounded(self.y),
        }
        ends = {"x": self.x, "low": self.low, "high": self.high}
        for key, value in ends.items():
            if value is not None and np.isfinite(np.asarray(value, float)).any():
                found[key] = rounded(value)
        if self.best is not None:
            found["best"] = self.best
        if self.note:
            found["note"] = visible(self.note)
        return found


@dataclass(frozen=True)
class Level:
    """A horizontal line.

    Attributes:
        name: in words.
        y: its value.
        keys: toggles, as of `Series`.
        color: the same.
    """

    name: str
    y: float
    keys: Sequence[str] = ()
    color: int | None = None


@dataclass(frozen=True)
class Chart:
    """One pair of axes.

    Attributes:
        title: over it.
        under: a second line under the title.
        steps: of unlearning, ascending.
        xtitle: of the x axis.
        ytitle: of the y axis, with the unit.
        series: its curves.
        levels: its horizontal lines.
        band: a grey band: lower end, upper end, name.
        log: whether the y axis is logarithmic.
        share: charts of the same value share the y axis where that is readable.
        range: of the y axis, if it is set.
        told: sentences for each step, shown under the chart; none: the values of the curves.
    """

    title: str
    under: str
    steps: Sequence[int]
    ytitle: str
    series: Sequence[Series]
    levels: Sequence[Level] = ()
    xtitle: str = "unlearning step"
    band: tuple[float, float, str] | None = None
    log: bool = False
    share: str = ""
    range: tuple[float, float] | None = None
    told: Sequence[str] = field(default_factory=tuple)

    @property
    def has_values(self) -> bool:
        """Whether there is anything to draw."""
        return any(np.isfinite(np.asarray(own.y, float)).any() for own in self.series)

    def values(self) -> dict[str, Any]:
        """It for the page's script."""
        found: dict[str, Any] = {
            "title": visible(f"{self.title} {self.under}".strip()),
            "steps": list(map(int, self.steps)),
            "xtitle": visible(self.xtitle),
            "ytitle": visible(self.ytitle),
            "series": [own.values() for own in self.series],
            "levels": [
                {
                    "name": visible(own.name),
                    "y": rounded([own.y])[0],
                    "keys": list(own.keys),
                    "color": own.color,
                }
                for own in self.levels
                if math.isfinite(own.y) and (own.y > 0 or not self.log)
            ],
        }
        if self.band is not None:
            low, high, name = self.band
            found["band"] = [*rounded([low, high]), visible(name)]
        if self.range is not None:
            found["range"] = rounded(self.range)
        if self.told:
            found["told"] = [visible(text) for text in self.told]
        if self.log:
            found["log"] = True
        return found

    def thinned(self, every: int) -> Chart:
        """It with each so-manieth step, and always the first and the last."""
        last = len(self.steps) - 1
        kept = [place for place in range(last + 1) if place % every == 0 or place == last]

        def part(values: ArrayLike | None) -> ArrayLike | None:
            return None if values is None else np.asarray(values, float)[kept]

        series = [
            replace(
                own,
                y=np.asarray(own.y, float)[kept],
                x=part(own.x),
                low=part(own.low),
                high=part(own.high),
                # Of the steps that are kept, the nearest to the best one.
                best=None
                if own.best is None
                else min(range(len(kept)), key=lambda n: abs(kept[n] - (own.best or 0))),
            )
            for own in self.series
        ]
        told = [self.told[place] for place in kept] if self.told else ()
        return replace(self, steps=[self.steps[n] for n in kept], series=series, told=told)

    def sentence(self) -> str:
        """What can be seen in it, for those who cannot."""
        what = f"{self.title} {self.under}".strip()
        lines = [own for own in self.series if own.role in ("line", "trail")]
        lines = lines or [own for own in self.series if own.role != "fit"]
        moves = [(own, _ends(own.y)) for own in lines]
        known = [(own, ends) for own, ends in moves if ends is not None]
        axis = f"{self.ytitle} by {self.xtitle}{', logarithmic' if self.log else ''}"
        if not known:
            return visible(f"{what}: {axis}; no values.")
        if len(known) > 8:
            last = [ends[1] for _, ends in known]
            low, high = short_number(min(last)), short_number(max(last))
            return visible(
                f"{what}: {axis}; {len(known)} curves that end between {low} and {high}."
            )
        parts = [
            f"{own.short} from {short_number(first)} to {short_number(last)}"
            for own, (first, last) in known
        ]
        return visible(f"{what}: {axis}; {'; '.join(parts)}.")


def rounded(values: ArrayLike) -> list[float | None]:
    """Numbers with as many digits as a page can show; what is not finite is None."""
    found: list[float | None] = []
    for value in np.asarray(values, dtype=float).ravel().tolist():
        found.append(float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None)
    return found


def chart_data(charts: Sequence[Chart], limit: int) -> tuple[list[dict[str, Any]], int]:
    """The charts for the page's script, with fewer steps where they would take too much room.

    Args:
        charts: all of a page.
        limit: characters of JSON.

    Returns:
        Their values, and that each so-manieth step is drawn.
    """
    every = 1
    while True:
        found = [chart.thinned(every).values() if every > 1 else chart.values() for chart in charts]
        size = len(json.dumps(found, separators=(",", ":")))
        longest = max((len(chart.steps) for chart in charts), default=0)
        if size <= limit or every >= longest:
            return found, every
        every = max(every + 1, every * size // limit)


def share_axes(charts: Sequence[Chart]) -> tuple[list[Chart], bool]:
    """Give charts that share an axis the same range, if the curves can still be read.

    Returns:
        The charts, and whether axes differ among some that should be shared.
    """
    extents = [_extent(chart) for chart in charts]
    ranges: dict[str, tuple[float, float] | None] = {}
    for share in {chart.share for chart in charts if chart.share}:
        pairs = zip(charts, extents, strict=True)
        own = [extent for chart, extent in pairs if chart.share == share and extent]
        spans = [high - low for low, high in own]
        if own and min(spans) >= READABLE * max(spans):
            ranges[share] = _with_room(min(low for low, _ in own), max(high for _, high in own))
        else:
            ranges[share] = None
    shared = [
        replace(chart, range=ranges.get(chart.share) or _own_range(chart, extent))
        for chart, extent in zip(charts, extents, strict=True)
    ]
    counts = [sum(other.share == share for other in charts) for share in ranges]
    alone = zip(ranges.values(), counts, strict=True)
    return shared, any(found is None and count > 1 for found, count in alone)


def _with_room(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.05
    return low - room, high + room


def _own_range(chart: Chart, extent: tuple[float, float] | None) -> tuple[float, float] | None:
    """The range of a logarithmic axis of its own; others are left to the script."""
    return _with_room(*extent) if chart.log and extent else None


def _extent(chart: Chart) -> tuple[float, float] | None:
    """The lowest and the highest value shown; of their logarithms, to base 10, where it is log."""
    every = [part for own in chart.series for part in (own.y, own.low, own.high)]
    parts: list[NDArray[np.float64]] = [
        np.asarray(part, float).ravel() for part in every if part is not None
    ]
    parts += [np.array([own.y]) for own in chart.levels]
    values = np.concatenate(parts) if parts else np.array([])
    values = values[np.isfinite(values)]
    if chart.log:
        # The end of a band that comes near to 0 would leave no room for the curves.
        curves = np.concatenate([np.asarray(own.y, float).ravel() for own in chart.series])
        least = curves[np.isfinite(curves) & (curves > 0)].min(initial=np.inf)
        values = np.log10(values[values >= least / BELOW])
    return (float(values.min()), float(values.max())) if values.size else None


def _ends(values: ArrayLike) -> tuple[float, float] | None:
    known = np.asarray(values, float).ravel()
    known = known[np.isfinite(known)]
    return (float(known[0]), float(known[-1])) if known.size else None
