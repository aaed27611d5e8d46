"""What a figure shows, as plain values: matplotlib draws files from them, plotly the page."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lightning_unlearn.analysis.curves import Band, Floats
from lightning_unlearn.report.figures.style import CurveStyle, Label
from lightning_unlearn.report.formatting import short_number

STEPS = "unlearning step"
NOTHING = np.empty(0)
# Panels share the y axis unless the values of one span less than this share of another's.
READABLE = 1 / 5
# Nats, and decades of a logarithmic axis, that an axis spans at least.
FLAT, LEAST_DECADES = 0.05, 0.5
LEVELS = ("oracle", "target", "floor", "kept")
POINTS = ("best", "crossing", "end", "small end")
# A sentence names so many curves of a panel one by one.
MOST_CURVES = 8


@dataclass(frozen=True, eq=False)
class Mark:
    """A curve, points, a horizontal line or a shaded strip.

    Attributes:
        x: places on the x axis; none for horizontal lines and strips across the panel.
        y: places on the y axis: the height of a horizontal line, both ends of a strip.
        role: what it stands for, and so how it is drawn. Curves are "line", thick and named beside
            its end, and the thin ones: "path", "pair" or "example" for one of many; "trail" or
            "thin trail" for a path on the plane of two scores; "fit" for a fitted exponential;
            "seeds" for the mean of pairs of seeds. `LEVELS` are horizontal lines under the curves:
            the oracle, that of each example, the distance between oracles, full utility. `POINTS`
            stand out: the best step of a path, where an example reaches its target, the last point
            of a trail. "strip" is shaded across the panel, "range" between two places of the x
            axis.
        name: in full.
        style: color, marker and short name; None for grey, or for what belongs to all curves.
        low: lower end of the band of a "line" at each place.
        high: upper end.
        shade: opacity of the band in a picture.
        at: the step of each value of a curve, where x is something else; None: x.
        error: of points, half the 95 % intervals of x and of y; None for no bars.
    """

    x: Floats
    y: Floats
    role: str
    name: str
    style: CurveStyle | None = None
    low: Floats = field(default_factory=lambda: NOTHING)
    high: Floats = field(default_factory=lambda: NOTHING)
    shade: float = 0.0
    at: Floats | None = None
    error: tuple[float, float] | None = None

    @property
    def is_curve(self) -> bool:
        """Whether it is a curve."""
        return self.role not in (*LEVELS, *POINTS, "strip", "range")

    @property
    def steps(self) -> Floats:
        """The steps of a curve's values; none for a fit, whose ends may lie between steps."""
        return NOTHING if self.role == "fit" else self.x if self.at is None else self.at

    @property
    def heights(self) -> Floats:
        """The y values, with the ends of error bars, that the axis has to show."""
        across = self.error[1] if self.error else 0.0
        return np.concatenate([self.y - across, self.y + across])


def thick_line(band: Band, style: CurveStyle, name: str, shade: float = 0.18) -> Mark:
    """A thick curve over the steps with its band."""
    return Mark(band.x, band.mean, "line", name, style, band.low, band.high, shade)


def level(y: float, role: str, name: str, style: CurveStyle | None = None) -> Mark:
    """A horizontal line."""
    return Mark(NOTHING, np.array([y]), role, name, style)


@dataclass(frozen=True, eq=False)
class Panel:
    """What one pair of axes shows.

    Attributes:
        marks: in the order in which they are drawn.
        title: over it.
        setting: under the title, in smaller letters; "" for none.
        ylabel: of the y axis, with the unit.
        share: panels of the same value share the y axis where that is readable.
        xlabel: of the x axis; panels over `STEPS` share their x axis.
        log: whether the y axis is logarithmic.
        group: heading over the panels of the page that belong together.
        note: a few words in the lower left corner of a picture.
        row: before the y label in a picture, where rows have names; "" for nothing.
        readout: a sentence for steps, shown by the page; none: the values of the curves.
    """

    marks: Sequence[Mark]
    title: str
    setting: str
    ylabel: str
    share: Hashable = None
    xlabel: str = STEPS
    log: bool = False
    group: str = ""
    note: str = ""
    row: str = ""
    readout: Mapping[int, str] = field(default_factory=dict)

    @property
    def curves(self) -> list[Mark]:
        """The marks that are curves."""
        return [mark for mark in self.marks if mark.is_curve]

    @property
    def steps(self) -> list[int]:
        """The steps at which a curve has a value, ascending."""
        every = [curve.steps for curve in self.curves]
        return [int(step) for step in np.unique(np.concatenate([NOTHING, *every]))]

    @property
    def heading(self) -> str:
        """Title and setting on one line."""
        return one_line(f"{self.title} {self.setting}")

    def describe(self) -> str:
        """A sentence on the curves and notes, for readers who cannot see them."""
        axis = f"{one_line(self.ylabel)} by {self.xlabel}{', logarithmic' if self.log else ''}"
        every = [curve for curve in self.curves if np.isfinite(curve.y).any()]
        main = [curve for curve in every if curve.role in ("line", "trail", "thin trail")]
        known = main or [curve for curve in every if curve.role != "fit"]
        ends = [curve.y[np.isfinite(curve.y)][[0, -1]].tolist() for curve in known]
        clauses = []
        if not known:
            clauses.append("no values")
        elif len(known) > MOST_CURVES:
            low, high = (short_number(end([last for _, last in ends])) for end in (min, max))
            clauses.append(f"{len(known)} curves that end between {low} and {high}")
        else:
            for curve, (first, last) in zip(known, ends, strict=True):
                name = curve.style.short if curve.style else curve.name
                clauses.append(f"{name} from {short_number(first)} to {short_number(last)}")
        for mark in self.marks:
            if mark.role == "best" and len(mark.x):
                clauses.append(f"{mark.name} at {mark.x[0]:g}")
        return f"{self.heading}: {axis}; {'; '.join(filter(None, [*clauses, self.note]))}."


