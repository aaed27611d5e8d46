"""How curves look: colors, markers, names, and matplotlib's settings."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito (2008), safe for color-blind readers; without yellow, which is faint on white.
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
    "legend.frameon": False,
    "figure.dpi": 160,
    "savefig.dpi": "figure",
    # Letters of a PDF stay letters, which editors and search can read.
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    """How one curve, or all curves of a group, are drawn and named.

    Attributes:
        color: of line and band.
        marker: of the points.
        label: in the legend.
        end: beside the end of the curve.
    """

    color: str
    marker: str
    label: str
    end: str

    def line(self, points: int) -> dict[str, Any]:
        """Keywords of a thick line through `points` points."""
        return {
            "color": self.color,
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
        look: by (path, position), by (position,) or by (stage,).
        heading: of the legend.
        what: a look stands for: "path", "position" or "stage".
    """

    look: dict[tuple[Hashable, ...], Look]
    heading: str
    what: str

    @property
    def grouped(self) -> bool:
        """Whether a look is that of several paths."""
        return self.what == "position"

    def key(self, path: tuple[str, int]) -> tuple[Hashable, ...]:
        """The key of a path's look."""
        return path[1:] if self.grouped else path

    def of(self, path: tuple[str, int]) -> Look:
        """The look of a path."""
        return self.look[self.key(path)]

    def present(self, paths: Iterable[tuple[str, int]]) -> list[Look]:
        """The looks of these paths, in their own order."""
        keys = {self.key(path) for path in paths}
        return [look for key, look in self.look.items() if key in keys]


def looks_of_paths(data: pd.DataFrame) -> Looks:
    """Up to seven paths each have a look; of more, each position has one."""
    pairs = data[["path", "position"]].drop_duplicates().sort_values("position", kind="stable")
    curves = [(str(path), int(position)) for path, position in pairs.itertuples(index=False)]
    if len(curves) <= len(PALETTE):
        by_path: dict[tuple[Hashable, ...], Look] = {}
        for (color, marker), (path, position) in zip(colors(len(curves)), curves, strict=True):
            end = f"p = {position}"
            label = f"{end}: {emphasized(path, position)}"
            by_path[path, position] = Look(color, marker, label, end)
        return Looks(by_path, "path (p = place of the forget stage)", "path")
    positions = sorted({position for _, position in curves})
    by_position: dict[tuple[Hashable, ...], Look] = {}
    for (color, marker), position in zip(colors(len(positions)), positions, strict=True):
        count = sum(other == position for _, other in curves)
        label = f"p = {position}  ({count} path{'s' * (count > 1)})"
        by_position[position,] = Look(color, marker, label, f"p = {position}")
    return Looks(by_position, "p = place of the forget stage", "position")


def looks_of_stages(stages: Sequence[str], forget: Sequence[str]) -> Looks:
    """A look per stage; those that are forgotten are named so."""
    looks: dict[tuple[Hashable, ...], Look] = {}
    for (color, marker), stage in zip(colors(len(stages)), stages, strict=True):
        label = f"{bold(stage)} (forgotten)" if [stage] == list(forget) else plain(stage)
        # Long names would take the panel's room; the legend has them.
        looks[stage,] = Look(color, marker, label, plain(stage) if len(stage) <= 8 else "")
    return Looks(looks, "answers of the stage", "stage")


def colors(count: int) -> list[tuple[str, str]]:
    """Colors and markers of `count` looks."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    found = PALETTE[:count]
    if count > len(PALETTE):
        shades = colormaps["viridis"]
        found = [to_hex(shades(0.9 * i / (count - 1))) for i in range(count)]
    return [(color, MARKERS[rank % len(MARKERS)]) for rank, color in enumerate(found)]


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


def emphasized(path: str, position: int) -> str:
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
