"""Everything a study says about its records, by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.depth import depth
from lightning_unlearn.analysis.klom import metrics_of_groups
from lightning_unlearn.analysis.reading import (
    StudyRecords,
    forget_metric,
    read_records,
    several_labels,
)
from lightning_unlearn.analysis.scores import scores
from lightning_unlearn.analysis.seeds import means_over_seeds
from lightning_unlearn.errors import visible
from lightning_unlearn.report.formatting import join_words
from lightning_unlearn.report.sections.base import Section
from lightning_unlearn.report.sections.cautions import cautions
from lightning_unlearn.report.sections.depth import depth_findings, depth_table
from lightning_unlearn.report.sections.divergence import divergence_section
from lightning_unlearn.report.sections.klom import klom_section
from lightning_unlearn.report.sections.oracle_distance import oracle_distance
from lightning_unlearn.report.sections.path_dependence import path_dependence
from lightning_unlearn.report.sections.recency import recency
from lightning_unlearn.report.sections.scores import scores_table
from lightning_unlearn.report.tables import csv

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Summary(Section):
    """A study in words and numbers: its table of scores or depths, sentences and sections.

    Attributes:
        sections: further parts, of what the study measured.
        cautions: the findings that limit what the scores say.
    """

    sections: list[Section] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)

    @property
    def page(self) -> str:
        """Everything there is to read, as Markdown."""
        parts = [self.markdown, *(section.markdown for section in self.sections)]
        return "\n".join(filter(None, parts))

    @property
    def csv(self) -> str:
        """One row per run at full precision; "" without a table."""
        return self.tables.get("table", "")

    @property
    def files(self) -> dict[str, str]:
        """The CSV of the sections by file name."""
        return {
            f"{name}.csv": text
            for section in self.sections
            for name, text in section.tables.items()
        }


def summarize(
    records: pd.DataFrame, examples: pd.DataFrame | None = None, notes: Sequence[str] = ()
) -> Summary:
    """Scores of a study, or depths where answers were measured but no forget label.

    Statistics over seeds, the distance to the oracle, the divergence between paths and KLoM follow
    as sections, as far as the study measured what they need; a sentence names what is missing.

    Args:
        records: as for `scores`; a table without rows needs no columns.
        examples: as for `depth`; without rows it is as if left out.
        notes: sentences to add to the findings, such as which runs failed.

    Raises:
        InputError: as for `scores`.
    """
    notes = [visible(note) for note in notes]
    study = read_records(records) if len(records) else None
    if study is None or study.runs.empty:
        return Summary("", findings=notes, nothing=_nothing(study))
    examples = examples if examples is not None and len(examples) else None
    read = _read_examples(study, examples) if examples is not None else None
    if has_depths(study):
        limits = cautions(study, None, examples)
        values = depth(records, examples)
        findings, table = depth_findings(values), depth_table(values)
        sections = _divergence(read)
        remarks = _left_out(sections)
    else:
        values = scores(records)
        limits = cautions(study, values, examples)
        findings, table = recency(values), scores_table(values)
        sections = [path_dependence(values, study)]
        sections += [oracle_distance(study, read)] if study.has("distance/") else []
        sections += [*_divergence(read), *([klom_section(read)] if read is not None else [])]
        remarks = [*_left_out(sections), *_lacking(study, read), *_missing(study)]
    kept = [section for section in sections if section.tables]
    findings = [*limits, *findings, *remarks, *notes]
    sections = [*kept, Section("Means over seeds", {"seeds": csv(means_over_seeds(records))})]
    return Summary("", {"table": csv(values)}, table, findings, sections=sections, cautions=limits)


def has_depths(study: StudyRecords) -> bool:
    """Whether answers of forget stages were measured, but none of their labels."""
    own = study.runs["metric"] == "answers/" + study.runs["forget"]
    return bool(own.any()) and not study.has("forget/")


def _nothing(study: StudyRecords | None) -> str:
    if study is not None and len(study.oracles):
        return (
            "Only oracles were measured, the models retrained without the forget stage: there is "
            "nothing to compare them with."
        )
    return "Nothing was measured, so there is no table."


def _divergence(read: StudyRecords | None) -> list[Section]:
    """The section on the metric by which paths are compared, if there is one."""
    if read is None:
        return []
    metric = forget_metric(read.runs["metric"].unique(), read.runs["forget"].unique())
    return [divergence_section(read, metric)] if metric is not None else []


def _read_examples(study: StudyRecords, examples: pd.DataFrame) -> StudyRecords:
    """The rows that the sections read, for there are many more."""
    if "metric" not in examples:
        return read_records(examples, "examples")
    metrics = examples["metric"]
    wanted = [m for m in metrics.unique() if str(m).startswith(("log_likelihood/", "margin/"))]
    if "log_likelihood/forget" not in wanted:
        # Answers stand in for the group of the forget set.
        wanted += [f"answers/{stage}" for stage in study.runs["forget"].unique()]
    wanted += several_labels(study)
    return read_records(examples[metrics.isin(wanted)], "examples")


def _left_out(sections: Sequence[Section]) -> list[str]:
    """What sections without a file say, which is why they have none."""
    return [line for section in sections if not section.tables for line in section.findings]


def _lacking(study: StudyRecords, read: StudyRecords | None) -> list[str]:
    """What was left out because a metric is missing, and how to have it, as a sentence."""
    lacking = []
    if not study.has("distance/"):
        lacking.append("the distance to the oracle (found no metric distance/GROUP)")
    no_klom = read is None or not metrics_of_groups(read)
    if no_klom:
        lacking.append("KLoM (found no margin/GROUP per example of runs and their oracles)")
    if not lacking:
        return []
    text = f"{join_words(lacking)} {'are' if len(lacking) > 1 else 'is'} left out"
    # The study trains no oracles beside a model that is the oracle.
    alone = "; with oracle.base, which is one model, there is no KLoM" if no_klom else ""
    return [
        f"{text[0].upper()}{text[1:]}; {'they take' if len(lacking) > 1 else 'it takes'} the "
        "monitor OracleDistance, and oracle: true in the study with its oracles made (--only may "
        f"leave them out){alone}."
    ]


def _missing(study: StudyRecords) -> list[str]:
    """How many values were left out for not being finite, as a sentence."""
    values = study.runs["value"].to_numpy(float)
    count = int((~np.isfinite(values)).sum())
    if not count:
        return []
    verb = "are not finite numbers and were" if count > 1 else "is not a finite number and was"
    return [f"{count} of {len(values)} values in the records {verb} left out of means over seeds."]
