"""How much each run forgot and kept, and what that says about the place of the forget stage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lightning_unlearn.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

RUN = ["method", "path", "position", "seed"]
COLUMNS = ["path", "position", "method", "seed", "stage", "step", "measure", "value"]
PREFIXES = ("forget/", "answers/", "accuracy/")
DECIMALS = 3


def forget_stage(path: str, position: int) -> str:
    """Name of the stage at the 1-based `position` of `path` ("inst-tofu-math-safety").

    Raises:
        InputError: the path has no such position.
    """
    stages = path.split("-")
    if not 1 <= position <= len(stages):
        raise InputError(
            f"records, path {path!r}: found position {position}, expected 1 to {len(stages)}, "
            f"the place of the forget stage in the path; correct the column 'position'"
        )
    return stages[position - 1]


def unlearn_records(records: pd.DataFrame) -> pd.DataFrame:
    """The records of the unlearn stage that a report reads, each run, step and measure once.

    Rows of other stages and of unknown measures are left out, and so are rows that repeat another
    one. The result has the columns of `COLUMNS` and `forget`, the name of the forget stage.

    Raises:
        InputError: a column is missing, a number cannot be read, a position lies outside its
            path, or two rows give different values for the same run, step and measure.
    """
    missing = [name for name in COLUMNS if name not in records.columns]
    if missing:
        raise InputError(
            f"records: found the columns {', '.join(map(str, records.columns)) or '(none)'}, "
            f"expected also {', '.join(missing)}; pass the records that a study wrote"
        )
    data = records[COLUMNS].astype({"path": str, "method": str, "stage": str, "measure": str})
    data = data[(data["stage"] == "unlearn") & data["measure"].str.startswith(PREFIXES)]
    try:
        data = data.astype({"position": int, "seed": int, "step": int, "value": float})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"records: found a value that is not a number ({error}), expected whole numbers in "
            f"position, seed and step and numbers in value; pass the records that a study wrote"
        ) from error
    data = data.drop_duplicates(ignore_index=True)
    twice = data[data.duplicated([*RUN, "step", "measure"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(
            f"records, method {row['method']!r}, path {row['path']!r}, seed {row['seed']}, step "
            f"{row['step']}: found different values of {row['measure']!r}, expected one; pass "
            f"the records of one study at a time"
        )
    pairs = zip(data["path"], data["position"], strict=True)
    return data.assign(forget=[forget_stage(path, position) for path, position in pairs])


def scores(records: pd.DataFrame) -> pd.DataFrame:
    """Forget score and utilities of every run, as in Table 1 of Yu, He, Goyal and Arora.

    With first and last the run's lowest and highest unlearning step:

    - `forget_score` = forget/mean at the first step minus forget/mean at the last, in nats per
      token: the drop of the mean log-likelihood of label and paraphrases; higher = more forgotten.
    - "<stage> utility" = 1 - |answers/<stage> at the last step minus at the first|, for every
      stage but the run's forget stage; the paper defines it so for TOFU; 1 = nothing changed.
    - "<stage> accuracy" = accuracy/<stage> at the last step minus at the first, as a fraction
      (-0.05 = five points lost), for every stage with an accuracy.

    A value that was not measured at both ends is NaN; so are all values of a run with records of a
    single step, which shows no change. A measure that occurs in no run has no column.

    Args:
        records: one row per value, with the columns `COLUMNS`; others are ignored.

    Returns:
        One row per method, path, position and seed, in order of first appearance: these four
        columns, `forget_score`, the utilities, the accuracies.

    Raises:
        InputError: a column is missing, a number cannot be read, a position lies outside its
            path, or two rows contradict each other.

    Source: arXiv 2510.16629, Table 1.
    """
    import pandas as pd

    data = unlearn_records(records)
    rows: list[dict[str, object]] = []
    utilities: dict[str, None] = {}
    accuracies: dict[str, None] = {}
    for key, run in data.groupby(RUN, sort=False):
        forget = run["forget"].iloc[0]
        change = _changes(run)
        row = {
            **dict(zip(RUN, key, strict=True)),
            "forget_score": 0.0 - change.get("forget/mean", math.nan),
        }
        for measure in change:
            kind, _, stage = measure.partition("/")
            if kind == "answers" and stage != forget:
                row[f"{stage} utility"] = 1 - abs(change[measure])
                utilities[f"{stage} utility"] = None
            elif kind == "accuracy":
                row[f"{stage} accuracy"] = change[measure]
                accuracies[f"{stage} accuracy"] = None
        rows.append(row)
    return pd.DataFrame(rows, columns=[*RUN, "forget_score", *utilities, *accuracies])


def _changes(run: pd.DataFrame) -> dict[str, float]:
    """Each measure's value at the run's last step minus its value at the first, NaN if unknown."""
    first, last = run["step"].min(), run["step"].max()
    if first == last:
        return dict.fromkeys(run["measure"], math.nan)
    start = run[run["step"] == first].set_index("measure")["value"]
    end = run[run["step"] == last].set_index("measure")["value"]
    return {
        measure: float(end.get(measure, math.nan) - start.get(measure, math.nan))
        for measure in run["measure"].unique()
    }


def number(value: float, signed: bool = False) -> str:
    """`value` with `DECIMALS` digits after the point, never "-0.000"; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    text = f"{value:+.{DECIMALS}f}" if signed else f"{value:.{DECIMALS}f}"
    return text.lstrip("+-") if text.lstrip("+-") == f"{0:.{DECIMALS}f}" else text


