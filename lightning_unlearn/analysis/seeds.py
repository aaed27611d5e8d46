"""Means of every metric over seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import sweep_keys
from lightning_unlearn.analysis.reading import shown
from lightning_unlearn.statistics import half_width

if TYPE_CHECKING:
    import pandas as pd


def means_over_seeds(records: pd.DataFrame) -> pd.DataFrame:
    """Mean and Student's 95 % interval over seeds of every metric.

    Returns:
        A row per method, setting, path, position, stage, step and metric, in order of first
        appearance; oracles have rows of their own. `seeds` counts the values that the mean is of
        and `missing` those that are not finite; the ends are NaN with fewer than two. Metrics have
        any name.
    """
    import pandas as pd

    records = shown(records)
    sweep = sweep_keys(records, "stage")
    keys = ["method", *sweep, "path", "position", "stage", "step", "metric"]
    rows = records[records["stage"].isin(["unlearn", "oracle"])]
    rows = rows[[*keys, "seed", "value"]].drop_duplicates()
    values = rows["value"].astype(float).replace((math.inf, -math.inf), math.nan)
    grouped = rows.assign(value=values).groupby(keys, sort=False, dropna=False)["value"]
    found = grouped.agg(["mean", "std", "count", "size"])
    half = pd.Series(half_width(found["std"], found["count"]), index=found.index)
    table = pd.DataFrame(
        {
            "mean": found["mean"],
            "low": found["mean"] - half,
            "high": found["mean"] + half,
            "seeds": found["count"],
            "missing": found["size"] - found["count"],
        }
    )
    return table.reset_index()
