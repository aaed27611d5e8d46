"""How much of what differs between runs is due to their path, and to the last position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.known_rows import sweep_keys
from lightning_unlearn.analysis.reading import (
    Condition,
    StudyRecords,
    by_condition,
    ends,
    value_names,
)
from lightning_unlearn.statistics import Interval, IntraclassCorrelation, icc1, recency_effect

if TYPE_CHECKING:
    import pandas as pd

# Outcomes besides those of the scores: metric, sign, and value or change at the end of the run.
FURTHER = {
    "label_drop": ("forget/label", -1, "change"),
    "forget_distance": ("distance/forget", 1, "after"),
}


@dataclass(frozen=True)
class PathDependence:
    """What the path explains of an outcome under one method and setting.

    Attributes:
        condition: method and setting.
        outcome: a column of the scores, or of `FURTHER`.
        paths: with a finite value.
        runs: with a finite value.
        missing: runs without one.
        index: with paths as groups of seeds; None where there is nothing to compare.
        recency: the last position less the mean of the others; None where there is no such pair.
    """

    condition: Condition
    outcome: str
    paths: int
    runs: int
    missing: int
    index: IntraclassCorrelation | None
    recency: Interval | None


def path_dependences(scores: pd.DataFrame, study: StudyRecords) -> list[PathDependence]:
    """The intraclass correlation of every outcome, with paths as groups of seeds.

    Outcomes are the forget score, the drop of the label's log-likelihood (forget/label), utilities
    and accuracies as in the scores, and the RE distance to the oracle at the run's last step
    (distance/forget). An outcome that no run has is left out.

    Returns:
        By method, setting and outcome.
    """
    outcomes = _outcomes(scores, study)
    names = value_names(outcomes, sweep_keys(scores, "forget_score"))
    known = [name for name in names if name != "oracle_gap" and outcomes[name].notna().any()]
    return [
        _dependence(condition, runs, name)
        for condition, runs in by_condition(outcomes, "forget_score")
        for name in known
    ]


def _outcomes(scores: pd.DataFrame, study: StudyRecords) -> pd.DataFrame:
    """The scores with the outcomes that they do not have; runs are numbered as the scores' rows."""
    further = {}
    for name, (metric, sign, end) in FURTHER.items():
        rows = study.runs[study.runs["metric"] == metric]
        if len(rows):
            values = ends(rows, ["metric"])[end].droplevel("metric")
            further[name] = sign * values.reindex(scores.index)
    return scores.assign(**further)


def _dependence(condition: Condition, runs: pd.DataFrame, outcome: str) -> PathDependence:
    known = runs[np.isfinite(runs[outcome])]
    by_path = runs.groupby(["path", "position"])
    return PathDependence(
        condition,
        outcome,
        paths=len(known.drop_duplicates(["path", "position"])),
        runs=len(known),
        missing=len(runs) - len(known),
        index=icc1([part[outcome].to_numpy(float) for _, part in by_path]),
        recency=last_less_others(runs, outcome),
    )


def last_less_others(runs: pd.DataFrame, outcome: str) -> Interval | None:
    """The recency effect on an outcome: the last position less the mean of the others.

    Returns:
        Of the runs of one method and setting, mean over seeds and interval; a seed in which a path
        has no value is left out. None where the last position or the others have no value, or
        where paths differ in length, so that no one position is the last.
    """
    known = runs[runs[outcome].notna()]
    if not has_last(known):
        return None
    wide = known.pivot(index=["position", "path"], columns="seed", values=outcome)
    # A position would not be the same without one of its paths.
    positions = wide.groupby("position").agg(lambda values: values.mean(skipna=False))
    return recency_effect(positions.sort_index().to_numpy(float))


def has_last(runs: pd.DataFrame) -> bool:
    """Whether there is one last position, and another to compare it with."""
    lengths = {len(path.split("-")) for path in runs["path"]}
    positions = set(runs["position"])
    return len(lengths) == 1 and len(positions) > 1 and max(positions) in lengths
