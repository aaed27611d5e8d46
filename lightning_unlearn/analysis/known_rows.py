"""The rows of a table that reports read, with known columns, metrics and types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.forget_labels import ForgetLabel, label_of, labels_in

if TYPE_CHECKING:
    import pandas as pd

RUN = ["method", "path", "position", "seed"]
COLUMNS = ["path", "position", "method", "seed", "stage", "step", "metric", "value"]
# Digits after the point of scores in tables and sentences; what is closer counts as equal.
DECIMALS = 3
# What scores and depths are of.
OUTCOMES = ("forget/", "answers/", "accuracy/")
# Metrics of the monitor OracleDistance.
COMPARISONS = ("log_likelihood/", "margin/", "distance/", "kl/", "overshoot/")
PREFIXES = (*OUTCOMES, *COMPARISONS)
# The column with the label of each run's forget score; a sweep key where labels differ.
FORGET_LABEL = "forget_label"


def known_rows(
    records: pd.DataFrame, columns: Sequence[str], kind: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows and columns that reports read, and the sweep keys."""
    missing = [name for name in columns if name not in records.columns]
    if missing:
        raise InputError(
            f"{kind}: found the columns {', '.join(map(str, records.columns)) or '(none)'}, "
            f"expected also {', '.join(missing)}; pass the {kind} that a study wrote"
        )
    sweep = sweep_keys(records, "stage")
    data = records[[*columns, *sweep]]
    known = [name for name in data["metric"].unique() if str(name).startswith(PREFIXES)]
    return data[data["stage"].isin(["unlearn", "oracle"]) & data["metric"].isin(known)], sweep


def with_labels(
    data: pd.DataFrame, sweep: tuple[str, ...], kind: str
) -> tuple[pd.DataFrame, tuple[str, ...], list[ForgetLabel]]:
    """The rows with one name for the metrics of all labels, the sweep keys, and the labels."""
    metrics = [str(metric) for metric in data["metric"].unique()]
    found = {metric: own for metric in metrics if (own := label_of(metric)) is not None}
    labels = labels_in(metrics)
    if len(labels) > 1:
        names = data["metric"].map({metric: label.name for metric, (label, _) in found.items()})
        runs = [data[name] for name in (*RUN, *sweep, "stage")]
        by_run = names.groupby(runs, sort=False, dropna=False)
        if (by_run.transform("nunique") > 1).any():
            raise InputError(
                f"{kind}: found a run with forget scores of {labels[0].words} and of "
                f"{labels[1].words}, expected one of them; pass the {kind} of one run at a time"
            )
        data = data.assign(**{FORGET_LABEL: by_run.transform("first")})
        sweep = (*sweep, FORGET_LABEL)
    paper = ForgetLabel("paper")
    renamed = {m: paper.metric(part) for m, (label, part) in found.items() if label != paper}
    return (data.replace({"metric": renamed}) if renamed else data), sweep, labels


def with_numbers(data: pd.DataFrame, whole: Sequence[str], kind: str) -> pd.DataFrame:
    """The rows with their types, each once."""
    data = data.astype({"path": str, "method": str, "stage": str, "metric": str})
    try:
        data = data.astype({**dict.fromkeys(whole, int), "value": float})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{kind}: found a value that is not a number ({error}), expected whole numbers in "
            f"{', '.join(whole[:-1])} and {whole[-1]} and numbers in value; pass the {kind} that a "
            "study wrote"
        ) from error
    return data.drop_duplicates(ignore_index=True)


def sweep_keys(table: pd.DataFrame, before: str) -> tuple[str, ...]:
    """The columns between `seed` and the one named `before`."""
    names = tuple(map(str, table.columns))
    return names[names.index("seed") + 1 : names.index(before)]
