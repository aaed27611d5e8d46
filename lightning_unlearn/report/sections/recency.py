"""What the scores say about the place of the forget stage."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import DECIMALS
from lightning_unlearn.analysis.path_dependence import has_last, last_less_others
from lightning_unlearn.analysis.reading import by_condition
from lightning_unlearn.analysis.scores import score_name
from lightning_unlearn.report.formatting import join_words, number, span

if TYPE_CHECKING:
    import pandas as pd


def recency(scores: pd.DataFrame) -> list[str]:
    """One sentence per method and setting: which position forgot slowest, and whether it is last.

    Slowest means the lowest forget score. A path's score is its mean over seeds, a position's the
    mean over its paths. Positions whose scores print alike count as tied. With several seeds the
    sentence also counts the seeds in which the same position alone is slowest, and gives the last
    position less the mean of the others, paired by seed, with Student's 95 % interval over seeds.
    With one seed it says that chance is not excluded. Where a method has several settings, a
    sentence before theirs counts those in which the last position alone is slowest. A sentence at
    the end counts the trials, each of one method, setting and seed, in which it is; where there are
    several.

    Args:
        scores: what `scores` returns.

    Returns:
        Sentences in the order of the methods' and the settings' first appearance.
    """
    conditions = by_condition(scores, "forget_score")
    name = score_name(scores)
    sentences = []
    for method, group in groupby(conditions, lambda own: own[0].method):
        parts = list(group)
        if len(parts) > 1:
            sentences.append(f"{method}: {_count([part for _, part in parts])}.")
        sentences += [f"{own.name}: {_finding(part, name)}." for own, part in parts]
    last = _slowest_last([rows for _, part in conditions for _, rows in part.groupby("seed")])
    if len(last) > 1:
        sentences.append(
            f"In all, the last position is the slowest in {sum(last)} of {len(last)} trials, each "
            "of one method, setting and seed."
        )
    return sentences


def _count(parts: list[pd.DataFrame]) -> str:
    """In how many settings the last position is the slowest, as a clause."""
    last = _slowest_last(parts)
    if not last:
        return f"in none of {len(parts)} settings can the last position be compared with another"
    what = f"the last position is the slowest in {sum(last)} of {len(last)} settings"
    left = len(parts) - len(last)
    return f"{what}; in {left} more it cannot be compared with another" if left else what


def _slowest_last(parts: list[pd.DataFrame]) -> list[bool]:
    """Whether the last position alone is slowest, of each part in which it can be compared."""
    known = [part[part["forget_score"].notna()] for part in parts]
    means = [_by_position(part) for part in known if has_last(part)]
    return [_slowest(own) == [max(own)] for own in means]


def _finding(rows: pd.DataFrame, name: str) -> str:
    known = rows[rows["forget_score"].notna()]
    if known.empty:
        return "no forget score was measured, so positions cannot be compared"
    means = _by_position(known)
    notes = _notes(known, len(rows) - len(known))
    if len(means) == 1:
        ((position, score),) = means.items()
        paths = known["path"].unique()
        what, where = f"position {position}", ""
        if len(paths) == 1:
            what, where = f"the path {paths[0]}", f" at p = {position}"
        finding = f"only {what} has a {name}, {number(score)} nats per token{where}"
        return "; ".join([f"{finding}, so positions cannot be compared", *notes])
    slowest = _slowest(means)
    verb = f"positions {join_words(map(str, slowest))} tie as the slowest"
    if len(slowest) == 1:
        verb = f"position {slowest[0]} forgot slowest"
    elif len(slowest) == len(means):
        verb = "no position forgot slower than another"
    listed = join_words(f"{number(score)} (p = {p})" for p, score in means.items())
    names = name.replace("score", "scores", 1)
    finding = f"{verb}, with {names} of {listed} nats per token"
    clauses = [_last(known, means, slowest), *_seeds(known, slowest), *_effect(known)]
    return "; ".join([finding, *clauses, *notes])


def _last(known: pd.DataFrame, means: dict[int, float], slowest: list[int]) -> str:
    """Whether the last position is the slowest, as a clause."""
    lengths = [len(path.split("-")) for path in known["path"]]
    n = max(lengths)
    if min(lengths) < n:
        return f"the paths have {span(lengths)} stages, so no one position is the last"
    last = f"the last position (p = n = {n})"
    if n not in means:
        return f"{last} has no forget score"
    if len(slowest) == len(means):
        return f"{last} is no exception"
    verb = "is" if n in slowest else "is not"
    return f"this {verb} {last}" if len(slowest) == 1 else f"{last} {verb} one of them"


def _seeds(known: pd.DataFrame, slowest: list[int]) -> list[str]:
    """In how many seeds the slowest position is so by itself; nothing for a tie."""
    if len(slowest) > 1:
        return []
    if known["seed"].nunique() < 2:
        return ["of one seed, so chance is not excluded"]
    by_seed = [_by_position(rows) for _, rows in known.groupby("seed")]
    complete = [means for means in by_seed if len(means) == known["position"].nunique()]
    if len(complete) < 2:
        return ["no two seeds have a score at every position, so chance is not excluded"]
    agreeing = sum(_slowest(means) == slowest for means in complete)
    return [f"it is the slowest in {agreeing} of {len(complete)} seeds"]


def _effect(known: pd.DataFrame) -> list[str]:
    """The recency effect as a clause; nothing where one seed would have no interval."""
    effect = last_less_others(known, "forget_score")
    if effect is None or effect.count < 2:
        return []
    mean, low, high = (number(v, signed=True) for v in (effect.mean, effect.low, effect.high))
    return [
        f"the last less the mean of the others is {mean} (95 % {low} to {high} over {effect.count} "
        "seeds)"
    ]


def _notes(known: pd.DataFrame, dropped: int) -> list[str]:
    """What was averaged and what was left out."""
    counts = {
        "paths per position": known.groupby("position")["path"].nunique().tolist(),
        "seeds per path": known.groupby(["path", "position"])["seed"].nunique().tolist(),
    }
    over = [f"{span(own)} {what}" for what, own in counts.items() if max(own) > 1]
    notes = [f"scores are means over {join_words(over)}"] if over else []
    if dropped:
        runs = "1 run" if dropped == 1 else f"{dropped} runs"
        verb = "is" if dropped == 1 else "are"
        notes.append(f"{runs} without a forget score {verb} left out")
    return notes


def _by_position(known: pd.DataFrame) -> dict[int, float]:
    paths = known.groupby(["position", "path"])["forget_score"].mean()
    means = paths.groupby("position").mean().sort_index()
    return {int(position): float(score) for position, score in means.items()}


def _slowest(means: dict[int, float]) -> list[int]:
    rounded = {position: round(score, DECIMALS) for position, score in means.items()}
    return [position for position, score in rounded.items() if score == min(rounded.values())]
