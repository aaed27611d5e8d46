"""What forgetting costs the other stages, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.analysis.reading import StudyRecords

if TYPE_CHECKING:
    import pandas as pd

SCORE = "forget/mean"


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
    metrics = [str(name) for name in data["metric"].unique()]
    answers = [name for name in metrics if name.startswith("answers/")]
    if SCORE not in metrics or not answers:
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
