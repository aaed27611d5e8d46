"""The scores of a study, and their grid over a sweep."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import FORGET_LABEL, sweep_keys
from lightning_unlearn.analysis.reading import Condition, settings_of, value_names
from lightning_unlearn.analysis.scores import label_of_scores
from lightning_unlearn.report.formatting import number, short_number
from lightning_unlearn.report.tables import (
    SETTING,
    Column,
    Row,
    Table,
    mean_and_range,
    rows_of,
    table_of_runs,
)

if TYPE_CHECKING:
    import pandas as pd

HEADINGS = {"forget_score": "forget score", "oracle_gap": "oracle gap"}
SCORE_NOTE = "Forget score: drop of the mean log-likelihood of {label}."
GAP_NOTE = (
    "Oracle gap: this log-likelihood after unlearning, less that under the model retrained without "
    "the forget stage."
)


def scores_table(scores: pd.DataFrame) -> Table:
    """The table of the scores: rows are paths by position, grouped by method and setting.

    Several seeds are written as mean (lowest to highest). Within a method and setting with several
    paths the lowest forget score is bold.
    """
    sweep = sweep_keys(scores, "forget_score")
    names = value_names(scores, sweep)
    rows = rows_of(scores, "forget_score", lowest="forget_score")
    notes, label = [], label_of_scores(scores)
    if FORGET_LABEL in scores:
        what = label.sentence if label else f"what the setting names ({FORGET_LABEL})"
        notes.append(SCORE_NOTE.format(label=what))
    if any(row.bold for row in rows):
        whose = "method and setting" if sweep else "method"
        notes.append(f"Bold: the lowest forget score of a {whose}, where forgetting was slowest.")
    notes += [GAP_NOTE] if "oracle_gap" in names else []
    columns = [Column(HEADINGS.get(name, name), partial(_score, name)) for name in names]
    return table_of_runs(columns, rows, notes, bool(sweep))


def _score(name: str, row: Row) -> str:
    return mean_and_range(row.data[name], signed=name.endswith((" accuracy change", "_gap")))


def sweep_grid(scores: pd.DataFrame, value: str) -> Table | None:
    """Means over seeds of a column of the scores, shaded; None without any value.

    It has a row per setting and a column per method and path.
    """
    sweep = sweep_keys(scores, "forget_score")
    codes, settings = settings_of(scores, sweep)
    keys = ["setting", "method", "path", "position"]
    means = scores.assign(setting=codes).groupby(keys)[value].mean().dropna()
    if means.empty:
        return None
    low, high = float(means.min()), float(means.max())
    methods = list(scores["method"])
    runs = sorted(
        {(str(method), int(position), str(path)) for _, method, path, position in means.index},
        key=lambda run: (methods.index(run[0]), run[1], run[2]),
    )

    def mean(run: tuple[str, int, str], row: Row) -> float:
        method, position, path = run
        return float(means.get((row.data, method, path, position), math.nan))

    def shade(run: tuple[str, int, str], row: Row) -> float | None:
        own = mean(run, row)
        share = (own - low) / (high - low) if high > low else 0.0
        return None if math.isnan(own) else share

    def text(run: tuple[str, int, str], row: Row) -> str:
        return number(mean(run, row))

    columns = [
        Column(f"{run[0]} (p = {run[1]})", partial(text, run), shade=partial(shade, run))
        for run in runs
    ]
    rows = [
        Row(Condition("", sweep, settings[code]), code)
        for code in sorted(means.index.unique("setting"))
    ]
    paths = "; ".join(f"p = {p}: {path}" for path, p in {path: p for _, p, path in runs}.items())
    note = f"Darker: higher. From {short_number(low)} to {short_number(high)}. {paths}"
    return Table([SETTING, *columns], rows, note)
