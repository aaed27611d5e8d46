"""Which figures there are, and the rows they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.curves import paths_of
from lightning_unlearn.analysis.reading import (
    StudyRecords,
    answers_of,
    forget_examples,
    read_records,
)
from lightning_unlearn.report.figures.curves import answers_figure, forget_figure, utility_figure
from lightning_unlearn.report.figures.divergence import divergence_figure
from lightning_unlearn.report.figures.examples import examples_figure
from lightning_unlearn.report.figures.oracle_distance import oracle_figure
from lightning_unlearn.report.figures.spec import Figure
from lightning_unlearn.report.figures.style import StyleMap, styles_of_paths, styles_of_stages
from lightning_unlearn.report.figures.tradeoff import tradeoff_figure

if TYPE_CHECKING:
    import pandas as pd

Builder = Callable[[StudyRecords, StyleMap, StudyRecords | None], Figure | None]


def _label_or_answers(study: StudyRecords) -> Figure | None:
    """Answers, where those of the forget stage were measured but not its label."""
    if (study.runs["metric"] == "forget/label").any():
        return None
    stages = [str(stage) for stage in answers_of(study.runs)["stage"].unique()]
    forget = [str(stage) for stage in study.runs["forget"].unique()]
    return answers_figure(study, styles_of_stages(stages, forget))


FIGURES: dict[str, Builder] = {
    "forget": lambda study, styles, _: forget_figure(study, styles),
    "utility": lambda study, styles, _: utility_figure(study, styles),
    "answers": lambda study, *_: _label_or_answers(study),
    "oracle": oracle_figure,
    "divergence": lambda _, __, examples: divergence_figure(examples) if examples else None,
    "trajectories": examples_figure,
    "tradeoff": lambda study, styles, _: tradeoff_figure(study, styles),
}


def build_figures(
    records: pd.DataFrame, examples: pd.DataFrame | None = None, names: Sequence[str] = ()
) -> dict[str, Figure]:
    """The figures of `save_figures` as values, by name (all, or only those in `names`).

    Those that were not measured are left out. Arguments and errors are those of `save_figures`.
    """
    if not len(records):
        return {}
    study = read_records(records).finite()
    read = forget_examples(study, examples)
    styles = styles_of_paths(paths_of(study.runs))
    built = {name: FIGURES[name](study, styles, read) for name in names or FIGURES}
    return {name: figure for name, figure in built.items() if figure is not None}
