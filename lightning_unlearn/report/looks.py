"""How curves look: colours, markers, names, and matplotlib's settings."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito (2008), safe for colour-blind readers; without yellow, which is faint on white.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "figure.dpi": 160,
    "savefig.dpi": "figure",
}


@dataclass(frozen=True)
class Look:
    """How one curve, or all curves of a group, are drawn and named.

    Attributes:
        colour: of line and band.
        marker: of the points.
        label: in the legend.
        end: beside the end of the curve.
    """

    colour: str
    marker: str
    label: str
    end: str

    def line(self, points: int) -> dict[str, Any]:
        """Keywords of a thick line through `points` points."""
        return {
            "color": self.colour,
            "linewidth": 2.0,
            "marker": self.marker,
            "markersize": 5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "markevery": max(1, points // 10),
        }


@dataclass(frozen=True)
class Looks:
    """How the curves of a figure look.

    Attributes:
        by: columns whose values tell the curves apart.
        groups: columns whose values tell the looks apart.
        look: the look of every value of `groups`.
        heading: of the legend.
        what: a look stands for: "path", "position" or "stage".
    """

    by: list[str]
    groups: list[str]
    look: dict[tuple[Hashable, ...], Look]
    heading: str
    what: str

    @property
    def grouped(self) -> bool:
        """Whether a look is that of several curves."""
        return self.by != self.groups

    def present(self, data: pd.DataFrame) -> list[Look]:
        """The looks that occur in `data`."""
        rows = set(data[self.groups].itertuples(index=False, name=None))
        return [look for key, look in self.look.items() if key in rows]


def looks_of_paths(data: pd.DataFrame) -> Looks:
    """Up to seven paths each have a look; of more, each position has one."""
    pairs = data[["path", "position"]].drop_duplicates().sort_values("position", kind="stable")
    curves = [(str(path), int(position)) for path, position in pairs.itertuples(index=False)]
    if len(curves) <= len(PALETTE):
        by_path: dict[tuple[Hashable, ...], Look] = {}
        for (colour, marker), (path, position) in zip(_colours(len(curves)), curves, strict=True):
            end = f"p = {position}"
            label = f"{end}: {emphasised(path, position)}"
            by_path[path, position] = Look(colour, marker, label, end)
        key = ["path", "position"]
        return Looks(key, key, by_path, "path (p = place of the forget stage)", "path")
    positions = sorted({position for _, position in curves})
    by_position: dict[tuple[Hashable, ...], Look] = {}
    for (colour, marker), position in zip(_colours(len(positions)), positions, strict=True):
        count = sum(other == position for _, other in curves)
        label = f"p = {position}  ({count} path{'s' * (count > 1)})"
        by_position[position,] = Look(colour, marker, label, f"p = {position}")
    heading = "p = place of the forget stage"
    return Looks(["path", "position"], ["position"], by_position, heading, "position")


def looks_of_stages(stages: Sequence[str], forget: Sequence[str]) -> Looks:
    """A look per stage; those that are forgotten are named so."""
    looks: dict[tuple[Hashable, ...], Look] = {}
    for (colour, marker), stage in zip(_colours(len(stages)), stages, strict=True):
        label = f"{bold(stage)} (forgotten)" if [stage] == list(forget) else plain(stage)
        # Long names would take the panel's room; the legend has them.
        looks[stage,] = Look(colour, marker, label, plain(stage) if len(stage) <= 8 else "")
    return Looks(["stage"], ["stage"], looks, "answers of the stage", "stage")


def _colours(count: int) -> list[tuple[str, str]]:
    """Colours and markers of `count` looks."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colours = PALETTE[:count]
    if count > len(PALETTE):
        shades = colormaps["viridis"]
        colours = [to_hex(shades(0.9 * i / (count - 1))) for i in range(count)]
    return [(colour, MARKERS[rank % len(MARKERS)]) for rank, colour in enumerate(colours)]


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


def emphasised(path: str, position: int) -> str:
    """The path with its forget stage in bold."""
    stages = path.split("-")
    return "-".join(
        bold(stage) if place == position else plain(stage)
        for place, stage in enumerate(stages, start=1)
    )


def bold(name: str) -> str:
    """`name` in bold where mathtext can set it."""
    return rf"$\mathbf{{{name}}}$" if name.isascii() and name.isalnum() else plain(name)


def folded(text: str, width: int) -> str:
    """A name on as many lines of `width` characters as it takes."""
    return plain(textwrap.fill(text, width))


def folded_setting(text: str, width: int) -> str:
    """A setting on as many lines as it takes, broken between keys where possible."""
    together = text.replace(" = ", "\u00a0=\u00a0")
    return folded(together, width)


def plain(text: str) -> str:
    """`text` without a meaning for mathtext."""
    return text.replace("$", r"\$")
