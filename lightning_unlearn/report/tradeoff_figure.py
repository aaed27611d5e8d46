"""What forgetting costs: utility against forget score over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.arrangement import Trial, arrange
from lightning_unlearn.report.curve_figures import forgotten, tidy
from lightning_unlearn.report.curves import band_of
from lightning_unlearn.report.drawn import Cross, Level, Part, Spots, Thin
from lightning_unlearn.report.formatting import span
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import Looks, folded, looks_of_paths
from lightning_unlearn.report.panels import Panel
from lightning_unlearn.report.reading import PathPosition, StudyRecords

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCORE = "forget/mean"
KEPT = {"color": "#888888", "linewidth": 1.0, "linestyle": (0, (1, 1.5)), "zorder": 1.5}


def tradeoffs(study: StudyRecords) -> pd.DataFrame:
    """Forget score and mean utility of every run at every step; at the last, as in the scores.

    The score is the drop of forget/mean since the run's first step, the utility the mean of
    1 - |change| over the answers of the stages that are not forgotten.

    Returns:
        Columns method, setting, path, position, seed, step, score and utility; rows with both.
    """
    import pandas as pd

    data = study.runs
    columns = ["method", "setting", "path", "position", "seed", "step", "score", "utility"]
    measures = [str(name) for name in data["metric"].unique()]
    answers = [name for name in measures if name.startswith("answers/")]
    if SCORE not in measures or not answers:
        return pd.DataFrame(columns=columns)
    data = data[data["metric"].isin([SCORE, *answers])]
    wide = data.pivot(index=["run", "step"], columns="metric", values="value").sort_index()
    runs = data.drop_duplicates("run").set_index("run")
    places = wide.index.get_level_values("run")
    first = wide.groupby(level="run").head(1).droplevel("step").reindex(places)
    change = wide.to_numpy(float) - first.to_numpy(float)
    names = list(wide.columns)
    kept = 1 - np.abs(change[:, [names.index(name) for name in answers]])
    own = runs["forget"].reindex(places).to_numpy()
    # A run's own stage is meant to change; of the others it may not have measured all.
    others = np.array([[name != f"answers/{stage}" for name in answers] for stage in own])
    known = pd.DataFrame(np.isfinite(kept), index=wide.index)
    counted = known.groupby(level="run").transform("max").to_numpy(bool) & others
    complete = (np.isfinite(kept) | ~counted).all(axis=1) & counted.any(axis=1)
    total = np.where(counted & np.isfinite(kept), kept, 0.0).sum(axis=1)
    utility = np.where(complete, total / np.maximum(counted.sum(axis=1), 1), np.nan)
    score = 0.0 - change[:, names.index(SCORE)]
    table = pd.DataFrame({"score": score, "utility": utility}, index=wide.index).dropna()
    identity = runs[columns[:5]]
    return table.reset_index().join(identity, on="run")[columns]


def tradeoff_figure(study: StudyRecords) -> Figure | None:
    """Utility against forget score, a curve over the steps for each path."""
    data = tradeoffs(study)
    data = data[data.groupby(["method", "setting"])["step"].transform("nunique") > 1]
    if data.empty:
        return None
    looks = looks_of_paths(study.runs)
    rows = [
        [cell and _panel(data, cell, looks, study) for cell in row] for row in arrange(data, study)
    ]
    paths = data[["path", "position"]].drop_duplicates().itertuples(index=False, name=None)
    entries: list[Entry] = [
        ({**look.line(1), "linewidth": 1.2}, look.label) for look in looks.present(paths)
    ]
    seeds = span(data.groupby(["method", "setting", "path"])["seed"].nunique().tolist())
    notes = [
        "right = more forgotten, up = more kept",
        "a dot per measured step, from (0,\u00a01) on",
    ]
    if seeds != "1" and not looks.grouped:
        notes.append(f"means of {seeds} seeds; bars: 95 % intervals at the last step")
    forget = study.runs
    title = f"Unlearning {forgotten(forget)}: what forgetting costs the other stages"
    grid = tidy(rows)
    return compose(grid, (3.0, 2.3)[len(grid) > 2], title, notes, looks.heading, entries)


def _panel(data: pd.DataFrame, cell: Trial, looks: Looks, study: StudyRecords) -> Panel:
    rows = data[(data["method"] == cell[0]) & (data["setting"] == cell[1])]
    parts: list[Part] = [Level(1.0, KEPT)]
    for (path, position), own in rows.groupby(["path", "position"], sort=False):
        parts += _trail(own, looks, (str(path), int(position)))
    return Panel(
        parts,
        folded(cell[0], 30),
        study.name(cell[1]),
        "utility\n(mean over the other stages)",
        "tradeoff",
        "forget score (nats per token)",
        own_x=True,
    )


def _trail(own: pd.DataFrame, looks: Looks, path: PathPosition) -> list[Part]:
    look = looks.of(path)
    wide = own.pivot(index="seed", columns="step")
    steps = wide["score"].columns
    score, utility = (band_of(steps, wide[name]) for name in ("score", "utility"))
    line = {"color": look.color, "linewidth": 0.8 if looks.grouped else 1.6, "alpha": 0.8}
    dots = {"marker": look.marker, "markersize": 3, "color": look.color, "alpha": 0.8}
    end = {**dots, "markersize": 6 if looks.grouped else 9, "markeredgecolor": "white", "alpha": 1}
    parts: list[Part] = [
        Thin(score.mean, utility.mean, line),
        Spots(score.mean, utility.mean, {**dots, "zorder": 2.3}),
    ]
    if not looks.grouped and np.isfinite([score.low[-1], utility.low[-1]]).all():
        across, up = score.mean[-1] - score.low[-1], utility.mean[-1] - utility.low[-1]
        parts.append(Cross(score.mean[-1], utility.mean[-1], across, up, look.color))
    return [*parts, Spots(score.mean[-1:], utility.mean[-1:], {**end, "zorder": 3})]
