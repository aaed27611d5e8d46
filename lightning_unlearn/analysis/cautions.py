"""What limits a forget score: little was learned, little moved, or paths hardly differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.known_rows import DECIMALS
from lightning_unlearn.analysis.reading import (
    Condition,
    PathPosition,
    StudyRecords,
    by_condition,
    read_records,
)
from lightning_unlearn.settings.forget_labels import BASE, LABEL, ForgetLabel, label_of
from lightning_unlearn.settings.labels import setting_name
from lightning_unlearn.statistics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

# Nats per token. A stage counts as hardly learned if the 95 % interval of its gain over the base
# model lies below the first; a model as hardly moved if that of the mean absolute change of its
# rows' log-likelihoods lies below the second, in every set of rows.
LEAST_GAIN, LEAST_MOVE = 0.1, 0.01
# What tables round to, nats per token.
ROUNDING = 10.0**-DECIMALS
_PAPER = ForgetLabel("paper")


@dataclass(frozen=True)
class Gain:
    """How much more likely the label is before unlearning than under the base model.

    Attributes:
        path: and position.
        setting: in words; "" where all settings have the same gain.
        gain: mean over forget rows, each a mean over runs, nats per token.
    """

    path: PathPosition
    setting: str
    gain: Interval

    @property
    def is_small(self) -> bool:
        """Whether the stage was hardly learned."""
        return self.gain.high < LEAST_GAIN

    @property
    def is_unclear(self) -> bool:
        """Whether the rows cannot tell if the stage was learned."""
        return not self.is_small and self.gain.low <= 0


@dataclass(frozen=True)
class Move:
    """How much the log-likelihoods of single rows change during unlearning.

    Attributes:
        condition: method and setting.
        path: and position.
        move: mean absolute change over the rows of the set that changes most, nats per token.
    """

    condition: Condition
    path: PathPosition
    move: Interval

    @property
    def is_small(self) -> bool:
        """Whether the model hardly moved."""
        return self.move.high < LEAST_MOVE


def rows_of_ends(study: StudyRecords, examples: pd.DataFrame | None) -> StudyRecords | None:
    """The values per example of labels and answers, at the first and last steps of runs.

    Args:
        study: the records.
        examples: the values per example, as the study wrote them.
    """
    if examples is None or "metric" not in examples or study.runs.empty:
        return None
    names = [str(name) for name in examples["metric"].unique()]
    parts = {name: own[1] for name in names if (own := label_of(name)) is not None}
    wanted = [n for n in names if parts.get(n) in (LABEL, BASE) or n.startswith("answers/")]
    steps = study.runs.groupby("run")["step"].agg(["min", "max"]).to_numpy().ravel()
    rows = examples[examples["metric"].isin(wanted) & examples["step"].isin(np.unique(steps))]
    return read_records(rows, "examples") if len(rows) else None


def gains(ends: StudyRecords) -> list[Gain]:
    """The gain of the label over the base model, of each path with values of both.

    Settings that change nothing before unlearning have equal gains and are one.

    Args:
        ends: what `rows_of_ends` returns.
    """
    runs = ends.runs
    keys = ["path", "position", "setting", "example", "run"]
    base = runs[runs["metric"] == _PAPER.metric(BASE)].set_index(keys)["value"]
    label = runs[(runs["metric"] == _PAPER.metric(LABEL)) & (runs["step"] == 0)]
    gain = (label.set_index(keys)["value"] - base).dropna()
    by_row = gain.groupby(level=keys[:4], sort=False).mean()
    found = []
    for path, rows in by_row.groupby(level=keys[:2], sort=False):
        settings: dict[Interval, int] = {}
        for setting, own in rows.groupby(level="setting", sort=False):
            settings.setdefault(mean_interval(own.to_numpy()), setting)
        for interval, setting in settings.items():
            words = setting_name(ends.sweep, ends.settings[setting]) if len(settings) > 1 else ""
            found.append(Gain((str(path[0]), int(path[1])), words, interval))
    return found


def moves(ends: StudyRecords) -> list[Move]:
    """The changes of rows, by method, setting and path, where both ends were measured.

    Args:
        ends: what `rows_of_ends` returns.
    """
    data = ends.runs[ends.runs["metric"] != _PAPER.metric(BASE)]
    step = data.groupby("run")["step"]
    keys = ["method", "setting", "path", "position", "metric", "example", "run"]
    start, end = step.transform("min"), step.transform("max")
    first, last = (
        data[(data["step"] == own) & (start < end)].set_index(keys)["value"] for own in (start, end)
    )
    by_row = (last - first).abs().dropna().groupby(level=keys[:-1], sort=False).mean()
    found = []
    for (method, setting, path, position), rows in by_row.groupby(level=keys[:4], sort=False):
        sets = [mean_interval(own.to_numpy()) for _, own in rows.groupby(level="metric")]
        condition = Condition(str(method), ends.sweep, ends.settings[setting])
        most = max(sets, key=lambda own: own.high if own.high == own.high else np.inf)
        found.append(Move(condition, (str(path), int(position)), most))
    return found


def close_paths(scores: pd.DataFrame) -> dict[str, float]:
    """How far the mean forget scores of paths are apart, where it is less than their rounding.

    Args:
        scores: what `scores` returns.

    Returns:
        Highest less lowest, nats per token, by name of method and setting with several paths.
    """
    found = {}
    for condition, runs in by_condition(scores, "forget_score"):
        means = runs.groupby(["path", "position"])["forget_score"].mean().dropna()
        if len(means) > 1 and means.max() - means.min() < ROUNDING:
            found[condition.name] = float(means.max() - means.min())
    return found


def largest(intervals: Sequence[Interval]) -> Interval:
    """The interval with the largest mean."""
    return max(intervals, key=lambda own: own.mean)
