"""How much of what differs between runs is due to their path: table and sentences."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lightning_unlearn.analysis.known_rows import FORGET_LABEL
from lightning_unlearn.analysis.path_dependence import PathDependence, path_dependences
from lightning_unlearn.analysis.reading import StudyRecords
from lightning_unlearn.analysis.scores import label_of_scores, score_name
from lightning_unlearn.report.formatting import MISSING, join_words, short_number
from lightning_unlearn.report.sections.base import Section, ends_of
from lightning_unlearn.report.tables import Column, Row, csv, table_of_runs
from lightning_unlearn.statistics import mean_interval

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Path dependence"
NAMES = {
    "forget_score": "forget score",
    "label_drop": "drop of the label",
    "forget_distance": "distance to the oracle",
}
NOTE = (
    "Share of an outcome's variance over runs that lies between paths, ICC(1), with its 95 % "
    "interval: 1 = the path decides, 0 = seeds differ as much. Estimates below 0 are written as 0; "
    "n/a: the seeds of every path are alike, or there is no path of two."
)
# Columns of the CSV file, and the attributes of an index that they hold.
INDEX = {
    "icc1": "index",
    "icc1_low": "low",
    "icc1_high": "high",
    "F": "f",
    "df_between": "between",
    "df_within": "within",
    "p": "p",
}


def path_dependence(scores: pd.DataFrame, study: StudyRecords) -> Section:
    """The share of every outcome's variance over runs that lies between paths.

    path_dependence.csv, in which negative estimates stay, has a row per method, setting and
    outcome, with the recency effect beside it: the last position less the mean of the others,
    paired by seed. Without a table, a single sentence says why there is nothing to compare.
    """
    found = path_dependences(scores, study)
    if all(own.index is None for own in found):
        return Section(TITLE, findings=[_why(scores)])
    rows, findings = [], []
    for condition, group in groupby(found, lambda own: own.condition):
        outcomes = {own.outcome: own for own in group}
        rows.append(Row(condition, outcomes))
        if any(own.index is not None for own in outcomes.values()):
            own_name = score_name(scores)
            findings.append(f"{condition.name}: {_finding(list(outcomes.values()), own_name)}.")
    names = dict.fromkeys(own.outcome for own in found)
    columns = [Column(NAMES.get(name, name), partial(_share, name)) for name in names]
    label = label_of_scores(scores)
    notes = [NOTE, *([f"Forget score and label: {label.sentence}."] if label else [])]
    table = table_of_runs(columns, rows, notes, bool(study.sweep), by_path=False)
    of_all = {FORGET_LABEL: label.name} if label and FORGET_LABEL not in study.sweep else {}
    records = csv([{**_record(own), **of_all} for own in found])
    return Section(TITLE, {"path_dependence": records}, table, findings)


def _record(own: PathDependence) -> dict[str, Any]:
    """A row of path_dependence.csv; fields are empty where there is no index, or no effect."""
    return {
        **own.condition.identity,
        **{name: getattr(own, name) for name in ("outcome", "paths", "runs", "missing")},
        **{column: getattr(own.index, name, None) for column, name in INDEX.items()},
        **ends_of("recency", own.recency if own.recency is not None else mean_interval([])),
    }


def _share(name: str, row: Row) -> str:
    index = row.data[name].index
    if index is None:
        return MISSING
    share, low, high = map(_written, index.share)
    # Without a space in it, so that the interval stays on one line.
    return f"{share} ({low},{high})" if low != MISSING else f"{share} ({MISSING})"


def _written(share: float) -> str:
    return f"{share:.2f}" if share == share else MISSING


def _finding(outcomes: list[PathDependence], score: str) -> str:
    """What the path explains of every outcome, the first of them with its F test."""
    parts: list[str] = []
    for own in outcomes:
        index = own.index
        if index is None:
            continue
        share, low, high = map(_written, index.share)
        names = {**NAMES, "forget_score": score}
        part = f"{share} for the {names.get(own.outcome, own.outcome)}"
        if not parts and low == MISSING:
            part += " (no interval and no test: the seeds of every path are alike)"
        elif not parts:
            p = "p < 0.001" if index.p < 0.001 else f"p = {index.p:.3f}"
            test = f"F({index.between}, {index.within}) = {short_number(index.f)}, {p}"
            part += f" (95 % {low} to {high}; {test})"
        parts.append(part)
    return f"share of the variance over runs that lies between paths: {join_words(parts)}"


def _why(scores: pd.DataFrame) -> str:
    """Why no outcome has an index."""
    if len(scores.drop_duplicates(["path", "position"])) < 2:
        return "Path dependence is left out: there is only one path."
    if scores["seed"].nunique() < 2:
        return (
            "Path dependence is left out: nothing separates the spread of paths from that of one "
            "seed; give the study several seeds."
        )
    return "Path dependence is left out: no method has an outcome of two runs that differ."
