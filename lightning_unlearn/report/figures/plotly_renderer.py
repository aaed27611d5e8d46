"""Panels as values for the script of the page, which draws them with plotly."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.analysis.curves import Floats
from lightning_unlearn.errors import visible
from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.style import DARK_PALETTE, PALETTE, CurveStyle

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DIGITS = 5
# How the page draws curves: as thick ones, as one of many, on a plane, or as a fit.
ROLES = {
    "line": "line",
    **dict.fromkeys(("path", "pair", "example"), "thin"),
    **{"trail": "trail", "thin trail": "trail", "fit": "fit", "seeds": "line"},
}
# Line styles of grey curves, as places in `DASHES`.
GREY_DASHES = {"fit": 2, "seeds": 3}


def chart_data(panels: Sequence[spec.Panel], most: int) -> tuple[list[dict[str, Any]], int, bool]:
    """The panels for the page's script, with fewer steps where they would take too much room.

    Args:
        panels: all of a page.
        most: characters of JSON.

    Returns:
        Their values; n, where every n-th step is drawn; and whether y axes differ among panels
        that should share one.
    """
    limits, differ = spec.y_limits([[panel] for panel in panels])
    longest = max((len(panel.steps) for panel in panels), default=0)
    every = 1
    while True:
        found = [chart_of(panel, limits.get(panel), every) for panel in panels]
        size = len(json.dumps(found, separators=(",", ":")))
        if size <= most or every >= longest:
            return found, every, differ
        every = max(every + 1, every * size // most)


def chart_of(
    panel: spec.Panel, limits: tuple[float, float] | None, every: int = 1
) -> dict[str, Any]:
    """A panel for the page's script, with every n-th step, and always the first and the last.

    `limits` are the ends of its y axis; None leaves them to plotly.
    """
    steps = panel.steps
    steps = [*steps[:-1:every], *steps[-1:]]
    found: dict[str, Any] = {
        "title": visible(panel.heading),
        "steps": steps,
        "xtitle": visible(panel.xlabel),
        "ytitle": visible(panel.ylabel, lines=True),
        "plane": panel.xlabel != spec.STEPS,
        "log": panel.log,
        **{kind: [] for kind in ("series", "levels", "spans", "points")},
    }
    for mark in panel.marks:
        kind, values = _mark(mark, steps)
        if kind and (kind != "levels" or not panel.log or values["y"] > 0):
            found[kind].append(values)
    if limits is not None:
        found["range"] = rounded(np.log10(limits) if panel.log else limits)
    if panel.readout:
        found["readout"] = [visible(panel.readout.get(step, "")) for step in steps]
    return found


def _mark(mark: spec.Mark, steps: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """The list a mark belongs to, and its values; "" for the end of a trail without an interval.

    There the page has its own mark, of the step that a reader chooses.
    """
    if mark.is_curve:
        role = ROLES[mark.role]
        style = mark.style if role != "thin" else None
        values = {
            **_toggled(mark.style),
            "name": visible(mark.name),
            "short": visible(style.short if style else mark.name),
            "dash": style.dash if style else GREY_DASHES.get(mark.role, 0),
            "role": role,
            "y": rounded(mark.y) if role == "fit" else _at(mark.steps, mark.y, steps),
        }
        if role in ("fit", "trail"):
            values["x"] = rounded(mark.x) if role == "fit" else _at(mark.steps, mark.x, steps)
        if np.isfinite(mark.low).any():
            ends = {"low": mark.low, "high": mark.high}
            values |= {key: _at(mark.x, end, steps) for key, end in ends.items()}
        return "series", values
    if mark.role in spec.LEVELS:
        (height,) = rounded(mark.y)
        return "levels", {**_toggled(mark.style), "name": visible(mark.name), "y": height}
    if mark.role in ("strip", "range"):
        vertical = mark.role == "range"
        return "spans", {"ends": rounded(mark.x if vertical else mark.y), "vertical": vertical}
    if mark.error or mark.role in ("best", "crossing"):
        places = {"x": rounded(mark.x), "y": rounded(mark.y), "error": rounded(mark.error or [])}
        return "points", {**_toggled(mark.style), "role": mark.role, **places}
    return "", {}


def _toggled(style: CurveStyle | None) -> dict[str, Any]:
    """Toggles that must be on, and the color; null for grey."""
    return {"keys": [style.key] if style else [], "color": style.tone if style else None}


def _at(places: Floats, values: Floats, steps: Sequence[int]) -> list[float | None]:
    """Values at these steps; None where there is none."""
    known = dict(zip(places.tolist(), rounded(values), strict=True))
    return [known.get(step) for step in steps]


def rounded(values: ArrayLike) -> list[float | None]:
    """Numbers with as many digits as a page can show; what is not finite is None."""
    return [
        float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        for value in np.asarray(values, dtype=float).ravel().tolist()
    ]


def legend_rows(legend: spec.Legend) -> list[tuple[int | None, int, str]]:
    """Color, line style and text of each line of a legend."""
    return [
        (
            entry.style.tone if entry.style else None,
            entry.style.dash if entry.style else GREY_DASHES[entry.role],
            "".join(text for text, _ in entry.label),
        )
        for entry in legend.entries
    ]


def colors_css() -> str:
    """The palettes as custom properties of light and of dark pages."""
    light, dark = (
        "".join(f"--c{place}:{color};" for place, color in enumerate(palette))
        for palette in (PALETTE, DARK_PALETTE)
    )
    return (
        f":root{{{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}"
    )
