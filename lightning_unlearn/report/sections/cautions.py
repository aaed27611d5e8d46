"""Sentences on what limits a forget score, with the numbers and the thresholds that decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.cautions import (
    LEAST_GAIN,
    LEAST_MOVE,
    ROUNDING,
    Gain,
    Move,
    close_paths,
    gains,
    largest,
    moves,
    rows_of_ends,
)
from lightning_unlearn.analysis.reading import PathPosition, StudyRecords, read_records
from lightning_unlearn.analysis.scores import score_name
from lightning_unlearn.report.formatting import among, join_words, names_of_paths, short_number

if TYPE_CHECKING:
    import pandas as pd

    from lightning_unlearn.statistics import Interval

# A path, and a setting in words where settings of the path differ.
Place = tuple[PathPosition, str]


def cautions(
    study: StudyRecords, scores: pd.DataFrame | None, examples: pd.DataFrame | None
) -> list[str]:
    """Sentences on stages hardly learned, models hardly moved, and paths that hardly differ.

    Args:
        study: the records.
        scores: what `scores` returns; None for a study of depths.
        examples: the values per example; None where there are none, which leaves out the first two.
    """
    ends = rows_of_ends(study, examples)
    found = []
    if ends is not None:
        found += [*_learned(gains(ends), study.label_words), *_moved(moves(ends))]
    return [*found, *(_close(scores) if scores is not None else [])]


def cautions_of(records: pd.DataFrame, examples: pd.DataFrame) -> list[str]:
    """The sentences on one run, from its tables.

    Args:
        records: as for `scores`.
        examples: the same with values per example; may be empty.
    """
    study = read_records(records) if len(records) else None
    return [] if study is None else cautions(study, None, examples if len(examples) else None)


def _learned(every: Sequence[Gain], label: str) -> list[str]:
    """On stages that were hardly learned, and on those of which the rows cannot tell."""
    small = [own for own in every if own.is_small]
    unclear = [own for own in every if own.is_unclear]
    places = _places(every)
    before = f"before unlearning, the log-likelihood of {label} exceeds that under the base model"
    sentences = []
    if small:
        sentences.append(
            f"The forget stage was hardly learned on {_paths(_places(small), places)}: {before} by "
            f"at most {_interval(largest([own.gain for own in small]))}, below {LEAST_GAIN}."
        )
    if unclear:
        sentences.append(
            f"Whether the forget stage was learned on {_paths(_places(unclear), places)} cannot be "
            f"determined: {before} by {_interval(largest([own.gain for own in unclear]))}, which "
            "includes 0."
        )
    return sentences


def _moved(every: Sequence[Move]) -> list[str]:
    """On models that hardly moved, by method and setting."""
    sentences = []
    by_name: dict[str, list[Move]] = {}
    for own in every:
        by_name.setdefault(own.condition.name, []).append(own)
    for name, paths in by_name.items():
        small = [own for own in paths if own.is_small]
        if small:
            where = _paths([(own.path, "") for own in small], [(own.path, "") for own in paths])
            sentences.append(
                f"Under {name} the model hardly moved on {where}: the "
                "log-likelihoods of single rows changed by at most "
                f"{_interval(largest([own.move for own in small]))} on the mean, below "
                f"{LEAST_MOVE}."
            )
    return sentences


def _close(scores: pd.DataFrame) -> list[str]:
    """On paths whose forget scores differ by less than their rounding."""
    close = close_paths(scores)
    if not close:
        return []
    unit, what = "nats per token", score_name(scores)
    parts = [f"by {short_number(apart)} {unit} under {name}" for name, apart in close.items()]
    return [
        f"Paths differ by less than rounding: their {what} differs {join_words(parts)}, less than "
        f"{short_number(ROUNDING)}. Their order says nothing."
    ]


def _places(gains: Sequence[Gain]) -> list[Place]:
    return [(own.path, own.setting) for own in gains]


def _paths(some: Sequence[Place], every: Sequence[Place]) -> str:
    """Some of the paths, with settings that differ on one path, for a sentence."""
    paths = list(dict.fromkeys(path for path, _ in every))
    if len(some) == len(every) and len(paths) > 1:
        return f"all {len(paths)} paths"
    names = dict(zip(paths, names_of_paths(paths), strict=True))
    return among([names[path] + f" ({words})" * bool(words) for path, words in some], len(every))


def _interval(own: Interval) -> str:
    low, high = short_number(own.low), short_number(own.high)
    return f"{short_number(own.mean)} nats per token (95 % {low} to {high} over {own.count} rows)"
