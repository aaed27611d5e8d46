"""Styles of curves: colors, markers, dashes and names, alike in all figures of a report."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_unlearn.analysis.reading import PathPosition
from lightning_unlearn.report.formatting import names_of_paths

# Okabe and Ito (2008), safe for color-blind readers; without yellow, which is faint on white.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
# The same hues on a dark ground: each has a contrast of 4.5 or more with it.
DARK_PALETTE = ["#4AA8E8", "#F5B83D", "#2FC79A", "#FF8A4C", "#E59AC4", "#A9DDF7", "#F2F2F2"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
# As SVG writes them.
DASHES = ["", "9 4", "2.5 3", "9 3 2.5 3", "14 4", "14 3 2.5 3", "5 2.5"]
# A text in pieces, each with whether it is bold.
Label = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class CurveStyle:
    """How one curve, or all curves of a group, are drawn and named.

    Attributes:
        key: of the toggle of the page that shows and hides them.
        rank: place among the styles of the figure.
        count: how many styles the figure has.
        label: in the legend.
        short: in a few letters, for sentences.
        end: beside the end of the curve in a picture; "" for nothing.
    """

    key: str
    rank: int
    count: int
    label: Label
    short: str
    end: str = ""

    @property
    def color(self) -> str:
        """Color in a picture; needs matplotlib where the palette does not suffice."""
        if self.count <= len(PALETTE):
            return PALETTE[self.rank]
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        return str(to_hex(colormaps["viridis"](0.9 * self.rank / (self.count - 1))))

    @property
    def marker(self) -> str:
        """Marker in a picture, as matplotlib names it."""
        return MARKERS[self.rank % len(MARKERS)]

    @property
    def tone(self) -> int:
        """Color on the page, as a place in the palettes."""
        return self.rank % len(PALETTE)

    @property
    def dash(self) -> int:
        """Line style on the page, as a place in `DASHES`; another one where colors repeat."""
        return (self.rank + self.rank // len(PALETTE)) % len(DASHES)


@dataclass(frozen=True)
class StyleMap:
    """The styles of a figure.

    Attributes:
        styles: by path, by position or by name, in the order of the legend.
        heading: of the legend.
        kind: what a style stands for: "path", "position", "stage" or "pair".
    """

    styles: Mapping[Hashable, CurveStyle]
    heading: str
    kind: str

    @property
    def grouped(self) -> bool:
        """Whether a style is that of several paths."""
        return self.kind == "position"

    def key(self, path: PathPosition) -> Hashable:
        """The key of the style of a path."""
        return path[1] if self.grouped else path

    def of(self, path: PathPosition) -> CurveStyle:
        """The style of a path."""
        return self.styles[self.key(path)]

    def present(self, paths: Iterable[PathPosition]) -> list[CurveStyle]:
        """The styles of these paths, in the order of the legend."""
        keys = {self.key(path) for path in paths}
        return [style for key, style in self.styles.items() if key in keys]


def styles_of_paths(paths: Iterable[PathPosition]) -> StyleMap:
    """A style for each of up to seven paths; of more, one for each position."""
    distinct = sorted(dict.fromkeys(paths), key=lambda path: path[1])
    styles: dict[Hashable, CurveStyle] = {}
    if len(distinct) <= len(PALETTE):
        for rank, (path, short) in enumerate(zip(distinct, names_of_paths(distinct), strict=True)):
            end = f"p = {path[1]}"
            label = (*plain(f"{end}: "), *path_label(*path))
            styles[path] = CurveStyle(f"path{rank}", rank, len(distinct), label, short, end)
        return StyleMap(styles, "path (p = place of the forget stage)", "path")
    positions = sorted({position for _, position in distinct})
    for rank, position in enumerate(positions):
        count = sum(other == position for _, other in distinct)
        short = f"p = {position}"
        label = plain(f"{short} ({count} path{'s' * (count > 1)})")
        styles[position] = CurveStyle(f"p{position}", rank, len(positions), label, short, short)
    return StyleMap(styles, "p = place of the forget stage", "position")


def styles_of_stages(stages: Sequence[str], forget: Sequence[str]) -> StyleMap:
    """A style for each stage; those that are forgotten are named so."""
    styles: dict[Hashable, CurveStyle] = {}
    for rank, stage in enumerate(stages):
        label = ((stage, True), (" (forgotten)", False)) if [stage] == list(forget) else None
        # Long names would take the panel's room; the legend has them.
        end = stage if len(stage) <= 8 else ""
        key = f"stage:{stage}"
        styles[stage] = CurveStyle(key, rank, len(stages), label or plain(stage), stage, end)
    return StyleMap(styles, "answers of the stage", "stage")


def plain(text: str) -> Label:
    """A text without bold pieces."""
    return ((text, False),)


def path_label(path: str, position: int) -> Label:
    """A path with its forget stage in bold."""
    pieces: list[tuple[str, bool]] = []
    for place, stage in enumerate(path.split("-"), start=1):
        pieces += [("-", False), (stage, place == position)]
    return tuple(pieces[1:])