Grid = Sequence[Sequence[Panel | None]]


@dataclass(frozen=True)
class Entry:
    """A line of the legend.

    Attributes:
        role: of the mark that it explains; "line" for a thick curve, "strip" for a span.
        label: what it says.
        style: of the mark; None for grey.
    """

    role: str
    label: Label
    style: CurveStyle | None = None


@dataclass(frozen=True)
class Legend:
    """The legend of a figure.

    Attributes:
        heading: over it; "" for none.
        entries: its lines.
    """

    heading: str
    entries: Sequence[Entry]


@dataclass(frozen=True, eq=False)
class Figure:
    """Panels in a grid.

    Attributes:
        title: of the picture; "" for none.
        notes: how to read the curves, in words.
        grid: panels row by row; None leaves a gap.
        legend: under the panels.
        height: of a panel of the picture, in inches; 0 for one by the number of rows.
    """

    title: str
    notes: Sequence[str]
    grid: Grid
    legend: Legend
    height: float = 0.0

    @cached_property
    def panels(self) -> list[Panel]:
        """The panels row by row, without gaps."""
        return [panel for row in self.grid for panel in row if panel]


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())


def y_limits(
    grid: Iterable[Sequence[Panel | None]],
) -> tuple[dict[Panel, tuple[float, float]], bool]:
    """The ends of the y axes: shared by all panels that should, else by a row's, else by none.

    Sharing is given up where the values of one panel span less than `READABLE` of another's.

    Returns:
        The ends for each panel with a finite value, and whether sharing was given up anywhere.
    """
    shares: dict[Hashable, list[tuple[int, Panel]]] = {}
    spans: dict[Panel, tuple[float, float]] = {}
    for row, panels in enumerate(grid):
        for panel in filter(None, panels):
            span = y_span(panel)
            if span is not None:
                shares.setdefault(panel.share, []).append((row, panel))
                spans[panel] = span
    limits: dict[Panel, tuple[float, float]] = {}
    differ = False
    for members in shares.values():
        groups = [[panel for _, panel in members]]
        if not _readable([spans[panel] for panel in groups[0]]):
            differ = True
            rows = sorted({row for row, _ in members})
            groups = [[panel for row, panel in members if row == own] for own in rows]
        for group in groups:
            ends = [spans[panel] for panel in group]
            if _readable(ends):
                ends = [(min(low for low, _ in ends), max(high for _, high in ends))] * len(ends)
            noted = any(panel.note for panel in group)
            for panel, (low, high) in zip(group, ends, strict=True):
                limits[panel] = _with_room(low, high, panel.log, noted)
    return limits, differ


def y_span(panel: Panel) -> tuple[float, float] | None:
    """The lowest and the highest y value, with as much of the bands as does not dwarf the curves.

    The band of two seeds is a dozen times as wide as their spread: it may take a quarter of the
    curves' span above and below them, and the axis cuts the rest.

    Returns:
        Decimal logarithms, of positive values, where the axis is logarithmic; None where there is
        no finite value.
    """
    values = _finite([mark.heights for mark in panel.marks], panel.log)
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 4
    ends = _finite([end for mark in panel.marks for end in (mark.low, mark.high)], panel.log)
    if ends.size:
        least, most = float(ends.min()), float(ends.max())
        low, high = max(min(low, least), low - room), min(max(high, most), high + room)
    return low, high


def _finite(values: Sequence[Floats], log: bool) -> Floats:
    found = np.concatenate([NOTHING, *values])
    found = found[np.isfinite(found)]
    return np.asarray(np.log10(found[found > 0]) if log else found, np.float64)


def _readable(ends: Sequence[tuple[float, float]]) -> bool:
    """Whether panels whose values lie between these ends can share a y axis."""
    spans = [high - low for low, high in ends]
    return min(spans) >= READABLE * max(spans) or max(spans) <= FLAT


def _with_room(low: float, high: float, log: bool, noted: bool) -> tuple[float, float]:
    """The ends of an axis around values; with room for words under the curves where needed."""
    room = max(0.06 * (high - low), ((LEAST_DECADES if log else FLAT) - (high - low)) / 2)
    low, high = low - room, high + room
    low -= 0.14 * (high - low) * noted
    return (10**low, 10**high) if log else (low, high)
