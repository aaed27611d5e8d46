"""Everything a study says about its records, by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning_unlearn.errors import visible
from lightning_unlearn.report.depth import depth
from lightning_unlearn.report.depth_tables import depth_layout, findings_of
from lightning_unlearn.report.layout import bullets
from lightning_unlearn.report.reading import StudyRecords, read_records
from lightning_unlearn.report.recency import recency
from lightning_unlearn.report.scores import scores
from lightning_unlearn.report.tables import csv, scores_layout

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from lightning_unlearn.report.sections import Section


@dataclass(frozen=True)
class Summary:
    """A study in words and numbers.

    Attributes:
        markdown: table and findings, the latter as a bullet list; without the sections.
        csv: one row per run at full precision; "" where nothing was unlearned and measured.
        renderable: the table for the terminal, to be printed by rich.
        findings: sentences.
        sections: further parts, of what the study measured.
    """

    markdown: str
    csv: str
    renderable: RenderableType
    findings: list[str]
    sections: list[Section] = field(default_factory=list)

    @property
    def page(self) -> str:
        """Everything there is to read, as Markdown."""
        parts = [self.markdown, *(section.markdown for section in self.sections)]
        return "\n".join(filter(None, parts))

    @property
    def tables(self) -> dict[str, str]:
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
        records: as for `lightning_unlearn.report.scores`; a table without rows needs no columns.
        examples: as for `lightning_unlearn.report.depth`; without rows it is as if left out.
        notes: sentences to add to the findings, such as which runs failed.

    Raises:
        InputError: as for `lightning_unlearn.report.scores`.
    """
    from rich.text import Text

    from lightning_unlearn.report.further import further_sections

    notes = [visible(note) for note in notes]
    study = read_records(records) if len(records) else None
    if study is None or study.runs.empty:
        sentence = _nothing(study)
        text = "\n".join(filter(None, [f"{sentence}\n", bullets(notes)]))
        return Summary(text, "", Text(sentence), list(notes))
    examples = examples if examples is not None and len(examples) else None
    if has_depths(study):
        table = depth(records, examples)
        findings, layout = findings_of(table), depth_layout(table)
        sections, remarks = further_sections(study, records, examples)
    else:
        table = scores(records)
        findings, layout = recency(table), scores_layout(table)
        sections, remarks = further_sections(study, records, examples, table)
    findings = [*findings, *remarks, *notes]
    text = "\n".join(filter(None, [layout.markdown(), bullets(findings)]))
    return Summary(text, csv(table), layout.render(), findings, sections)


def has_depths(study: StudyRecords) -> bool:
    """Whether answers of forget stages were measured, but none of their labels."""
    measures = study.runs["metric"]
    own = measures == "answers/" + study.runs["forget"]
    return bool(own.any()) and not measures.str.startswith("forget/").any()


def _nothing(study: StudyRecords | None) -> str:
    if study is not None and len(study.oracles):
        return (
            "Only oracles were measured, the models retrained without the forget stage: there is "
            "nothing to compare them with."
        )
    return "Nothing was measured, so there is no table."
