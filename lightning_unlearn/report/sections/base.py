"""A part of a summary, and what two or more of them say alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning_unlearn.report.formatting import short_number
from lightning_unlearn.report.tables import Table, bullets

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lightning_unlearn.statistics import Interval

DISTANCE_UNIT = "(nats per token)^2"


@dataclass(frozen=True)
class Section:
    """A part of a summary.

    Attributes:
        title: its heading; "" for none.
        tables: CSV by the name of the file without its suffix; one row per value at full
            precision, a missing value is an empty field.
        table: for people; None where the files are all there is.
        findings: sentences.
        nothing: why there is no table, which stands in its place; "" for no reason.
    """

    title: str
    tables: dict[str, str] = field(default_factory=dict)
    table: Table | None = None
    findings: list[str] = field(default_factory=list)
    nothing: str = ""

    @property
    def markdown(self) -> str:
        """Heading, table and sentences, as a list; "" where there is neither of the last two."""
        table = self.table.markdown() if self.table else self.nothing and f"{self.nothing}\n"
        parts = [part for part in (table, bullets(self.findings)) if part]
        return "\n".join([f"## {self.title}\n", *parts] if self.title and parts else parts)

    @property
    def latex(self) -> str:
        """The table as LaTeX with the heading as its caption; "" where there is none."""
        return self.table.latex(self.title) if self.table else ""

    @property
    def renderable(self) -> RenderableType | None:
        """The table for the terminal, or why there is none, to be printed by rich."""
        from rich.text import Text

        if self.table:
            return self.table.rich(self.title or None)
        return Text(self.nothing) if self.nothing else None


def clause(before: str, names: str) -> list[str]:
    """A clause that ends in names; none without any."""
    return [f"{before} {names}"] if names else []


def ends_of(name: str, interval: Interval) -> dict[str, float]:
    """The columns of an interval: `name`, "<name>_low" and "<name>_high"."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def with_half(interval: Interval) -> str:
    """An interval for a table, "0.412±0.031", or the mean alone; without spaces to break it at."""
    mean = short_number(interval.mean)
    return f"{mean}±{short_number(interval.half, 2)}" if interval.count > 1 else mean


def with_ends(interval: Interval, unit: str) -> str:
    """An interval for a sentence, "0.41 nats (95 % 0.38 to 0.44 over 4 seeds)", or the mean."""
    mean = f"{short_number(interval.mean)} {unit}"
    if interval.count < 2:
        return mean
    low, high = short_number(interval.low), short_number(interval.high)
    return f"{mean} (95 % {low} to {high} over {interval.count} seeds)"
