"""Which panel goes where, and which oracles it shows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.report.looks import Looks
from lightning_unlearn.report.oracles import Setting
from lightning_unlearn.report.panels import Panel, oracle_means
from lightning_unlearn.report.reading import StudyRecords

if TYPE_CHECKING:
    import pandas as pd

Cell = tuple[str, int]
# Oracles of different paths that were the same model differ by how their seeds were averaged.
ALIKE = 1e-9


def arrange(data: pd.DataFrame, study: StudyRecords) -> list[list[Cell | None]]:
    """Methods (columns) and settings (rows) that occur in `data`.

    Settings of different methods share a row if they differ only where one of them is null, that
    is where a sweep key has no bearing on a method.
    """
    found = data[["method", "setting"]].drop_duplicates()
    methods = list(found["method"].unique())
    rows: list[dict[str, int]] = []
    for setting in sorted(found["setting"].unique()):
        for method in found["method"][found["setting"] == setting]:
            values = study.settings[setting]
            for row in rows:
                others = [study.settings[other] for other in row.values()]
                if method not in row and all(_agree(values, other) for other in others):
                    row[method] = int(setting)
                    break
            else:
                rows.append({method: int(setting)})
    return [[(m, row[m]) if m in row else None for m in methods] for row in rows]


def _agree(one: Setting, other: Setting) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def oracles_of(
    rows: pd.DataFrame, study: StudyRecords, looks: Looks
) -> dict[tuple[Hashable, ...], float]:
    """The oracles' values, means over their seeds, for the curves of one panel."""
    found: dict[tuple[Hashable, ...], float] = {}
    names = ["measure", "path", "position", "setting"]
    curves = rows.drop_duplicates(looks.by)
    for key, (measure, path, position, setting) in zip(
        curves[looks.by].itertuples(index=False, name=None),
        curves[names].itertuples(index=False, name=None),
        strict=True,
    ):
        value = study.oracles.value(measure, path, position, study.settings[setting])
        if math.isfinite(value):
            found[key] = value
    return found


def same_for_all(panels: Sequence[Panel], looks: Looks) -> bool:
    """Whether in each panel with an oracle all looks have one, and the same on the mean."""
    if "path" not in looks.by:
        return False
    for panel in panels:
        values = oracle_means(panel, looks).values()
        if values and (
            len(panel.oracles) < len(panel.data.drop_duplicates(looks.by))
            or max(values) - min(values) > ALIKE
        ):
            return False
    return True
