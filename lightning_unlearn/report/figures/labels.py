"""Which panel goes where, what it is called, and which oracles it shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.curves import Curves
from lightning_unlearn.analysis.reading import Condition, PathPosition, Setting, StudyRecords
from lightning_unlearn.report.figures.spec import Grid, Panel
from lightning_unlearn.report.figures.style import StyleMap

if TYPE_CHECKING:
    import pandas as pd

# Oracles of different paths that were the same model differ by how their seeds were averaged.
ALIKE = 1e-9


def arrange(data: pd.DataFrame, study: StudyRecords) -> list[list[Condition | None]]:
    """Methods (columns) and settings (rows) that occur in `data`.

    Settings of different methods share a row if they differ only where one of them is null, that
    is where a sweep key has no bearing on a method.
    """
    found = study.conditions(data)
    rows: list[dict[str, Condition]] = []
    for own in sorted(found, key=lambda own: study.settings.index(own.setting)):
        for row in rows:
            others = [other.setting for other in row.values()]
            if own.method not in row and all(_agree(own.setting, other) for other in others):
                row[own.method] = own
                break
        else:
            rows.append({own.method: own})
    return [[row.get(m) for m in dict.fromkeys(own.method for own in found)] for row in rows]


def _agree(one: Setting, other: Setting) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def grid_of(
    data: pd.DataFrame, study: StudyRecords, panel: Callable[[Condition], Panel | None]
) -> Grid:
    """A panel for each method (columns) and setting (rows) in `data`, or the same wrapped."""
    return tidy([[panel(own) if own else None for own in row] for row in arrange(data, study)])


def by_method(data: pd.DataFrame, study: StudyRecords) -> list[Condition]:
    """Methods and settings in `data`, all settings of one method before those of the next."""
    columns = zip(*arrange(data, study), strict=True)
    return [own for column in columns for own in column if own]


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

    A panel is given by its curves and what `oracles_of` gives for them.
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