def recency(scores: pd.DataFrame) -> list[str]:
    """One sentence per method: the position that forgot slowest, and whether it is the last one.

    Slowest means the lowest forget score. A path's score is its mean over seeds, a position's the
    mean over its paths. Positions whose scores print alike count as tied. With several seeds the
    sentence also counts the seeds in which the same position alone is slowest.

    Args:
        scores: what `scores` returns.

    Returns:
        Sentences in the order of the methods' first appearance.
    """
    return [f"{method}: {_finding(rows)}." for method, rows in scores.groupby("method", sort=False)]


def _finding(rows: pd.DataFrame) -> str:
    known = rows[rows["forget_score"].notna()]
    if known.empty:
        return "no forget score was measured, so positions cannot be compared"
    means = _by_position(known)
    notes = _notes(known, len(rows) - len(known))
    listed = _listing(f"{number(score)} (p = {p})" for p, score in means.items())
    paths = known["path"].unique()
    if len(means) == 1:
        ((position, score),) = means.items()
        what = f"the path {paths[0]}" if len(paths) == 1 else f"position {position}"
        where = f" at p = {position}" if len(paths) == 1 else ""
        finding = f"only {what} has a forget score, {number(score)} nats per token{where}"
        return "; ".join([f"{finding}, so positions cannot be compared", *notes])

    slowest = _slowest(means)
    if len(slowest) == 1:
        verb = f"position {slowest[0]} forgot slowest"
    elif len(slowest) == len(means):
        verb = "no position forgot slower than another"
    else:
        verb = f"positions {_listing(map(str, slowest))} tie as the slowest"
    finding = f"{verb}, with forget scores of {listed} nats per token"
    return "; ".join([finding, _last(known, means, slowest), *_seeds(known, slowest), *notes])


def _last(known: pd.DataFrame, means: dict[int, float], slowest: list[int]) -> str:
    """Whether the last position is the slowest, as a clause."""
    lengths = sorted({len(path.split("-")) for path in known["path"]})
    if len(lengths) > 1:
        return (
            f"the paths have {lengths[0]} to {lengths[-1]} stages, so no one position is the last"
        )
    n = lengths[0]
    last = f"the last position (p = n = {n})"
    if n not in means:
        return f"{last} has no forget score"
    if len(slowest) == len(means):
        return f"{last} is no exception"
    if slowest == [n]:
        return f"this is {last}"
    if len(slowest) == 1:
        return f"this is not {last}"
    return f"{last} is one of them" if n in slowest else f"{last} is not one of them"


def _seeds(known: pd.DataFrame, slowest: list[int]) -> list[str]:
    """In how many seeds the slowest position is so by itself; nothing for a tie or one seed."""
    positions = set(known["position"])
    each = [
        _by_position(rows)
        for _, rows in known.groupby("seed")
        if set(rows["position"]) == positions
    ]
    if len(slowest) > 1 or len(each) < 2:
        return []
    agreeing = sum(_slowest(means) == slowest for means in each)
    return [f"it is the slowest in {agreeing} of {len(each)} seeds"]


def _notes(known: pd.DataFrame, dropped: int) -> list[str]:
    """What was averaged and what was left out."""
    seeds = known.groupby(["path", "position"])["seed"].nunique()
    paths = known.groupby("position")["path"].nunique()
    over = [
        f"{_range(counts)} {what}"
        for counts, what in ((paths, "paths per position"), (seeds, "seeds per path"))
        if counts.max() > 1
    ]
    notes = [f"scores are means over {_listing(over)}"] if over else []
    if dropped:
        runs = (
            "1 run without a forget score is"
            if dropped == 1
            else f"{dropped} runs without a forget score are"
        )
        notes.append(f"{runs} left out")
    return notes


def _by_position(known: pd.DataFrame) -> dict[int, float]:
    paths = known.groupby(["position", "path"])["forget_score"].mean()
    means = paths.groupby("position").mean().sort_index()
    return {int(position): float(score) for position, score in means.items()}


def _slowest(means: dict[int, float]) -> list[int]:
    rounded = {position: round(score, DECIMALS) for position, score in means.items()}
    return [position for position, score in rounded.items() if score == min(rounded.values())]


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _listing(parts: Iterable[str]) -> str:
    *head, tail = parts
    return f"{', '.join(head)} and {tail}" if head else tail
