"""The answer in words: does the outcome depend on the path, and under which method least?"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.closeness import OracleDistances, between_oracles, closeness_of
from lightning_unlearn.report.naming import listing, run_name, setting_name, short_number
from lightning_unlearn.report.recency import recency
from lightning_unlearn.report.study_report import StudyReport
from lightning_unlearn.statistics import mean_interval
from lightning_unlearn.statistics.icc import clipped

if TYPE_CHECKING:
    import pandas as pd

# Sentences name at most so many methods and settings one by one.
FEW = 4
NUMBERS = ["icc1", "icc1_low", "icc1_high", "recency", "recency_low", "recency_high"]
PATH = "Does the path matter?"
DEPTH = ("deep", "superficial", "neither")


@dataclass(frozen=True)
class Verdict:
    """What a study says.

    Attributes:
        headline: in a few words.
        sentences: what it rests on, by the question that they answer.
    """

    headline: str
    sentences: dict[str, list[str]]


@dataclass(frozen=True)
class _Share:
    """What the path explains of an outcome under one method and setting."""

    name: str
    index: float
    low: float
    high: float
    recency: float
    recency_low: float
    recency_high: float


def verdict_of(told: StudyReport) -> Verdict:
    """The verdict on a study."""
    if told.is_empty:
        first = told.summary.markdown.splitlines()[0]
        return Verdict("There is nothing to judge yet.", {"Found": [first]})
    if told.depths:
        return _on_depth(told)
    shares = _shares(told)
    headline, path = _on_paths(told, shares)
    answers = {
        PATH: path,
        "Under which method least?": [*_least(shares), *_spread(told)],
        "Who forgets slowest?": _last(told, shares),
        "As good as retrained?": _oracle(told),
    }
    return Verdict(headline, {about: lines for about, lines in answers.items() if lines})


def _on_paths(told: StudyReport, shares: list[_Share]) -> tuple[str, list[str]]:
    """Whether the outcome depends on the path, in a few words and in more."""
    if len(told.paths) < 2:
        path, position = told.paths[0]
        only = (
            f"Only the path {path} (p = {position}) was measured, so neither a difference nor a "
            "divergence between paths can be shown."
        )
        return "There is one path: nothing can be said about paths.", [only]
    if not shares:
        seeds = "every path has one seed" if told.seeds < 2 else "too few runs have a score"
        return (
            "Whether the outcome depends on the path beyond seeds cannot be told.",
            [f"There is no spread over seeds to compare with: {seeds}."],
        )
    clear = [share for share in shares if share.low > 0]
    return _headline(shares, clear), [_explained(shares)]


def _shares(told: StudyReport, outcome: str = "forget_score") -> list[_Share]:
    import pandas as pd

    text = told.summary.tables.get("path_dependence.csv")
    if text is None:
        return []
    table = pd.read_csv(io.StringIO(text))
    # A row per method and setting, in this order; CSV may have rewritten what they are called.
    rows = table[table["outcome"] == outcome][NUMBERS].astype(float)
    found = zip(_names(told), rows.itertuples(index=False, name=None), strict=True)
    shares = [_Share(name, *values) for name, values in found]
    return [share for share in shares if np.isfinite(share.index)]


def _names(told: StudyReport) -> list[str]:
    """Methods with their settings in words, in the order of the tables."""
    found = []
    for method, runs in told.study.runs.groupby("method", sort=False):
        settings = sorted(runs["setting"].unique())
        found += [run_name(str(method), told.study.name(setting)) for setting in settings]
    return found


def _headline(shares: list[_Share], clear: list[_Share]) -> str:
    names = [share.name for share in shares]
    if len(clear) == len(shares):
        where = (
            f"under {listing(names)}"
            if len(names) <= FEW
            else f"in all {len(names)} methods and settings"
        )
        return f"The outcome depends on the path, beyond seeds, {where}."
    if not clear:
        return "A dependence on the path cannot be told from the spread over seeds."
    if len(shares) > FEW:
        return (
            f"The outcome depends on the path, beyond seeds, in {len(clear)} of {len(shares)} "
            "methods and settings."
        )
    rest = [share.name for share in shares if share not in clear]
    return (
        f"The outcome depends on the path, beyond seeds, under "
        f"{listing(share.name for share in clear)}; under {listing(rest)} that cannot be told."
    )


def _explained(shares: list[_Share]) -> str:
    """What the path explains, as a sentence."""
    what = "of the variance of the forget score over runs"
    if len(shares) > FEW:
        values = [share.index for share in shares]
        return f"The path explains {_percent(min(values))} to {_percent(max(values))} % {what}."
    parts = [
        f"{_percent(share.index)} % under {share.name} (95 % interval {_percent(share.low)} to "
        f"{_percent(share.high)} %)"
        if np.isfinite(share.low)
        else f"{_percent(share.index)} % under {share.name} (no interval: seeds are alike)"
        for share in shares
    ]
    return f"The path explains {listing(parts)} {what}; the rest is seeds."


def _least(shares: list[_Share]) -> list[str]:
    """Under which method and setting the path explains least."""
    if len(shares) < 2:
        return []
    least = min(shares, key=lambda share: share.index)
    text = f"The share of the path is least under {least.name}, {_percent(least.index)} %"
    # An end that is not known tells nothing apart.
    if not all(other.low >= least.high for other in shares if other is not least):
        text += ", though its interval is not apart from those of others"
    return [f"{text}."]


def _percent(share: float) -> str:
    """A share of a variance in percent; an estimate below 0 is one of 0."""
    return f"{100 * clipped(share):.0f}"


def _spread(told: StudyReport) -> list[str]:
    """How far apart the paths end, and under which method least."""
    runs = told.scores[told.scores["forget_score"].notna()]
    codes: dict[tuple[str, int], pd.DataFrame] = {}
    cells = told.study.runs.drop_duplicates("run").set_index("run")
    numbered = runs.assign(setting=cells["setting"].reindex(runs.index))
    for (method, setting), part in numbered.groupby(["method", "setting"], sort=False):
        codes[str(method), int(setting)] = part
    ends = {}
    for (method, setting), part in codes.items():
        means = part.groupby(["path", "position"])["forget_score"].mean()
        if len(means) > 1:
            ends[told.cell(method, setting)] = (float(means.min()), float(means.max()))
    if not ends:
        return []
    closest = min(ends, key=lambda key: ends[key][1] - ends[key][0])
    if len(ends) > FEW:
        low, high = ends[closest]
        return [
            f"Paths end closest to each other under {closest}, with forget scores of "
            f"{short_number(low)} to {short_number(high)} nats per token."
        ]
    parts = [
        f"{short_number(low)} to {short_number(high)} under {key}"
        for key, (low, high) in ends.items()
    ]
    text = f"By path, the mean forget score is {listing(parts)} nats per token"
    return [f"{text}: paths end closest under {closest}." if len(ends) > 1 else f"{text}."]


def _last(told: StudyReport, shares: list[_Share]) -> list[str]:
    """What the last position does."""
    counted = [line for line in recency(told.scores) if line.startswith("In all,")]
    effects = [
        f"{short_number(share.recency)} ({short_number(share.recency_low)} to "
        f"{short_number(share.recency_high)}) under {share.name}"
        for share in shares
        if np.isfinite(share.recency_low)
    ]
    if effects and len(effects) <= FEW:
        counted.append(
            "The last position's forget score less the mean of the others' is "
            f"{listing(effects)}, with 95 % intervals over seeds."
        )
    return counted


def _oracle(told: StudyReport) -> list[str]:
    """Who comes as close to the oracle as another oracle."""
    every = closeness_of(told.study, "forget")
    if not every:
        return []
    found = told.examples
    floors = (
        between_oracles(found[1], "forget") if found and found[0] == "log_likelihood/forget" else {}
    )
    pairs = {tuple(distances) for distances in floors.values()}
    known = [distance for distances in pairs for distance in distances]
    said = []
    if known:
        floor = mean_interval(known).mean
        counts = {
            point: sum(_distances(own, point, floor) for own in every) for point in ("best", "last")
        }
        total = sum(len(own.paths) for own in every)
        said.append(
            f"At the last step {counts['last']} of {total} pairs of method and path are as close "
            f"to the oracle as two oracles are to each other ({short_number(floor)} (nats per "
            f"token)^2 on the mean); at each path's own best step, {counts['best']} are."
        )
    late = [own for own in every if len(set(own.steps)) > 1]
    if late:
        names = listing(
            run_name(own.distance.method, setting_name(own.distance.keys, own.distance.setting))
            for own in late[:FEW]
        )
        more = f" and {len(late) - FEW} more" if len(late) > FEW else ""
        said.append(
            f"The best steps of paths differ under {names}{more}: they range from "
            f"{min(min(own.steps) for own in late)} to {max(max(own.steps) for own in late)}."
        )
    return said


def _distances(own: OracleDistances, point: str, floor: float) -> int:
    """Of how many paths the distance at a point is not above the floor."""
    return sum(points[point].interval("distance").mean <= floor for points in own.points)


def _on_depth(told: StudyReport) -> Verdict:
    """Deep or superficial, and by which order."""
    from lightning_unlearn.report.depth import depth

    table = depth(told.source.records)
    counts = [line for line in told.summary.findings if ": forgetting was " in line]
    if "verdict" not in table or not counts:
        return Verdict(
            "Answers of every stage were followed; which of them refuse cannot be told from their "
            "names.",
            {"Found": told.summary.findings[:FEW]} if told.summary.findings else {},
        )
    known = table[table["verdict"].notna()]
    by_path = known.groupby("path")["verdict"].agg(lambda values: listing(dict.fromkeys(values)))
    kinds = [kind for kind in DEPTH if (by_path == kind).any()]
    parts = [f"{kind} on {listing(by_path[by_path == kind].index)}" for kind in kinds]
    mixed = by_path[~by_path.isin(DEPTH)]
    parts += [f"different from seed to seed on {listing(mixed.index)}"] if len(mixed) else []
    if len(by_path) < 2:
        return Verdict(f"There is one order, and forgetting was {parts[0]}.", {"Deep?": counts})
    same = len(kinds) == 1 and mixed.empty
    headline = (
        f"Forgetting was {kinds[0]} whatever the order of the stages."
        if same
        else "How deep forgetting goes depends on the order of the stages."
    )
    answers = {"By order": [f"Forgetting was {listing(parts)}."]} if not same else {}
    return Verdict(headline, {**answers, "In counts": counts})
