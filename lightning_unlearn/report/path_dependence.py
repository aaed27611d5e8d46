"""How much of what differs between runs is due to their path."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.report.formatting import join_words, short_number
from lightning_unlearn.report.layout import Layout, Row, names_of_values
from lightning_unlearn.report.reading import StudyRecords, ends, settings_of, sweep_keys
from lightning_unlearn.report.recency import last_less_others
from lightning_unlearn.report.sections import Section, csv_of, ends_of
from lightning_unlearn.settings.labels import run_name, setting_name
from lightning_unlearn.statistics import IntraclassCorrelation, icc1

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "forget_score": "forget score",
    "label_drop": "drop of the label",
    "forget_distance": "distance to the oracle",
}
NOTE = (
    "Share of an outcome's variance over runs that lies between paths, ICC(1), with its 95 % "
    "interval: 1 = the path decides, 0 = seeds differ as much. Estimates below 0 are written as 0; "
    "n/a: the seeds of every path are alike, or there is no path of two."
)


def path_dependence(scores: pd.DataFrame, study: StudyRecords) -> Section:
    """The intraclass correlation of every outcome, with paths as groups of seeds.

    Outcomes are the forget score, the drop of the label's log-likelihood (forget/label), utilities
    and accuracies as in the scores, and the RE distance to the oracle at the run's last step
    (distance/forget). path_dependence.csv, in which negative estimates stay, has a row per method,
    setting and outcome, with the recency effect beside it: the last position less the mean of the
    others, paired by seed.

    Args:
        scores: what `lightning_unlearn.report.scores` returns for `study`.
        study: the records.

    Returns:
        Without a layout, a single sentence that says why there is nothing to compare.
    """
    sweep = sweep_keys(scores, "forget_score")
    outcomes = _outcomes(scores, study)
    names = [
        name
        for name in names_of_values(outcomes, sweep)
        if name != "oracle_gap" and outcomes[name].notna().any()
    ]
    codes, settings = settings_of(outcomes, sweep)
    table, rows, findings = [], [], []
    for method, runs in outcomes.assign(setting=codes).groupby("method", sort=False):
        for code, part in runs.groupby("setting"):
            setting = settings[code]
            found = {name: _index(part, name) for name in names}
            keys = {"method": method, **dict(zip(sweep, setting, strict=True))}
            table += [{**keys, **_record(part, name, found[name])} for name in names]
            words = setting_name(sweep, setting)
            cells = [_cell(found[name]) for name in names]
            rows.append(Row(str(method), words, 0, "", int(part["seed"].nunique()), cells))
            known = {name: index for name, index in found.items() if index is not None}
            if known:
                findings.append(f"{run_name(str(method), words)}: {_finding(known)}.")
    if not findings:
        return Section("Path dependence", findings=[_why(scores)])
    headings = [NAMES.get(name, name) for name in names]
    layout = Layout(bool(sweep), headings, rows, [NOTE], seeds="", by_path=False)
    return Section("Path dependence", {"path_dependence": csv_of(table)}, layout, findings)


def _outcomes(scores: pd.DataFrame, study: StudyRecords) -> pd.DataFrame:
    """The scores with the outcomes that they do not have; runs are numbered as the scores' rows."""
    further = {}
    for name, measure, sign, end in (
        ("label_drop", "forget/label", -1, "change"),
        ("forget_distance", "distance/forget", 1, "after"),
    ):
        rows = study.runs[study.runs["metric"] == measure]
        if len(rows):
            values = ends(rows, ["metric"])[end].droplevel("metric")
            further[name] = sign * values.reindex(scores.index)
    return scores.assign(**further)


def _index(runs: pd.DataFrame, name: str) -> IntraclassCorrelation | None:
    return icc1([part[name].to_numpy(float) for _, part in runs.groupby(["path", "position"])])


def _record(runs: pd.DataFrame, name: str, index: IntraclassCorrelation | None) -> dict[str, Any]:
    """A row of path_dependence.csv; fields are empty where there is no index, or no effect."""
    known = runs[np.isfinite(runs[name])]
    row: dict[str, Any] = {
        "outcome": name,
        "paths": len(known.drop_duplicates(["path", "position"])),
        "runs": len(known),
        "missing": len(runs) - len(known),
        **dict.fromkeys(("icc1", "icc1_low", "icc1_high", "F", "df_between", "df_within", "p")),
        **dict.fromkeys(("recency", "recency_low", "recency_high")),
    }
    if index is not None:
        row |= {
            "icc1": index.index,
            "icc1_low": index.low,
            "icc1_high": index.high,
            "F": index.f,
            "df_between": index.between,
            "df_within": index.within,
            "p": index.p,
        }
    effect = last_less_others(runs, name)
    if effect is not None:
        row |= ends_of("recency", effect)
    return row


def _cell(index: IntraclassCorrelation | None) -> str:
    if index is None:
        return "n/a"
    share, low, high = (_written(value) for value in index.share)
    # Without a space in it, so that the interval stays on one line.
    return f"{share} ({low},{high})" if low != "n/a" else f"{share} (n/a)"


def _written(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{share:.2f}"


def _finding(found: dict[str, IntraclassCorrelation]) -> str:
    """What the path explains of every outcome, the first of them with its F test."""
    parts: list[str] = []
    for name, index in found.items():
        share, low, high = (_written(value) for value in index.share)
        part = f"{share} for the {NAMES.get(name, name)}"
        if not parts and low == "n/a":
            part += " (no interval and no test: the seeds of every path are alike)"
        elif not parts:
            p = "p < 0.001" if index.p < 0.001 else f"p = {index.p:.3f}"
            test = f"F({index.between}, {index.within}) = {short_number(index.f)}, {p}"
            part += f" (95 % {low} to {high}; {test})"
        parts.append(part)
    return f"share of the variance over runs that lies between paths: {join_words(parts)}"


def _why(scores: pd.DataFrame) -> str:
    """Why no outcome has an index."""
    if len(scores.drop_duplicates(["path", "position"])) < 2:
        return "Path dependence is left out: there is only one path."
    if scores["seed"].nunique() < 2:
        return (
            "Path dependence is left out: with one seed the spread of paths cannot be told from "
            "that of seeds; give the study several seeds."
        )
    return "Path dependence is left out: no method has an outcome of two runs that differ."
