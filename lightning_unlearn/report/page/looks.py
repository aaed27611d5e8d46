"""Which color, line style and name the curves of a page have, alike in all its charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lightning_unlearn.report.curves import Place
from lightning_unlearn.report.looks import PALETTE

# The same hues on dark ground: each has a contrast of 4.5 or more with it.
DARK_PALETTE = ["#4AA8E8", "#F5B83D", "#2FC79A", "#FF8A4C", "#E59AC4", "#A9DDF7", "#F2F2F2"]
# As SVG writes them.
DASHES = ["", "9 4", "2.5 3", "9 3 2.5 3", "14 4", "14 3 2.5 3", "5 2.5"]
assert len(PALETTE) == len(DARK_PALETTE) == len(DASHES)


@dataclass(frozen=True)
class Look:
    """How the curves of one toggle look.

    Attributes:
        key: of the toggle.
        short: its name, in a few letters.
        label: its name in words, as text.
        place: in the palette and in the list of line styles.
    """

    key: str
    short: str
    label: str
    place: int

    @property
    def color(self) -> int:
        """Place in the palette."""
        return self.place % len(PALETTE)

    @property
    def dash(self) -> int:
        """Place in the list of line styles; others where colors repeat."""
        return (self.place + self.place // len(PALETTE)) % len(DASHES)


class PathLooks:
    """The looks of paths: one of each, or of each position where there are more than seven.

    Args:
        paths: path and position of the forget stage, of all studies of the page.
    """

    def __init__(self, paths: Sequence[Place]) -> None:
        self.paths = sorted(dict.fromkeys(paths), key=lambda pair: pair[1])

    @cached_property
    def grouped(self) -> bool:
        """Whether a look is that of several paths."""
        return len(self.paths) > len(PALETTE)

    @cached_property
    def every(self) -> list[Look]:
        """All looks, in the order of the toggles."""
        if not self.grouped:
            return [self._of_path(number) for number in range(len(self.paths))]
        positions = sorted({position for _, position in self.paths})
        found = []
        for place, position in enumerate(positions):
            count = sum(other == position for _, other in self.paths)
            label = f"p = {position} ({count} path{'s' * (count > 1)})"
            found.append(Look(f"p{position}", f"p = {position}", label, place))
        return found

    def of(self, place: Place) -> Look:
        """The look of a path."""
        if self.grouped:
            return next(look for look in self.every if look.key == f"p{place[1]}")
        return self.every[self.paths.index(place)]

    def _of_path(self, number: int) -> Look:
        path, position = self.paths[number]
        positions = [other for _, other in self.paths]
        short = f"p = {position}" if positions.count(position) == 1 else path
        return Look(f"path{number}", short, f"p = {position}: {path}", number)


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
