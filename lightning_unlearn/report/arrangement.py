"""Which panel goes where, and which oracles it shows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.report.curves import Curves, curves_of
from lightning_unlearn.report.looks import Looks
from lightning_unlearn.report.reading import PathPosition, Setting, StudyRecords

if TYPE_CHECKING:
    import pandas as pd

Trial = tuple[str, int]
# Oracles of different paths that were the same model differ by how their seeds were averaged.
ALIKE = 1e-9


def arrange(data: pd.DataFrame, study: StudyRecords) -> list[list[Trial | None]]:
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


def cells_of(study: StudyRecords, measure: str) -> dict[Trial, Curves]:
    """The curves of a measure by method and setting."""
    return {(c.method, study.settings.index(c.setting)): c for c in curves_of(study, measure)}


def oracles_of(study: StudyRecords, measure: str, curves: Curves) -> dict[PathPosition, float]:
    """The oracles' values, means over their seeds, of the paths that have one."""
    values = {path: study.oracles.value(measure, *path, curves.setting) for path in curves.paths}
    return {path: value for path, value in values.items() if math.isfinite(value)}


def means_of_looks(
    oracles: Mapping[PathPosition, float], looks: Looks
) -> dict[tuple[Hashable, ...], float]:
    """The mean of the oracles of all paths that look alike, by look."""
    values: dict[tuple[Hashable, ...], list[float]] = {}
    for path, value in oracles.items():
        values.setdefault(looks.key(path), []).append(value)
    return {key: sum(found) / len(found) for key, found in values.items()}


def same_for_all(
    panels: Sequence[tuple[Curves, Mapping[PathPosition, float]]], looks: Looks
) -> bool:
    """Whether in each panel with an oracle all paths have one, and all looks the same on the mean.

    Args:
        panels: the curves of each, and what `oracles_of` gives for them.
        looks: of the paths.
    """
    for curves, oracles in panels:
        values = means_of_looks(oracles, looks).values()
        if values and (len(oracles) < len(curves.paths) or max(values) - min(values) > ALIKE):
            return False
    return True
