"""What the scores say about the place of the forget stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_unlearn.report.naming import DECIMALS, listing, number, run_name, setting_name, span
from lightning_unlearn.report.reading import settings_of, sweep_keys

if TYPE_CHECKING:
    import pandas as pd

    from lightning_unlearn.statistics import Interval


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
        scores: what `lightning_unlearn.report.scores` returns.

    Returns:
        Sentences in the order of the methods' and the settings' first appearance.
    """
    sweep = sweep_keys(scores, "forget_score")
    codes, settings = settings_of(scores, sweep)
    numbered = scores.assign(setting=codes)
    cells = numbered.groupby(["method", "setting", "seed"], sort=False)
    sentences = []
    for method, rows in numbered.groupby("method", sort=False):
        parts = list(rows.groupby("setting"))
        if len(parts) > 1:
            sentences.append(f"{method}: {_count([part for _, part in parts])}.")
        for code, part in parts:
            name = run_name(method, setting_name(sweep, settings[code]))
            sentences.append(f"{name}: {_finding(part)}.")
    return [*sentences, *_cells([part for _, part in cells])]


def last_less_others(runs: pd.DataFrame, outcome: str) -> Interval | None:
    """The recency effect on an outcome: the last position less the mean of the others.

    Args:
        runs: of one method and setting, with the columns of `lightning_unlearn.report.scores`.
        outcome: its column.

    Returns:
        Mean over seeds and interval; None where the last position or the others have no value, or
        where paths differ in length, so that no one position is the last. A seed in which a path
        has no value is left out.
    """
    from lightning_unlearn.statistics import recency_effect

    known = runs[runs[outcome].notna()]
    if not _has_last(known):
        return None
    wide = known.pivot(index=["position", "path"], columns="seed", values=outcome)
    # A position would not be the same without one of its paths.
    positions = wide.groupby("position").agg(lambda values: values.mean(skipna=False))
    return recency_effect(positions.sort_index().to_numpy(float))


def _cells(parts: list[pd.DataFrame]) -> list[str]:
    """In how many trials the last position is the slowest, as a sentence; none for a single one."""
    verdicts = [_last_is_slowest(part) for part in parts]
    known = [verdict for verdict in verdicts if verdict is not None]
    if len(known) < 2:
        return []
    return [
        f"In all, the last position is the slowest in {sum(known)} of {len(known)} trials, each of "
        "one method, setting and seed."
    ]


def _count(parts: list[pd.DataFrame]) -> str:
    """In how many settings the last position is the slowest, as a clause."""
    verdicts = [_last_is_slowest(part) for part in parts]
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return f"in none of {len(parts)} settings can the last position be compared with another"
    what = f"the last position is the slowest in {sum(known)} of {len(known)} settings"
    left = len(parts) - len(known)
    if left:
        what += f"; in {left} more it cannot be compared with another"
    return what


def _last_is_slowest(rows: pd.DataFrame) -> bool | None:
    """Whether the last position alone is slowest; None where it has no score, or the only one."""
    known = rows[rows["forget_score"].notna()]
    if not _has_last(known):
        return None
    means = _by_position(known)
    return _slowest(means) == [max(means)]


def _has_last(known: pd.DataFrame) -> bool:
    """Whether there is one last position, and another to compare it with."""
    lengths = {len(path.split("-")) for path in known["path"]}
    positions = set(known["position"])
    return len(lengths) == 1 and len(positions) > 1 and max(positions) in lengths


def _finding(rows: pd.DataFrame) -> str:
    known = rows[rows["forget_score"].notna()]
    if known.empty:
        return "no forget score was measured, so positions cannot be compared"
    means = _by_position(known)
    notes = _notes(known, len(rows) - len(known))
    listed = listing(f"{number(score)} (p = {p})" for p, score in means.items())
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
        verb = f"positions {listing(map(str, slowest))} tie as the slowest"
    finding = f"{verb}, with forget scores of {listed} nats per token"
    return "; ".join(
        [finding, _last(known, means, slowest), *_seeds(known, slowest), *_effect(known), *notes]
    )


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
    """In how many seeds the slowest position is so by itself; nothing for a tie."""
    positions = set(known["position"])
    each = [
        _by_position(rows)
        for _, rows in known.groupby("seed")
        if set(rows["position"]) == positions
    ]
    if len(slowest) > 1:
        return []
    if known["seed"].nunique() < 2:
        return ["of one seed, so chance is not excluded"]
    if len(each) < 2:
        return ["no two seeds have a score at every position, so chance is not excluded"]
    agreeing = sum(_slowest(means) == slowest for means in each)
    return [f"it is the slowest in {agreeing} of {len(each)} seeds"]


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
    seeds = known.groupby(["path", "position"])["seed"].nunique()
    paths = known.groupby("position")["path"].nunique()
    over = [
        f"{span(counts.tolist())} {what}"
        for counts, what in ((paths, "paths per position"), (seeds, "seeds per path"))
        if counts.max() > 1
    ]
    notes = [f"scores are means over {listing(over)}"] if over else []
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
