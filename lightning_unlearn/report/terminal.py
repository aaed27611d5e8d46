"""Curves and tables of a study, or of one run, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.curves import Curves, Floats, curves_of
from lightning_unlearn.analysis.reading import StudyRecords, read_records
from lightning_unlearn.report.formatting import join_words, short_number, span
from lightning_unlearn.settings.forget_labels import BASE, LABEL, label_of
from lightning_unlearn.statistics import mean_over_seeds

if TYPE_CHECKING:
    import pandas as pd
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
class Block:
    """The paths of one method and setting, drawn to one scale.

    Attributes:
        name: method and setting.
        steps: at which each path was measured, by the path's name; two or more.
        values: finite, of the same lengths.
        is_log: whether heights are logarithms; all values are positive then.
    """

    name: str
    steps: dict[str, Floats]
    values: dict[str, Floats]
    is_log: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """The first and the last step of all paths."""
        every = np.concatenate(list(self.steps.values()))
        return float(every.min()), float(every.max())

    def drawn(self, path: str, width: int, characters: str) -> str:
        """A path as characters, one for each of so many equal parts of the steps."""
        every = self._height(np.concatenate(list(self.values.values())))
        low, high = every.min(), every.max()
        places, steps = np.linspace(*self.range, width), self.steps[path]
        values = np.interp(places, steps, self._height(self.values[path]))
        # A level curve is drawn in the middle.
        heights = (values - low) / (high - low) if high > low else np.full(width, 0.5)
        measured = (places >= steps[0]) & (places <= steps[-1])
        top = len(characters) - 1
        return "".join(
            characters[round(float(height) * top)] if known else " "
            for height, known in zip(heights, measured, strict=True)
        )

    def extremes(self) -> Block:
        """The paths that end lowest and highest, in their order."""
        order = sorted(self.values, key=lambda path: float(self.values[path][-1]))
        kept = [path for path in self.values if path in (order[0], order[-1])]
        steps, values = ({path: own[path] for path in kept} for own in (self.steps, self.values))
        return replace(self, steps=steps, values=values)

    def _height(self, values: Floats) -> Floats:
        return np.log(values) if self.is_log else values


@dataclass(frozen=True)
class Chart:
    """Curves of a metric, a line of text for each path: first value, curve, last value.

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

        values = [(path, own) for block in self.blocks for path, own in block.values.items()]
        numbers = max(len(short_number(own[end])) for _, own in values for end in (0, -1))
        # A terminal may be narrower than the numbers; lines are then cut off.
        room = max(options.max_width - 2 * numbers - 5, 8)
        names = min(max(len(path) for path, _ in values), room - min(NARROWEST, room // 2))
        width = min(WIDEST, room - names)
        characters = DIGITS if options.ascii_only else BLOCKS
        yield Text(self.title, style="bold")
        for block in self.blocks:
            yield Text(block.name)
            for path, own in block.values.items():
                first, last = map(short_number, own[[0, -1]])
                name = path if len(path) <= names else f"{path[: max(names - 3, 1)]}..."
                curve = block.drawn(path, width, characters)
                text = f"  {name:<{names}} {first:>{numbers}} {curve} {last:>{numbers}}"
                yield Text(text, no_wrap=True, overflow="crop")
        scale = "height: from the lowest to the highest value"
        if options.ascii_only:
            scale = "0 is the lowest and 9 the highest value"
        yield Text(" ".join([f"First value, curve, last value; {scale} of a method.", *self.notes]))
        yield Text("")


def curves(records: pd.DataFrame) -> RenderableType | None:
    """Curves of the forget label and of the distance to the oracle, a line for each path.

    Without a forget label the answers of the forget stage are drawn. Values are means over
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
    charts = [_chart(title, curves_of(study, metric)) for metric, title in _wanted(study)]
    known = [chart for chart in charts if chart is not None]
    return Group(*known) if known else None


def _wanted(study: StudyRecords) -> Iterable[tuple[str, str]]:
    """The metrics that are drawn, with their titles."""
    known = list(study.runs["metric"].unique())
    answers = [f"answers/{stage}" for stage in study.runs["forget"].unique()]
    for metric in [name for name in ("forget/label", *answers) if name in known][:1]:
        name, what = metric, "the forget stage's answers"
        if metric == "forget/label":
            what = study.label_words
            name = study.labels[0].metric(LABEL) if len(study.labels) == 1 else metric
        yield metric, f"{name}: log-likelihood of {what}, nats per token"
    distances = [name for name in known if name.startswith("distance/")]
    for metric in sorted(distances, key=lambda name: name != "distance/forget")[:1]:
        yield metric, f"{metric}: distance to the oracle, (nats per token)^2"


def _chart(title: str, found: Sequence[Curves]) -> Chart | None:
    blocks = [block for own in found if (block := _block(own)).values]
    if not blocks:
        return None
    least = min(values.min() for block in blocks for values in block.values.values())
    # Distances are of several orders of magnitude.
    is_log = title.startswith("distance/") and bool(least > 0)
    blocks = [replace(block, is_log=is_log) for block in blocks]
    first, last = min(own.range[0] for own in blocks), max(own.range[1] for own in blocks)
    notes = [*(["Logarithmic."] if is_log else []), f"Steps {first:g} to {last:g}."]
    seeds = [len(own.seeds) for own in found]
    if max(seeds) > 1:
        notes.append(f"Means over {span(seeds)} seeds.")
    if sum(len(block.values) for block in blocks) > MOST_LINES:
        blocks = [block.extremes() for block in blocks]
        notes.append("Of the paths of a method, those that end lowest and highest.")
    fit = max(1, MOST_LINES // max(len(block.values) for block in blocks))
    if len(blocks) > fit:
        notes.append(f"{len(blocks) - fit} more methods or settings are in the figures.")
    return Chart(title, blocks[:fit], notes)


def _block(own: Curves) -> Block:
    """The means over seeds of each path that was measured at two steps."""
    steps, values = {}, {}
    for (path, position), means in zip(own.paths, mean_over_seeds(own.means), strict=True):
        known = np.isfinite(means)
        if known.sum() > 1:
            name = f"p = {position}  {path}"
            steps[name], values[name] = np.array(own.steps, np.float64)[known], means[known]
    return Block(own.name, steps, values)


def ends_table(ends: dict[str, tuple[float, float]]) -> tuple[Table, str]:
    """The values of a run's metrics before and after unlearning, by kind of metric.

    Args:
        ends: first and last value by name of the metric.

    Returns:
        At most `MOST_ROWS` rows, but all of the first kind, and a sentence on what is not among
        them; "" where nothing is left out.
    """
    from rich import box
    from rich.table import Table

    kinds: dict[str, list[str]] = {}
    for metric in ends:
        if (label := label_of(metric)) is not None and label[1] == BASE:
            continue  # It is measured at one step.
        kinds.setdefault(metric.partition("/")[0], []).append(metric)
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
