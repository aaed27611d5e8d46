"""The answer in words: does the outcome depend on the path, and under which method least?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lightning_unlearn.analysis.cautions import close_paths
from lightning_unlearn.analysis.depth import depth
from lightning_unlearn.analysis.oracle_distance import (
    OracleDistances,
    between_oracles,
    distinct_pairs,
    oracle_distances,
)
from lightning_unlearn.analysis.path_dependence import path_dependences
from lightning_unlearn.analysis.reading import by_condition
from lightning_unlearn.analysis.scores import score_name
from lightning_unlearn.report.formatting import join_words, percent, short_number
from lightning_unlearn.report.sections.base import DISTANCE_UNIT
from lightning_unlearn.report.sections.depth import VERDICTS
from lightning_unlearn.report.sections.recency import recency
from lightning_unlearn.report.study_report import StudyReport
from lightning_unlearn.statistics import Interval, IntraclassCorrelation, mean_interval

# Sentences name at most so many methods and settings one by one.
FEW = 4


@dataclass(frozen=True)
class Verdict:
    """What a study says.

    Attributes:
        headline: in a few words.
        sentences: what it rests on, by the question that they answer.
    """

    headline: str
    sentences: dict[str, list[str]]


# Of the forget score under each method and setting, by name.
Shares = Mapping[str, IntraclassCorrelation]


def verdict_of(report: StudyReport) -> Verdict:
    """The verdict on a study."""
    if report.is_empty:
        return Verdict("There is nothing to judge yet.", {"Found": [report.summary.nothing]})
    judged = _on_depth(report) if report.depths else _on_scores(report)
    limits = report.summary.cautions
    return replace(judged, sentences={"Caution": limits, **judged.sentences}) if limits else judged


def _on_scores(report: StudyReport) -> Verdict:
    """The verdict on forget scores and utility."""
    found = path_dependences(report.scores, report.study)
    found = [own for own in found if own.outcome == "forget_score" and own.index is not None]
    close = close_paths(report.scores)
    found = [own for own in found if own.condition.name not in close]
    shares = {own.condition.name: own.index for own in found if own.index is not None}
    effects = {own.condition.name: own.recency for own in found if own.recency is not None}
    headline, path = _on_paths(report, shares)
    if close and not shares and len(close) == len(by_condition(report.scores, "forget_score")):
        headline, path = "Paths differ by less than rounding: their order says nothing.", []
    answers = {
        "Does the path matter?": path,
        "Under which method least?": [*_least(shares), *_spread(report)],
        "Who forgets slowest?": _last(report, effects),
        "As good as retrained?": _oracle(report),
    }
    return Verdict(headline, {about: lines for about, lines in answers.items() if lines})


def _on_paths(report: StudyReport, shares: Shares) -> tuple[str, list[str]]:
    """Whether the outcome depends on the path, in a few words and in more."""
    if len(report.paths) < 2:
        path, position = report.paths[0]
        only = (
            f"Only the path {path} (p = {position}) was measured, so neither a difference nor a "
            "divergence between paths can be shown."
        )
        return "There is one path: nothing can be said about paths.", [only]
    if not shares:
        seeds = "every path has one seed" if report.seeds < 2 else "too few runs have a score"
        return (
            "Whether the outcome depends on the path beyond seeds cannot be determined.",
            [f"There is no spread over seeds to compare with: {seeds}."],
        )
    return _headline(shares), [_explained(shares, score_name(report.scores))]


def _percents(share: IntraclassCorrelation) -> tuple[str, str, str]:
    """The share of the variance and the ends of its interval."""
    index, low, high = map(percent, share.share)
    return index, low, high


def _headline(shares: Shares) -> str:
    clear = [name for name, share in shares.items() if share.low > 0]
    rest = [name for name in shares if name not in clear]
    if not clear:
        return "A dependence on the path cannot be distinguished from the spread over seeds."
    if len(shares) > FEW:
        where = f"in {len(clear)} of {len(shares)}" if rest else f"in all {len(shares)}"
        return f"The outcome depends on the path, beyond seeds, {where} methods and settings."
    headline = f"The outcome depends on the path, beyond seeds, under {join_words(clear)}"
    return (
        f"{headline}; under {join_words(rest)} that cannot be determined."
        if rest
        else f"{headline}."
    )


def _explained(shares: Shares, name: str) -> str:
    """What the path explains, as a sentence."""
    what = f"of the variance of the {name} over runs"
    if len(shares) > FEW:
        order = sorted(shares.values(), key=lambda share: share.index)
        low, high = (_percents(share)[0] for share in (order[0], order[-1]))
        return f"The path explains {low} to {high} % {what}."
    parts = []
    for name, share in shares.items():
        index, low, high = _percents(share)
        known = np.isfinite(share.low)
        within = f"95 % interval {low} to {high} %" if known else "no interval: seeds are alike"
        parts.append(f"{index} % under {name} ({within})")
    return f"The path explains {join_words(parts)} {what}; the rest is seeds."


def _least(shares: Shares) -> list[str]:
    """Under which method and setting the path explains least."""
    if len(shares) < 2:
        return []
    name, least = min(shares.items(), key=lambda item: item[1].index)
    text = f"The share of the path is least under {name}, {_percents(least)[0]} %"
    # An unknown end distinguishes nothing.
    others = [share for other, share in shares.items() if other != name]
    if not all(other.low >= least.high for other in others):
        text += ", though its interval is not apart from those of others"
    return [f"{text}."]


def _spread(report: StudyReport) -> list[str]:
    """How far apart the paths end, and under which method least."""
    known = report.scores[report.scores["forget_score"].notna()]
    ends: dict[str, tuple[float, float]] = {}
    for own, runs in by_condition(known, "forget_score"):
        means = runs.groupby(["path", "position"])["forget_score"].mean()
        if len(means) > 1:
            ends[own.name] = (float(means.min()), float(means.max()))
    if not ends:
        return []
    spans = {name: " to ".join(map(short_number, pair)) for name, pair in ends.items()}
    closest = min(ends, key=lambda name: ends[name][1] - ends[name][0])
    if len(ends) > FEW:
        return [
            f"Paths end closest to each other under {closest}, with a {score_name(known)} of "
            f"{spans[closest]} nats per token."
        ]
    parts = join_words(f"{own} under {name}" for name, own in spans.items())
    text = f"By path, the mean {score_name(known)} is {parts} nats per token"
    return [f"{text}: paths end closest under {closest}." if len(ends) > 1 else f"{text}."]


def _last(report: StudyReport, recencies: Mapping[str, Interval]) -> list[str]:
    """What the last position does."""
    counted = [line for line in recency(report.scores) if line.startswith("In all,")]
    effects = [
        f"{short_number(own.mean)} ({short_number(own.low)} to {short_number(own.high)}) "
        f"under {name}"
        for name, own in recencies.items()
        if np.isfinite(own.low)
    ]
    if effects and len(effects) <= FEW:
        counted.append(
            f"The last position's {score_name(report.scores)} less the mean of the others' is "
            f"{join_words(effects)}, with 95 % intervals over seeds."
        )
    return counted


def _oracle(report: StudyReport) -> list[str]:
    """Who comes as close to the oracle as another oracle."""
    every = oracle_distances(report.study, "forget")
    sentences = []
    if every and report.examples is not None:
        between = distinct_pairs(between_oracles(report.examples, "forget"))
        sentences += [_close(every, mean_interval(between).mean)] if between else []
    late = [own for own in every if len(set(own.steps)) > 1]
    if late:
        names = join_words(own.distance.name for own in late[:FEW])
        more = f" and {len(late) - FEW} more" if len(late) > FEW else ""
        steps = [step for own in late for step in own.steps]
        sentences.append(
            f"The best steps of paths differ under {names}{more}: they range from {min(steps)} to "
            f"{max(steps)}."
        )
    return sentences


def _close(every: list[OracleDistances], floor: float) -> str:
    """On how many paths the distance is not above that between oracles."""
    total = sum(len(own.paths) for own in every)
    best, last = (
        sum(points[end].interval().mean <= floor for own in every for points in own.points)
        for end in ("best", "last")
    )
    return (
        f"At the last step {last} of {total} pairs of method and path are as close to the oracle "
        f"as two oracles are to each other ({short_number(floor)} {DISTANCE_UNIT} on the mean); at "
        f"each path's own best step, {best} are."
    )


def _on_depth(report: StudyReport) -> Verdict:
    """Deep or superficial, and by which order."""
    table = depth(report.source.records)
    counts = [line for line in report.summary.findings if ": forgetting was " in line]
    if "verdict" not in table or not counts:
        return Verdict(
            "Answers of every stage were followed; which of them refuse is not clear from their "
            "names.",
            {"Found": report.summary.findings[:FEW]} if report.summary.findings else {},
        )
    known = table[table["verdict"].notna()]
    by_path = known.groupby("path")["verdict"].agg(lambda values: join_words(dict.fromkeys(values)))
    kinds = [kind for kind in VERDICTS if (by_path == kind).any()]
    parts = [f"{kind} on {join_words(by_path[by_path == kind].index)}" for kind in kinds]
    mixed = by_path[~by_path.isin(VERDICTS)]
    parts += [f"different from seed to seed on {join_words(mixed.index)}"] if len(mixed) else []
    if len(by_path) < 2:
        return Verdict(f"There is one order, and forgetting was {parts[0]}.", {"Deep?": counts})
    if len(kinds) == 1 and mixed.empty:
        headline = f"Forgetting was {kinds[0]} whatever the order of the stages."
        return Verdict(headline, {"In counts": counts})
    answers = {"By order": [f"Forgetting was {join_words(parts)}."], "In counts": counts}
    return Verdict("How deep forgetting goes depends on the order of the stages.", answers)
