"""What the depths of a study say: a table and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_unlearn.report.depth import FORGOTTEN, OTHER, REFUSAL, depth
from lightning_unlearn.report.formatting import join_words, number, span
from lightning_unlearn.report.layout import Layout, names_of_values, rows_of, spread
from lightning_unlearn.report.reading import settings_of, sweep_keys
from lightning_unlearn.settings.labels import run_name, setting_name

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("deep", "superficial", "neither")


def depth_layout(depths: pd.DataFrame) -> Layout:
    """The table of what `lightning_unlearn.report.depth` returns.

    Rows are paths by position, grouped by method and setting. Of several seeds it has the means,
    and of changes the lowest and highest as well; one seed shows the interval of a change where
    the depths have it.
    """
    sweep = sweep_keys(depths, "forget")
    names = names_of_values(depths, sweep)
    stages = [name.removesuffix(" before") for name in names if name.endswith(" before")]
    further = [name for name in ("verdict", "deep_share") if name in names]

    def cells(runs: pd.DataFrame) -> list[str]:
        moves = [cell for stage in stages for cell in (_move(runs, stage), _change(runs, stage))]
        return [*moves, *(_cell(runs[name]) for name in further)]

    headings = [text for stage in stages for text in (f"{stage} before, after", f"{stage} change")]
    headings += [name.replace("_", " ") for name in further]
    notes = ["Log-likelihood of the stages' answers before and after unlearning, nats per token."]
    rows = rows_of(depths, sweep, cells)
    if any("±" in cell for row in rows for cell in row.cells):
        notes.append("±: 95 % over prompts.")
    return Layout(bool(sweep), headings, rows, notes)


def depth_findings(records: pd.DataFrame, examples: pd.DataFrame | None = None) -> list[str]:
    """Sentences on whether forgetting was deep or superficial.

    There are none unless the paths have exactly the three stages R, C and U and forget U; which
    stage refuses cannot be told from other names. Each method and setting has a sentence that
    counts its verdicts, then one per path. "±" is half the 95 % interval over prompts.

    Args:
        records: as for `lightning_unlearn.report.depth`.
        examples: the same.

    Returns:
        Sentences in the order of first appearance of methods, settings; paths by position.

    Raises:
        InputError: as for `lightning_unlearn.report.depth`.
    """
    return findings_of(depth(records, examples))


def findings_of(depths: pd.DataFrame) -> list[str]:
    """The sentences of `depth_findings` from what `lightning_unlearn.report.depth` returns."""
    if "verdict" not in depths:
        return []
    sweep = sweep_keys(depths, "forget")
    known = depths[depths["verdict"].notna()]
    codes, settings = settings_of(known, sweep)
    sentences = []
    for method, runs in known.assign(setting=codes).groupby("method", sort=False):
        for code, group in runs.groupby("setting"):
            name = run_name(method, setting_name(sweep, settings[code]))
            sentences.append(f"{name}: {_count(group)}.")
            paths = group.sort_values("position", kind="stable").groupby("path", sort=False)
            sentences += [f"{name}, {path}: {_finding(part)}." for path, part in paths]
    return sentences


def _move(runs: pd.DataFrame, stage: str) -> str:
    """Before and after, means over seeds."""
    return ", ".join(number(runs[f"{stage} {end}"].mean()) for end in ("before", "after"))


def _change(runs: pd.DataFrame, stage: str) -> str:
    """The change: with half its interval for one seed, with its spread for several."""
    name = f"{stage} change"
    return spread(runs[name], signed=True) + (_half(runs, name) if len(runs) == 1 else "")


def _half(runs: pd.DataFrame, change: str) -> str:
    """Half the interval of a change of one run, as " ± 0.123"; "" where there is none."""
    if f"{change} high" not in runs or runs[f"{change} high"].isna().any():
        return ""
    half = float((runs[f"{change} high"] - runs[f"{change} low"]).iloc[0]) / 2
    return f" ± {number(half)}"


def _cell(values: pd.Series) -> str:
    """The verdict, or how often which occurs, or the mean share."""
    known = values.dropna()
    if known.empty:
        return "n/a"
    if values.name == "deep_share":
        return number(known.mean())
    counts = known.value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if verdict in counts)


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
        before, after = (number(runs[f"{stage} {end}"].mean()) for end in ("before", "after"))
        half = "" if several else _half(runs, f"{stage} change")
        by = number(runs[f"{stage} change"].mean(), signed=True)
        moves.append(f"{stage} from {before} to {after} ({by}{half})")
    clauses = [verdict, f"{join_words(moves)} nats per token{', mean over seeds' * several}"]
    below = int((runs[f"{OTHER} before"] < runs[f"{REFUSAL} before"]).sum())
    if below and "deep" in counts:
        where = f" in {below} of {len(runs)} seeds" * several
        clauses.append(f"{OTHER} was below {REFUSAL} already before{where}")
    if "deep_share" in runs and runs["deep_share"].notna().any():
        prompts = span(runs["prompts"].tolist())
        share = f"{100 * runs['deep_share'].mean():.0f} % of {prompts} prompts are deep"
        if not several:
            low, high = (100 * runs[f"deep_share_{end}"].iloc[0] for end in ("low", "high"))
            share += f" (95 % interval {low:.0f} to {high:.0f} %)"
        clauses.append(share)
    return "; ".join(clauses)
