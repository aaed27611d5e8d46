"""Deep or superficial forgetting: the table of depths and sentences."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.depth import FORGOTTEN, OTHER, REFUSAL
from lightning_unlearn.analysis.known_rows import sweep_keys
from lightning_unlearn.analysis.reading import by_condition, value_names
from lightning_unlearn.report.formatting import MISSING, join_words, number, percent, span
from lightning_unlearn.report.tables import (
    Column,
    Row,
    Table,
    mean_and_range,
    rows_of,
    table_of_runs,
)

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("deep", "superficial", "neither")


def depth_table(depths: pd.DataFrame) -> Table:
    """The table of the depths: rows are paths by position, grouped by method and setting.

    Of several seeds it has the means, and of changes the lowest and highest as well; one seed shows
    the interval of a change where the depths, which `depth` returns, have it.
    """
    sweep = sweep_keys(depths, "forget")
    names = value_names(depths, sweep)
    columns = []
    for stage in (name.removesuffix(" before") for name in names if name.endswith(" before")):
        columns.append(Column(f"{stage} before, after", partial(_move, stage)))
        columns.append(Column(f"{stage} change", partial(_change, f"{stage} change")))
    columns += [Column("verdict", _verdict)] if "verdict" in names else []
    columns += [Column("deep share", _deep_share)] if "deep_share" in names else []
    notes = ["Log-likelihood of the stages' answers before and after unlearning, nats per token."]
    rows = rows_of(depths, "forget")
    if any("±" in column.text(row) for column in columns for row in rows):
        notes.append("±: 95 % over prompts.")
    return table_of_runs(columns, rows, notes, bool(sweep))


def depth_findings(depths: pd.DataFrame) -> list[str]:
    """Sentences on whether forgetting was deep or superficial.

    There are none unless the paths have exactly the three stages R, C and U and forget U: other
    names do not say which stage refuses. Each method and setting has a sentence that
    counts its verdicts, then one per path. "±" is half the 95 % interval over prompts.

    Args:
        depths: what `depth` returns.

    Returns:
        Sentences in the order of first appearance of methods, settings; paths by position.
    """
    if "verdict" not in depths:
        return []
    sentences = []
    for own, runs in by_condition(depths[depths["verdict"].notna()], "forget"):
        sentences.append(f"{own.name}: {_count(runs)}.")
        paths = runs.sort_values("position", kind="stable").groupby("path", sort=False)
        sentences += [f"{own.name}, {path}: {_finding(part)}." for path, part in paths]
    return sentences


def _moved(runs: pd.DataFrame, stage: str) -> tuple[str, str]:
    """Before and after, means over seeds."""
    return number(runs[f"{stage} before"].mean()), number(runs[f"{stage} after"].mean())


def _move(stage: str, row: Row) -> str:
    return ", ".join(_moved(row.data, stage))


def _change(name: str, row: Row) -> str:
    """The change: with half its interval for one seed, with its spread for several."""
    return mean_and_range(row.data[name], signed=True) + _half(row.data, name)


def _half(runs: pd.DataFrame, change: str) -> str:
    """Half the interval of a change of one run, as " ± 0.123"; "" where there is none."""
    if len(runs) > 1 or f"{change} high" not in runs or runs[f"{change} high"].isna().any():
        return ""
    half = float((runs[f"{change} high"] - runs[f"{change} low"]).iloc[0]) / 2
    return f" ± {number(half)}"


def _verdict(row: Row) -> str:
    """The verdict, or how often which occurs."""
    counts = row.data["verdict"].value_counts()
    if len(counts) < 2:
        return str(counts.index[0]) if len(counts) else MISSING
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if verdict in counts)


def _deep_share(row: Row) -> str:
    return number(row.data["deep_share"].mean())


def _count(runs: pd.DataFrame) -> str:
    """How many paths, or runs of several seeds, have which verdict, as a clause."""
    deep, superficial, neither = ((runs["verdict"] == verdict).sum() for verdict in VERDICTS)
    paths, seeds = runs["path"].nunique(), runs.groupby("path")["seed"].nunique().tolist()
    what = f"path{'s' * (paths > 1)}"
    if max(seeds) > 1:
        what = f"runs ({paths} {what}, {span(seeds)} seeds per path)"
    return (
        f"forgetting was deep on {deep} of {len(runs)} {what}, superficial on {superficial} and "
        f"neither on {neither}"
    )


def _finding(runs: pd.DataFrame) -> str:
    """The verdict on one path and what it rests on, as clauses."""
    several = len(runs) > 1
    counts = runs["verdict"].value_counts()
    verdict = str(counts.index[0])
    if len(counts) > 1:
        verdict = join_words(f"{name} in {counts[name]}" for name in VERDICTS if name in counts)
        verdict = f"{verdict} of {len(runs)} seeds"
    moves = []
    for stage in (FORGOTTEN, OTHER, REFUSAL):
        by = number(runs[f"{stage} change"].mean(), signed=True)
        half = _half(runs, f"{stage} change")
        moves.append(f"{stage} from {' to '.join(_moved(runs, stage))} ({by}{half})")
    clauses = [verdict, f"{join_words(moves)} nats per token{', mean over seeds' * several}"]
    below = int((runs[f"{OTHER} before"] < runs[f"{REFUSAL} before"]).sum())
    if below and "deep" in counts:
        where = f" in {below} of {len(runs)} seeds" * several
        clauses.append(f"{OTHER} was below {REFUSAL} already before{where}")
    if "deep_share" in runs and runs["deep_share"].notna().any():
        prompts = span(runs["prompts"].tolist())
        share = f"{percent(runs['deep_share'].mean())} % of {prompts} prompts are deep"
        if not several:
            low, high = (percent(runs[f"deep_share_{end}"].iloc[0]) for end in ("low", "high"))
            share += f" (95 % interval {low} to {high} %)"
        clauses.append(share)
    return "; ".join(clauses)
