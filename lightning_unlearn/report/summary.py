"""Everything a study says about its records, by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_unlearn.report.depth import depth
from lightning_unlearn.report.depth_tables import depth_layout, findings_of
from lightning_unlearn.report.reading import StudyRecords, read_records
from lightning_unlearn.report.recency import recency
from lightning_unlearn.report.scores import scores
from lightning_unlearn.report.tables import csv, scores_layout

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType


@dataclass(frozen=True)
class Summary:
    """A study in words and numbers.

    Attributes:
        markdown: table and findings, the latter as a bullet list.
        csv: one row per run at full precision; "" where nothing was unlearned and measured.
        renderable: the table for the terminal, to be printed by rich.
        findings: sentences.
    """

    markdown: str
    csv: str
    renderable: RenderableType
    findings: list[str]


def summarise(
    records: pd.DataFrame, examples: pd.DataFrame | None = None, notes: Sequence[str] = ()
) -> Summary:
    """Scores of a study, or depths where answers were measured but no forget label.

    Args:
        records: as for `lightning_unlearn.report.scores`; a table without rows needs no columns.
        examples: as for `lightning_unlearn.report.depth`; without rows it is as if left out.
        notes: sentences to add to the findings, such as which runs failed.

    Raises:
        InputError: as for `lightning_unlearn.report.scores`.
    """
    from rich.text import Text

    study = read_records(records) if len(records) else None
    if study is None or study.runs.empty:
        sentence = _nothing(study)
        text = f"{sentence}\n" + _bullets(notes)
        return Summary(text, "", Text(sentence), list(notes))
    if has_depths(study):
        examples = examples if examples is not None and len(examples) else None
        table = depth(records, examples)
        findings, layout = findings_of(table), depth_layout(table)
    else:
        table = scores(records)
        findings, layout = recency(table), scores_layout(table)
    findings = [*findings, *notes]
    text = layout.markdown() + _bullets(findings)
    return Summary(text, csv(table), layout.render(), findings)


def has_depths(study: StudyRecords) -> bool:
    """Whether answers of forget stages were measured, but none of their labels."""
    measures = study.runs["measure"]
    own = measures == "answers/" + study.runs["forget"]
    return bool(own.any()) and not measures.str.startswith("forget/").any()


def _nothing(study: StudyRecords | None) -> str:
    if study is not None and len(study.oracles):
        return (
            "Only oracles were measured, the models retrained without the forget stage: there is "
            "nothing to compare them with."
        )
    return "Nothing was measured, so there is no table."


def _bullets(sentences: Sequence[str]) -> str:
    return "\n" + "".join(f"- {line}\n" for line in sentences) if sentences else ""
