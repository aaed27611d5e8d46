"""Table 1 of the paper from a study of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import DECIMALS, sweep_keys
from lightning_unlearn.analysis.reading import Condition, Setting, settings_of, value_names
from lightning_unlearn.analysis.scores import label_of_scores, scores
from lightning_unlearn.report.formatting import number
from lightning_unlearn.report.tables import (
    POSITION,
    Column,
    Row,
    Table,
    escape_latex,
    latex_cell,
    latex_float,
    latex_row,
)
from lightning_unlearn.settings.labels import run_name, setting_name
from lightning_unlearn.statistics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

NOTE = (
    "Forget score: drop of the mean log-likelihood of {label}, nats per token. "
    "Utility: 1 - |change of the log-likelihood of a stage's answers|, or the change of its "
    "accuracy. Bold: the lowest forget score of a column, where forgetting was slowest."
)
SEEDS = "Means over {count} runs; \u00b1: half the 95 % interval."
SCORE = "Forget score \u2191"


@dataclass(frozen=True)
class ScoreTable(Table):
    """Scores by position, a column per base model and method.

    Attributes:
        heads: base model, or "" where there is one alone, and method of the columns after the first
            two, which are score and position.
    """

    heads: Sequence[tuple[str, str]] = ()

    def latex(self, caption: str = "") -> str:
        """The table for LaTeX with the package booktabs, ending in a newline."""
        lines = []
        if any(model for model, _ in self.heads):
            models = [(m, len(list(own))) for m, own in groupby(self.heads, lambda head: head[0])]
            spans = [rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(m)}}}" for m, n in models]
            lines.append(latex_row(["", *spans]))
        lines.append(latex_row(["Path ($p$)", *(escape_latex(name) for _, name in self.heads)]))
        width = len(self.heads) + 1
        for title, rows in groupby(self.rows, lambda row: row.of.method):
            across = rf"\multicolumn{{{width}}}{{c}}{{\emph{{{escape_latex(title)}}}}}"
            lines += [r"\midrule", latex_row([across])]
            for row in rows:
                cells = (latex_cell(column.cell(row)) for column in self.columns[2:])
                lines.append(latex_row([str(row.path[1]), *cells]))
        return latex_float("l" + "r" * len(self.heads), lines, self.note, caption)


def table_one(records: pd.DataFrame) -> ScoreTable | None:
    """Forget score, TOFU utility and accuracies by position, as in Table 1 of the paper.

    A value is the mean over the seeds, and over the paths of a position where there are several.
    With sweep keys a column is a method and setting; `model.base` heads several columns. Without a
    stage named tofu every stage has a utility.

    Returns:
        None without a finite forget score.

    Raises:
        InputError: as for `scores`.
    """
    table = scores(records)
    if table.empty or not table["forget_score"].notna().any():
        return None
    runs, label = _runs_of_columns(table), label_of_scores(table)
    heads = list(runs)
    names = value_names(table, sweep_keys(table, "forget_score"))
    kept = [n for n in names if n == "tofu utility"] or [n for n in names if n.endswith(" utility")]
    kept += [name for name in names if name.endswith(" accuracy change")]
    titles = {name: _title(name) for name in ("forget_score", *kept)}
    positions = sorted(map(int, table["position"].unique()))
    rows = [
        Row(Condition(title, (), ()), [_mean(own, name, p) for own in runs.values()], ("", p))
        for name, title in titles.items()
        for p in positions
    ]
    columns = [
        Column(f"{model}: {method}" if model else method, partial(_cell, place))
        for place, (model, method) in enumerate(heads)
    ]
    most = max(interval.count for row in rows for interval in row.data)
    return ScoreTable(
        [Column("score", lambda row: row.of.method, is_name=True, once=True), POSITION, *columns],
        _with_lowest(rows, columns),
        NOTE.format(label=label.sentence if label else "label and paraphrases")
        + (f" {SEEDS.format(count=most)}" if most > 1 else ""),
        heads,
    )


def _runs_of_columns(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The runs of each base model and method, whose name has what else is swept."""
    sweep = sweep_keys(table, "forget_score")
    codes, settings = settings_of(table, sweep)
    base = next((i for i, key in enumerate(sweep) if key.split(".")[-1] == "base"), None)
    others = [place for place in range(len(sweep)) if place != base]
    found: dict[str, dict[tuple[str, str], pd.DataFrame]] = {}
    for code, (setting, model) in enumerate(zip(settings, _models(settings, base), strict=True)):
        words = setting_name([sweep[i] for i in others], [setting[i] for i in others])
        own = table[[other == code for other in codes]]
        for method, runs in own.groupby("method", sort=False):
            found.setdefault(model, {})[model, run_name(str(method), words)] = runs
    return {head: runs for columns in found.values() for head, runs in columns.items()}


def _models(settings: Sequence[Setting], base: int | None) -> list[str]:
    """The base model of each setting, without its folder if it has another name than the others."""
    if base is None:
        return [""] * len(settings)
    whole = [str(setting[base]).rstrip("/") for setting in settings]
    short = [name.split("/")[-1] for name in whole]
    return short if len(set(short)) == len(set(whole)) else whole


def _with_lowest(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The rows, with the lowest forget score of each column bold where there are several."""
    first = [row for row in rows if row.of.method == SCORE]
    means = [[round(own.mean, DECIMALS) for own in row.data] for row in first]
    lowest = [min((m for m in own if m == m), default=None) for own in zip(*means, strict=True)]
    if len(first) > 1:
        for place, (row, own) in enumerate(zip(first, means, strict=True)):
            pairs = zip(columns, own, lowest, strict=True)
            bold = [column.heading for column, mean, least in pairs if mean == least]
            first[place] = replace(row, bold=bold)
    return [*first, *rows[len(first) :]]


def _mean(runs: pd.DataFrame, name: str, position: int) -> Interval:
    return mean_interval(runs.loc[runs["position"] == position, name].to_numpy())


def _cell(place: int, row: Row) -> str:
    interval: Interval = row.data[place]
    mean = number(interval.mean)
    return f"{mean}\u00b1{number(interval.half)}" if interval.count > 1 else mean


def _title(name: str) -> str:
    if name == "forget_score":
        return SCORE
    stage, _, what = name.rpartition(" ")
    return f"Utility score ({stage}) \u2191" if what == "utility" else f"{name} \u2191"
