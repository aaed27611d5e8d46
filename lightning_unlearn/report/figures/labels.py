"""Which panel goes where, what it is called, and which oracles it shows."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.report.curves import Curves, curves_of
from lightning_unlearn.report.figures.spec import Grid, Panel
from lightning_unlearn.report.figures.style import StyleMap
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


def by_method(data: pd.DataFrame, study: StudyRecords) -> list[Trial]:
    """The trials in `data`, all settings of one method before those of the next."""
    columns = zip(*arrange(data, study), strict=True)
    return [trial for column in columns for trial in column if trial]


def wrapped(panels: Sequence[Panel | None], columns: int) -> Grid:
    """Panels in rows of `columns`."""
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def tidy(rows: Grid) -> Grid:
    """The same panels, wrapped where they are a single row or column, which is hard to read."""
    if 1 not in (len(rows), len(rows[0])):
        return rows
    panels = [panel for row in rows for panel in row if panel]
    count = len(panels)
    return wrapped(panels, 2 if count == 4 else 4 if count > 6 and count % 3 else 3)


def curves_by_trial(study: StudyRecords, metric: str) -> dict[Trial, Curves]:
    """The curves of a metric by method and setting."""
    return {(c.method, study.settings.index(c.setting)): c for c in curves_of(study, metric)}


def oracles_of(study: StudyRecords, metric: str, curves: Curves) -> dict[PathPosition, float]:
    """The oracles' values, means over their seeds, of the paths that have one."""
    values = {path: study.oracles.value(metric, *path, curves.setting) for path in curves.paths}
    return {path: value for path, value in values.items() if math.isfinite(value)}


def means_of_styles(
    oracles: Mapping[PathPosition, float], styles: StyleMap
) -> dict[Hashable, float]:
    """The mean of the oracles of all paths that look alike, by the key of their style."""
    values: dict[Hashable, list[float]] = {}
    for path, value in oracles.items():
        values.setdefault(styles.key(path), []).append(value)
    return {key: sum(found) / len(found) for key, found in values.items()}


def same_for_all(
    panels: Sequence[tuple[Curves, Mapping[PathPosition, float]]], styles: StyleMap
) -> bool:
    """Whether in each panel with an oracle all paths have one, and all styles the same on the mean.

    Args:
        panels: the curves of each, and what `oracles_of` gives for them.
        styles: of the paths.
    """
    for curves, oracles in panels:
        values = means_of_styles(oracles, styles).values()
        if values and (len(oracles) < len(curves.paths) or max(values) - min(values) > ALIKE):
            return False
    return True


def forgotten(data: pd.DataFrame) -> str:
    """The name of the forget stage, or of all of them, for a title."""
    names = [str(stage) for stage in data["forget"].unique()]
    return names[0] if len(names) == 1 else f"the forget stage ({', '.join(names)})"


def full_name(path: PathPosition) -> str:
    """A path with its position, as a text."""
    return f"p = {path[1]}: {path[0]}"


def folded(text: str, width: int) -> str:
    """A text on as many lines of `width` characters as it takes."""
    return textwrap.fill(text, width)
