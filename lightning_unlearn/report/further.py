"""Which sections a study has, and what it would have to measure to have the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.divergence_tables import divergence_section
from lightning_unlearn.report.formatting import join_words
from lightning_unlearn.report.klom import measures_of_probes
from lightning_unlearn.report.klom_tables import klom_section
from lightning_unlearn.report.oracle_distance import oracle_distance
from lightning_unlearn.report.path_dependence import path_dependence
from lightning_unlearn.report.reading import StudyRecords, read_records
from lightning_unlearn.report.sections import Section
from lightning_unlearn.report.seeds import seed_section

if TYPE_CHECKING:
    import pandas as pd


def further_sections(
    study: StudyRecords,
    records: pd.DataFrame,
    examples: pd.DataFrame | None,
    scores: pd.DataFrame | None = None,
) -> tuple[list[Section], list[str]]:
    """The sections of a study with what it measured, and sentences on what was left out.

    Args:
        study: the records, read.
        records: as they are, for measures of any name.
        examples: the values per example, where there are any.
        scores: of the records; None for a study of depths, whose paths are not compared with
            oracles.
    """
    read = _read(study, examples) if examples is not None else None
    sections = []
    if scores is not None:
        sections += [path_dependence(scores, study), *_oracle_sections(study, read)]
    if read is not None:
        sections += [divergence_section(read, m) for m in _of_forget_set(read)]
        sections += [klom_section(read)] if scores is not None else []
    remarks = [line for section in sections if not section.tables for line in section.findings]
    if scores is not None:
        remarks += _lacking(study, read)
        remarks += _missing(study)
    return [*(section for section in sections if section.tables), seed_section(records)], remarks


def _oracle_sections(study: StudyRecords, read: StudyRecords | None) -> list[Section]:
    measured = study.runs["metric"].str.startswith("distance/").any()
    return [oracle_distance(study, read)] if measured else []


def _of_forget_set(read: StudyRecords) -> list[str]:
    """The measure by which paths are compared, if there is one."""
    measures = set(read.runs["metric"].unique())
    stages = read.runs["forget"].unique()
    # Paths that forget different stages have no examples in common.
    wanted = ["log_likelihood/forget", *(f"answers/{stage}" for stage in stages)]
    return [name for name in wanted if name in measures][:1] if len(stages) == 1 else []


def _read(study: StudyRecords, examples: pd.DataFrame) -> StudyRecords:
    """The rows that the sections look at, for there are many more."""
    answers = [f"answers/{stage}" for stage in study.runs["forget"].unique()]
    if "metric" not in examples:
        return read_records(examples, "examples")
    measures = examples["metric"]
    wanted = [m for m in measures.unique() if str(m).startswith(("log_likelihood/", "margin/"))]
    # Answers stand in for the probe of the forget set.
    wanted += answers if "log_likelihood/forget" not in wanted else []
    return read_records(examples[measures.isin(wanted)], "examples")


def _lacking(study: StudyRecords, read: StudyRecords | None) -> list[str]:
    """What was left out for want of a measure, and how to have it, as a sentence."""
    lacking = []
    if not study.runs["metric"].str.startswith("distance/").any():
        lacking.append("the distance to the oracle (found no measure distance/GROUP)")
    if read is None or not measures_of_probes(read):
        lacking.append("KLoM (found no margin/GROUP per example of runs and their oracles)")
    if not lacking:
        return []
    text = f"{join_words(lacking)} {'are' if len(lacking) > 1 else 'is'} left out"
    return [
        f"{text[0].upper()}{text[1:]}; {'they take' if len(lacking) > 1 else 'it takes'} the "
        "monitor OracleDistance, and oracle: true in the study with its oracles made (--only may "
        "leave them out)."
    ]


def _missing(study: StudyRecords) -> list[str]:
    """How many values were left out for not being finite, as a sentence."""
    values = study.runs["value"].to_numpy(float)
    count = int((~np.isfinite(values)).sum())
    if not count:
        return []
    verb = "are not finite numbers and were" if count > 1 else "is not a finite number and was"
    return [f"{count} of {len(values)} values in the records {verb} left out of means over seeds."]
