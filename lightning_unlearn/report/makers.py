"""Which figures there are, and the rows they look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_unlearn.report.curve_figures import answers_figure, forget_figure, utility_figure
from lightning_unlearn.report.divergence_figure import divergence_figure
from lightning_unlearn.report.oracle_figure import oracle_figure
from lightning_unlearn.report.reading import StudyRecords, read_records
from lightning_unlearn.report.tradeoff_figure import tradeoff_figure
from lightning_unlearn.report.trajectories_figure import trajectories_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Maker = Callable[[StudyRecords, "StudyRecords | None"], "Figure | None"]


def _label_or_answers(study: StudyRecords, _: StudyRecords | None) -> Figure | None:
    """Answers, where those of the forget stage were measured but not its label."""
    labeled = (study.runs["metric"] == "forget/label").any()
    return None if labeled else answers_figure(study)


FIGURES: dict[str, Maker] = {
    "forget": lambda study, _: forget_figure(study),
    "utility": lambda study, _: utility_figure(study),
    "answers": _label_or_answers,
    "oracle": oracle_figure,
    "divergence": lambda _, examples: divergence_figure(examples) if examples is not None else None,
    "trajectories": trajectories_figure,
    "tradeoff": lambda study, _: tradeoff_figure(study),
}


def finite(study: StudyRecords) -> StudyRecords:
    """The study without values that have no place on an axis."""
    return replace(study, runs=study.runs[study.runs["value"].abs() < float("inf")])


def read_examples(study: StudyRecords, examples: pd.DataFrame | None) -> StudyRecords | None:
    """The rows that the figures look at: the probe of the forget set, or answers in its place."""
    if examples is None or not len(examples):
        return None
    if "metric" not in examples:
        return read_records(examples, "examples")
    measures = set(examples["metric"].unique())
    stages = study.runs["forget"].unique()
    answers = [f"answers/{stage}" for stage in stages] if len(stages) == 1 else []
    wanted = [name for name in ("log_likelihood/forget", *answers) if name in measures][:1]
    return read_records(examples[examples["metric"].isin(wanted)], "examples") if wanted else None
