"""Table 1 of the paper from a study of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_unlearn.report.formatting import DECIMALS, number
from lightning_unlearn.report.latex import bold_latex, escape_latex, table_latex
from lightning_unlearn.report.layout import escape, names_of_values
from lightning_unlearn.report.reading import settings_of, sweep_keys
from lightning_unlearn.report.scores import scores
from lightning_unlearn.settings.labels import setting_name
from lightning_unlearn.statistics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

NOTE = (
    "Forget score: drop of the mean log-likelihood of label and paraphrases, nats per token. "
    "Utility: 1 - |change of the log-likelihood of a stage's answers|, or the change of its "
    "accuracy. Bold: the lowest forget score of a column, where forgetting was slowest."
)
SEEDS = "Means over {count} runs; \u00b1: half the 95 % interval."


@dataclass(frozen=True)
class ScoreTable:
    """Scores by position, a column per base model and method.

    Attributes:
        models: over the columns, each with how many it is over; "" for none.
        methods: the columns.
        groups: of each score its name and its rows: position, cells, and which of them are bold.
        notes: how to read it.
    """

    models: Sequence[tuple[str, int]]
    methods: Sequence[str]
    groups: Sequence[tuple[str, Sequence[tuple[int, Sequence[str], Sequence[bool]]]]]
    notes: str

    def markdown(self) -> str:
        """The table for GitHub, ending in a newline."""
        owners = [name for name, count in self.models for _ in range(count)]
        heads = [
            escape(f"{owner}: {method}" if owner else method)
            for owner, method in zip(owners, self.methods, strict=True)
        ]
        lines = [["score", "p", *heads], ["---", "---:", *(["---:"] * len(heads))]]
        for name, rows in self.groups:
            for place, (position, cells, bold) in enumerate(rows):
                texts = [f"**{c}**" if b else c for c, b in zip(cells, bold, strict=True)]
                lines.append(["" if place else escape(name), str(position), *texts])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n{escape(self.notes)}\n"

    def latex(self) -> str:
        """The table for LaTeX with the package booktabs, ending in a newline."""
        width = len(self.methods) + 1
        groups = []
        for name, rows in self.groups:
            group = [[rf"\multicolumn{{{width}}}{{c}}{{\emph{{{escape_latex(name)}}}}}"]]
            for position, cells, bold in rows:
                texts = [escape_latex(cell) for cell in cells]
                texts = [bold_latex(t) if b else t for t, b in zip(texts, bold, strict=True)]
                group.append([str(position), *texts])
            groups.append(group)
        above = []
        if any(name for name, _ in self.models):
            spans = [rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(m)}}}" for m, n in self.models]
            above = [rf" & {' & '.join(spans)} \\"]
        head = ["Path ($p$)", *map(escape_latex, self.methods)]
        return table_latex(head, [False, *([True] * (width - 1))], groups, self.notes, "", above)


def table_one(records: pd.DataFrame) -> ScoreTable | None:
    """Forget score, TOFU utility and accuracies by position, as in Table 1 of the paper.

    A value is the mean over the seeds, and over the paths of a position where there are several.
    With sweep keys a column is a method and setting; `model.base` heads several columns. Without a
    stage named tofu every stage has a utility.

    Returns:
        None without a finite forget score.

    Raises:
        InputError: as for `lightning_unlearn.report.scores`.
    """
    table = scores(records)
    if table.empty or not table["forget_score"].notna().any():
        return None
    sweep = sweep_keys(table, "forget_score")
    codes, settings = settings_of(table, sweep)
    base = next((i for i, key in enumerate(sweep) if key.split(".")[-1] == "base"), None)
    columns = []
    for code, setting in enumerate(settings):
        model = "" if base is None else str(setting[base]).rstrip("/").split("/")[-1]
        others = [i for i in range(len(sweep)) if i != base]
        words = setting_name([sweep[i] for i in others], [setting[i] for i in others])
        mine = table[[own == code for own in codes]]
        for method in mine["method"].unique():
            name = f"{method} ({words})" if words else str(method)
            columns.append((model, name, mine[mine["method"] == method]))
    order = list(dict.fromkeys(model for model, _, _ in columns))
    columns.sort(key=lambda column: order.index(column[0]))
    names = names_of_values(table, sweep)
    kept = [n for n in names if n == "tofu utility"] or [n for n in names if n.endswith(" utility")]
    positions = sorted(int(position) for position in table["position"].unique())
    groups, most = [], 1
    for name in ["forget_score", *kept, *(n for n in names if n.endswith(" accuracy change"))]:
        found = [[_mean(part, name, p) for _, _, part in columns] for p in positions]
        most = max([most, *(interval.count for row in found for interval in row)])
        lowest = [
            min((round(row[place].mean, DECIMALS) for row in found if row[place].count), default=0)
            for place in range(len(columns))
        ]
        rows = [
            (
                position,
                [_cell(interval) for interval in row],
                [
                    name == "forget_score"
                    and len(positions) > 1
                    and interval.count > 0
                    and round(interval.mean, DECIMALS) == least
                    for interval, least in zip(row, lowest, strict=True)
                ],
            )
            for position, row in zip(positions, found, strict=True)
        ]
        groups.append((_title(name), rows))
    models = [(model, sum(own == model for own, _, _ in columns)) for model in order]
    notes = NOTE + (f" {SEEDS.format(count=most)}" if most > 1 else "")
    return ScoreTable(models, [name for _, name, _ in columns], groups, notes)


def _mean(runs: pd.DataFrame, name: str, position: int) -> Interval:
    return mean_interval(runs.loc[runs["position"] == position, name].to_numpy())


def _cell(interval: Interval) -> str:
    mean = number(interval.mean)
    return f"{mean}\u00b1{number(interval.half)}" if interval.count > 1 else mean


def _title(name: str) -> str:
    if name == "forget_score":
        return "Forget score \u2191"
    stage, _, what = name.rpartition(" ")
    return f"Utility score ({stage}) \u2191" if what == "utility" else f"{name} \u2191"
