"""A study or run on disk, and what its tables say: what page, tables and figures are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.curves import paths_of
from lightning_unlearn.analysis.reading import (
    PathPosition,
    StudyRecords,
    forget_examples,
    read_records,
)
from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.errors import visible
from lightning_unlearn.report.provenance import Provenance
from lightning_unlearn.report.summary import Summary, has_depths, summarize

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Source:
    """A study, or a run, as it lies on disk.

    Attributes:
        name: of the study, or of the run.
        records: as for `scores`.
        examples: as for `depth`; None where there are none.
        remarks: sentences, such as which runs are missing.
        provenance: how it came about.
    """

    name: str
    records: pd.DataFrame
    examples: pd.DataFrame | None = None
    remarks: Sequence[str] = ()
    provenance: Provenance = field(default_factory=Provenance)


class StudyReport:
    """A source with everything that is computed from it, each value once.

    Args:
        source: the source.

    Raises:
        InputError: as for `summarize`.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = visible(source.name)
        self.summary: Summary = summarize(source.records, source.examples, source.remarks)
        read = read_records(source.records)
        finite = np.isfinite(read.runs["value"].to_numpy(float))
        # What is not finite is a gap in a curve.
        self.study: StudyRecords = replace(
            read, runs=read.runs.assign(value=read.runs["value"].where(finite))
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was unlearned and measured."""
        return bool(self.study.runs.empty)

    @cached_property
    def depths(self) -> bool:
        """Whether it is a study of depths."""
        return not self.is_empty and has_depths(self.study)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row per run, of a study that is not one of depths."""
        return scores(self.source.records)

    @property
    def latex(self) -> str:
        """All tables as LaTeX."""
        table = self.summary.table
        parts = [table.latex(f"{self.name}: scores")] if table is not None else []
        parts += [section.latex for section in self.summary.sections]
        return "\n".join(filter(None, parts))

    @cached_property
    def forget(self) -> list[str]:
        """The forget stages."""
        return [str(stage) for stage in self.study.runs["forget"].unique()]

    @cached_property
    def paths(self) -> list[PathPosition]:
        """Path and position of the forget stage of all runs."""
        return paths_of(self.study.runs)

    @cached_property
    def seeds(self) -> int:
        """The largest number of seeds of a path."""
        runs = self.study.runs.groupby(["method", "setting", "path", "position"])["seed"]
        return int(runs.nunique().max()) if not self.is_empty else 0

    def measured(self, prefix: str) -> list[str]:
        """Return what follows the prefix in the names of the metrics that have it."""
        names = map(str, self.study.runs["metric"].unique())
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    @cached_property
    def examples(self) -> StudyRecords | None:
        """The values of each forget example, which paths that forget one stage have in common."""
        several = len(self.forget) != 1
        return None if several else forget_examples(self.study, self.source.examples)
