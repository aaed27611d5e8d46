"""Curves and tables of a study, or of one run, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.curves import Curves, curves_of
from lightning_unlearn.report.formatting import join_words, short_number, span
from lightning_unlearn.report.reading import StudyRecords, read_records

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

# Heights that a character can show, from lowest to highest; the second where there is only ASCII.
BLOCKS, DIGITS = "▁▂▃▄▅▆▇█", "0123456789"
WIDEST, NARROWEST = 36, 16
# More lines are no picture any more.
MOST_LINES = 36
MOST_ROWS = 16
# What a run is judged by; other kinds follow as far as there is room, the parts of these last.
FIRST = ("forget", "answers", "accuracy", "distance")
LAST = ("overshoot", "kl", "log_likelihood", "margin", "truncated")


@dataclass(frozen=True)
class Line:
    """A path's curve.

    Attributes:
        name: of the path.
        steps: at which it was measured, ascending; two or more.
        values: finite, of the same length.
    """

    name: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """The paths of one method and setting, drawn to one scale.

    Attributes:
        name: method and setting.
        lines: one per path.
        is_log: whether heights are logarithms; all values are positive then.
    """

    name: str
    lines: list[Line]
    is_log: bool = False

    def drawn(self, line: Line, width: int, characters: str) -> str:
        """A line as characters, one for each of so many equal parts of the steps."""
        first = min(own.steps[0] for own in self.lines)
        last = max(own.steps[-1] for own in self.lines)
        every = self._height(np.concatenate([own.values for own in self.lines]))
        low, high = every.min(), every.max()
        places = np.linspace(first, last, width)
        values = np.interp(places, line.steps, self._height(line.values))
        # A level curve is drawn in the middle.
        heights = (values - low) / (high - low) if high > low else np.full(width, 0.5)
        measured = (places >= line.steps[0]) & (places <= line.steps[-1])
        top = len(characters) - 1
        return "".join(
            characters[round(float(height) * top)] if known else " "
            for height, known in zip(heights, measured, strict=True)
        )

    def _height(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(values) if self.is_log else values


@dataclass(frozen=True)
class Chart:
    """Curves of a measure, a line of text for each path: first value, curve, last value.

    Attributes:
        title: what is drawn.
        blocks: by method and setting.
        notes: sentences on how to read it.
    """

    title: str
    blocks: list[Block]
    notes: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As wide as there is room, and in ASCII where the terminal takes no more; see rich."""
        from rich.text import Text

        lines = [line for block in self.blocks for line in block.lines]
        ends = {id(line): tuple(map(short_number, line.values[[0, -1]])) for line in lines}
        numbers = max(len(number) for pair in ends.values() for number in pair)
        # A terminal may be narrower than the numbers; lines are then cut off.
        room = max(options.max_width - 2 * numbers - 5, 8)
        names = min(max(len(line.name) for line in lines), room - min(NARROWEST, room // 2))
        width = min(WIDEST, room - names)
        characters = DIGITS if options.ascii_only else BLOCKS
        yield Text(self.title, style="bold")
        for block in self.blocks:
            yield Text(block.name)
            for line in block.lines:
                first, last = ends[id(line)]
                name = (
                    line.name if len(line.name) <= names else f"{line.name[: max(names - 3, 1)]}..."
                )
                curve = block.drawn(line, width, characters)
                text = f"  {name:<{names}} {first:>{numbers}} {curve} {last:>{numbers}}"
                yield Text(text, no_wrap=True, overflow="crop")
        scale = "0 is the lowest and 9 the highest value" if options.ascii_only else (
            "height: from the lowest to the highest value"
        )  # fmt: skip
        yield Text(" ".join([f"First value, curve, last value; {scale} of a method.", *self.notes]))
        yield Text("")


def curves(records: pd.DataFrame) -> RenderableType | None:
    """Curves of the unlearn label and of the distance to the oracle, a line for each path.

    Without the unlearn label the answers of the forget stage are drawn. Values are means over
    seeds. Of many paths those are drawn that end lowest and highest.

    Args:
        records: as for `scores`.

    Returns:
        To be printed by rich; None where nothing was measured at two steps.

    Raises:
        InputError: as for `scores`.
    """
    from rich.console import Group

    if records.empty:
        return None
    study = read_records(records)
    if study.runs.empty:
        return None
    charts = [_chart(title, curves_of(study, measure)) for measure, title in _wanted(study)]
    known = [chart for chart in charts if chart is not None]
    return Group(*known) if known else None


def _wanted(study: StudyRecords) -> Iterable[tuple[str, str]]:
    """The measures that are drawn, with their titles."""
    known = list(study.runs["metric"].unique())
    answers = [f"answers/{stage}" for stage in study.runs["forget"].unique()]
    for measure in [name for name in ("forget/label", *answers) if name in known][:1]:
        what = "the unlearn label" if measure == "forget/label" else "the forget stage's answers"
        yield measure, f"{measure}: log-likelihood of {what}, nats per token"
    distances = [name for name in known if name.startswith("distance/")]
    for measure in sorted(distances, key=lambda name: name != "distance/forget")[:1]:
        yield measure, f"{measure}: distance to the oracle, (nats per token)^2"


def _chart(title: str, found: Sequence[Curves]) -> Chart | None:
    drawn = {own.name: lines for own in found if (lines := _lines(own))}
    if not drawn:
        return None
    # Distances are of several orders of magnitude.
    is_log = title.startswith("distance/") and all(
        line.values.min() > 0 for lines in drawn.values() for line in lines
    )
    blocks = [Block(name, lines, is_log) for name, lines in drawn.items()]
    steps = [line.steps for block in blocks for line in block.lines]
    first, last = min(own[0] for own in steps), max(own[-1] for own in steps)
    notes = ["Logarithmic."] if is_log else []
    notes.append(f"Steps {first:g} to {last:g}.")
    seeds = [len(own.seeds) for own in found]
    if max(seeds) > 1:
        notes.append(f"Means over {span(seeds)} seeds.")
    if sum(len(block.lines) for block in blocks) > MOST_LINES:
        blocks = [replace(block, lines=_extremes(block.lines)) for block in blocks]
        notes.append("Of the paths of a method, those that end lowest and highest.")
    fit = max(1, MOST_LINES // max(len(block.lines) for block in blocks))
    if len(blocks) > fit:
        notes.append(f"{len(blocks) - fit} more methods or settings are in the figures.")
    return Chart(title, blocks[:fit], notes)


def _lines(own: Curves) -> list[Line]:
    """The means over seeds of each path that was measured at two steps."""
    lines = []
    for (path, position), values in zip(own.paths, own.means, strict=True):
        finite = np.isfinite(values)
        known = finite.any(axis=0)
        if known.sum() > 1:
            total = np.where(finite, values, 0.0).sum(axis=0)
            means = total[known] / finite.sum(axis=0)[known]
            steps = np.array(own.steps, np.float64)[known]
            lines.append(Line(f"p = {position}  {path}", steps, means))
    return lines


def _extremes(lines: list[Line]) -> list[Line]:
    """The two that end lowest and highest, in their order."""
    if len(lines) < 3:
        return lines
    order = sorted(range(len(lines)), key=lambda place: float(lines[place].values[-1]))
    return [lines[place] for place in sorted((order[0], order[-1]))]


def ends_table(ends: dict[str, tuple[float, float]]) -> tuple[Table, str]:
    """What a run measured before and after unlearning, by kind of measure.

    Args:
        ends: first and last value by name of the measure.

    Returns:
        At most `MOST_ROWS` rows, but all of the first kind, and a sentence on what is not among
        them; "" where nothing is left out.
    """
    from rich import box
    from rich.table import Table

    kinds: dict[str, list[str]] = {}
    for measure in ends:
        kinds.setdefault(measure.partition("/")[0], []).append(measure)
    order = [*FIRST, *(kind for kind in kinds if kind not in (*FIRST, *LAST)), *LAST]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric", overflow="fold")
    for heading in ("before unlearning", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    left_out: list[str] = []
    for kind in (kind for kind in order if kind in kinds):
        names = kinds[kind]
        if table.row_count and table.row_count + len(names) > MOST_ROWS:
            left_out.append(f"{kind} ({len(names)})")
            continue
        for name in names:
            first, last = ends[name]
            cells = (f"{first:.4f}", f"{last:.4f}", _change(last - first))
            table.add_row(name, *cells, end_section=name == names[-1])
    return table, f"Not shown: {join_words(left_out)}." if left_out else ""


def _change(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:+.4f}"
