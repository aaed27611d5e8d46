"""Figures in words, for those who cannot see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.errors import InputError
from lightning_unlearn.report.analysis.divergence import divergences
from lightning_unlearn.report.analysis.oracle_distance import oracle_distances
from lightning_unlearn.report.arrangement import cells_of
from lightning_unlearn.report.curve_figures import answers_of
from lightning_unlearn.report.curves import Curves, oracles_of_paths, per_path
from lightning_unlearn.report.divergence_figure import growth_in_words
from lightning_unlearn.report.formatting import join_words, number, span
from lightning_unlearn.report.makers import FIGURES, finite, read_examples
from lightning_unlearn.report.reading import StudyRecords, read_records
from lightning_unlearn.report.tradeoff_figure import tradeoffs
from lightning_unlearn.report.trajectories_figure import overshoots, trajectories_of
from lightning_unlearn.settings.labels import run_name
from lightning_unlearn.statistics import mean_over_seeds

if TYPE_CHECKING:
    import pandas as pd

# Sentences name so many panels one by one.
FEW = 4


def describe(name: str, records: pd.DataFrame, examples: pd.DataFrame | None = None) -> str:
    """What a figure of `save_figures` shows, in one to three sentences, as its text alternative.

    Args:
        name: such as "forget"; with or without a suffix.
        records: as for `save_figures`.
        examples: the same.

    Returns:
        "" where the study has not measured what the figure shows.

    Raises:
        InputError: there is no such figure, or the records are wrong.
    """
    name = name.rpartition("/")[2].partition(".")[0]
    if name not in FIGURES:
        raise InputError(
            f"figure: found {name!r}, expected one of {', '.join(FIGURES)}; correct the name"
        )
    if not len(records):
        return ""
    study = finite(read_records(records))
    return WORDS[name](study, read_examples(study, examples))


def _forget(study: StudyRecords, _: StudyRecords | None) -> str:
    found = list(cells_of(study, "forget/label").values())
    if not found:
        return ""
    return (
        f"Log-likelihood of the unlearn label, in nats per token, against the unlearning step, "
        f"{_panels(found)}. {_each(found, _from_to)}."
    )


def _utility(study: StudyRecords, _: StudyRecords | None) -> str:
    answers = answers_of(study)
    others = list(answers["stage"][answers["stage"] != answers["forget"]].unique())
    if not others:
        return ""
    found = list(cells_of(study, f"answers/{others[0]}").values())
    return (
        f"Log-likelihood of the answers of {join_words(others)}, in nats per token, against the "
        f"unlearning step, {_panels(found)} and stage. A flat curve means that a stage is kept."
    )


def _answers(study: StudyRecords, _: StudyRecords | None) -> str:
    answers = answers_of(study)
    labeled = (study.runs["metric"] == "forget/label").any()
    if labeled or not (answers["stage"] == answers["forget"]).any():
        return ""
    stages, paths = list(answers["stage"].unique()), answers["path"].nunique()
    return (
        f"Log-likelihood of the answers of {join_words(stages)} together, in nats per token, "
        f"against the unlearning step, a panel for each of {paths} paths. If only the forgotten "
        f"stage falls, forgetting is superficial."
    )


def _oracle(study: StudyRecords, _: StudyRecords | None) -> str:
    found = {own.distance.name: own for own in oracle_distances(study, "forget")}
    if not found:
        return ""

    def best(curves: Curves) -> str:
        own = found[curves.name]
        steps = per_path(own.steps, own.paths, own.best.falling.tolist())
        return f"{curves.name} comes closest at step {steps}"

    curves = [own.distance for own in found.values()]
    return (
        f"Mean squared difference to the oracle's log-likelihood of the forget examples against "
        f"the unlearning step, on a logarithmic axis, {_panels(curves)}. {_each(curves, best)}."
    )


def _divergence(_: StudyRecords, examples: StudyRecords | None) -> str:
    measures = list(examples.runs["metric"].unique()) if examples is not None else []
    every = divergences(examples, measures[0]) if examples is not None and measures else []
    found = {own.curves.name: own for own in every if (own.paths > 0).any()}
    if not found:
        return ""
    curves = [own.curves for own in found.values()]

    def growth(curves: Curves) -> str:
        words = growth_in_words(found[curves.name])
        return f"{curves.name}: {words or 'no exponential range'}"

    return (
        f"Mean squared difference between the log-likelihoods of two paths on the forget examples "
        f"against the unlearning step, on a logarithmic axis, {_panels(curves, 'pair of paths')}. "
        f"{_each(curves, growth)}."
    )


def _trajectories(study: StudyRecords, examples: StudyRecords | None) -> str:
    if examples is None or examples.runs.empty:
        return ""
    measure = str(examples.runs["metric"].iloc[0])
    measured = overshoots(study) if measure == "log_likelihood/forget" else {}
    shares = {}
    for curves in cells_of(examples, measure).values():
        found = trajectories_of(curves, oracles_of_paths(examples, measure, curves))
        if found:
            shares[curves.name] = (
                curves,
                [
                    measured.get(
                        (curves.method, curves.setting, path), (own.gaps[:, -1] < 0).mean()
                    )
                    for path, own in found.items()
                ],
            )
    if not shares:
        return ""

    def overshot(curves: Curves) -> str:
        percent = [round(100 * float(share)) for share in shares[curves.name][1]]
        return f"{curves.name} ends with {span(percent)} % of a path's examples below their oracle"

    drawn = [curves for curves, _ in shares.values()]
    return (
        "Log-likelihood of each forget example less that of its oracle against the unlearning "
        "step, a row of panels per method and setting and a panel per path; ticks "
        f"mark where an example first falls to its oracle. {_each(drawn, overshot)}."
    )


def _tradeoff(study: StudyRecords, _: StudyRecords | None) -> str:
    data = tradeoffs(study)
    data = data[data.groupby(["method", "setting"])["step"].transform("nunique") > 1]
    if data.empty:
        return ""
    last = data.sort_values("step").groupby(["method", "setting", "path", "seed"]).tail(1)
    means = last.groupby(["method", "setting", "path"])[["score", "utility"]].mean()
    said = []
    for (method, setting), part in means.groupby(level=["method", "setting"], sort=False):
        name = run_name(str(method), study.name(int(setting)))
        scores, kept = (_range(part[column].tolist()) for column in ("score", "utility"))
        said.append(f"{name}: forget scores of {scores} and utilities of {kept} at the last step")
    return (
        "Utility of the other stages against the forget score, a panel per method and setting and "
        f"a curve over the steps for each path. {_some(said)}."
    )


WORDS: dict[str, Callable[[StudyRecords, StudyRecords | None], str]] = {
    "forget": _forget,
    "utility": _utility,
    "answers": _answers,
    "oracle": _oracle,
    "divergence": _divergence,
    "trajectories": _trajectories,
    "tradeoff": _tradeoff,
}


def _panels(found: Sequence[Curves], curve: str = "path") -> str:
    """How many panels and curves, as a clause."""
    methods = join_words(dict.fromkeys(curves.method for curves in found))
    settings = len({curves.setting for curves in found})
    what = "method" if settings < 2 else f"method and each of {settings} settings"
    return f"a curve per {curve} and a panel per {what} ({methods})"


def _each(found: Sequence[Curves], say: Callable[[Curves], str]) -> str:
    return _some([say(curves) for curves in found])


def _some(said: Sequence[str]) -> str:
    """The first few clauses, and how many there are besides."""
    rest = len(said) - FEW
    return "; ".join([*said[:FEW], *([f"{rest} more panels likewise"] if rest > 0 else [])])


def _from_to(curves: Curves) -> str:
    means = mean_over_seeds(curves.means)
    known = [values[np.isfinite(values)] for values in means]
    first, last = (_range([float(v[place]) for v in known if v.size]) for place in (0, -1))
    return f"{curves.name}: {first} before, {last} after"


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
