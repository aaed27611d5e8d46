"""A measure of a study as arrays: one for each method and setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_unlearn.report.formatting import join_words, span
from lightning_unlearn.report.oracles import Setting, matches, named_in
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.settings.labels import run_name, setting_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place = tuple[str, int]
_AXES = ("seed", "step", "example")
# Sentences list at most so many paths one by one.
FEW = 6


@dataclass(frozen=True)
class Curves:
    """What the runs of one method and setting measured.

    Attributes:
        method: its label.
        keys: the sweep keys.
        setting: their values.
        paths: path and position of the forget stage, by position.
        seeds: ascending.
        steps: ascending.
        examples: their numbers, ascending; [0] for a table without examples.
        values: [paths, seeds, steps, examples]; NaN where nothing was measured.
    """

    method: str
    keys: Sequence[str]
    setting: Setting
    paths: list[Place]
    seeds: list[int]
    steps: list[int]
    examples: list[int]
    values: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """The values of a table without examples, [paths, seeds, steps]."""
        return self.values[..., 0]

    @property
    def name(self) -> str:
        """Method and setting in words."""
        return run_name(self.method, setting_name(self.keys, self.setting))

    @property
    def identity(self) -> dict[str, Any]:
        """The first columns of a table's rows: method and sweep values."""
        return {"method": self.method, **dict(zip(self.keys, self.setting, strict=True))}

    def at(self, path: Place, step: int) -> NDArray[np.float64]:
        """The values of a path at a step, [seeds]; NaN where there are none."""
        if path not in self.paths or step not in self.steps:
            return np.full(len(self.seeds), np.nan)
        return self.means[self.paths.index(path), :, self.steps.index(step)]


def curves_of(study: StudyRecords, measure: str) -> list[Curves]:
    """The runs' values of a measure, by method in order of appearance, and setting.

    Args:
        study: the records, or the examples, of a study.
        measure: its name.
    """
    rows = study.runs[study.runs["metric"] == measure]
    if "example" not in rows:
        rows = rows.assign(example=0)
    found = []
    for method, runs in rows.groupby("method", sort=False):
        for setting, part in runs.groupby("setting"):
            part = part.sort_values("position", kind="stable")
            places = part.groupby(["path", "position"], sort=False)
            pairs = part[["path", "position"]].drop_duplicates().itertuples(index=False, name=None)
            paths = [(str(path), int(position)) for path, position in pairs]
            axes = [np.unique(part[name], return_inverse=True) for name in _AXES]
            values = np.full((len(paths), *(len(labels) for labels, _ in axes)), np.nan)
            at = (places.ngroup().to_numpy(), *(place for _, place in axes))
            values[at] = part["value"]
            seeds, steps, examples = (labels.tolist() for labels, _ in axes)
            own = study.settings[setting]
            found.append(
                Curves(str(method), study.sweep, own, paths, seeds, steps, examples, values)
            )
    return found


def oracles_of_paths(
    study: StudyRecords, measure: str, curves: Curves
) -> list[NDArray[np.float64]]:
    """What the oracles of each path measured, for the examples of the runs.

    Args:
        study: the examples of a study.
        measure: its name.
        curves: the runs.

    Returns:
        [oracle seeds, examples] for each path; NaN where nothing was measured.
    """
    each = [list(models.values()) for models in oracles_by_seed(study, measure, curves)]
    return [np.array(models).reshape(len(models), len(curves.examples)) for models in each]


def oracles_by_seed(
    study: StudyRecords, measure: str, curves: Curves
) -> list[dict[int, NDArray[np.float64]]]:
    """The same as `oracles_of_paths`, by seed in ascending order: [examples].

    Of several oracles with one seed the one that names most of the setting is taken.
    """
    rows = study.retrained[study.retrained["metric"] == measure]
    parts = dict(list(rows.groupby(["path", "position"])))
    examples = np.array(curves.examples)
    found = []
    for path in curves.paths:
        models: dict[int, tuple[int, NDArray[np.float64]]] = {}
        part = parts.get(path)
        for (seed, code), own in part.groupby(["seed", "setting"]) if part is not None else ():
            setting = study.settings[code]
            named = named_in(setting)
            if not matches(setting, curves.setting) or named < models.get(seed, (0,))[0]:
                continue
            values = np.full(len(examples), np.nan)
            known = own[np.isin(own["example"], examples)]
            values[np.searchsorted(examples, known["example"])] = known["value"]
            models[int(seed)] = (named, values)
        found.append({seed: values for seed, (_, values) in sorted(models.items())})
    return found


def names_of_paths(paths: Sequence[Place]) -> list[str]:
    """The paths for a sentence: "p = 3" where no other has that position, else the stages."""
    positions = [position for _, position in paths]
    return [
        f"p = {position}" if positions.count(position) == 1 else path for path, position in paths
    ]


def per_path(
    values: Sequence[int], paths: Sequence[Place], falling: Sequence[bool] | None = None
) -> str:
    """ "5 (p = 1) and 10 (p = 2)", "5 on every path", or "5 to 10 by path" where there are many.

    Args:
        values: of each path.
        paths: theirs.
        falling: on which a curve still falls there, which is said.
    """
    falls = list(falling) if falling is not None else [False] * len(paths)
    names = names_of_paths(paths)
    still = ", still falling" * any(falls)
    if len(set(values)) == 1:
        text = f"{values[0]} on every path" if len(values) > 1 else str(values[0])
        some = [name for name, falls_on in zip(names, falls, strict=True) if falls_on]
        where = f" on {among(some, len(paths))}" if 0 < len(some) < len(paths) else ""
        return text + still + where
    if len(paths) > FEW:
        return f"{span(values)} by path" + f"{still} on {sum(falls)} of {len(paths)}" * any(falls)
    return join_words(
        f"{value} ({name}{', still falling' * falls_on})"
        for value, name, falls_on in zip(values, names, falls, strict=True)
    )


def among(names: Sequence[str], total: int) -> str:
    """Some of the paths for a sentence: "p = 1 and p = 2", or "7 of 24 paths"."""
    return join_words(names) if len(names) <= FEW else f"{len(names)} of {total} paths"


def seeds_on_paths(seeds: Sequence[Sequence[int]], paths: Sequence[Place]) -> str:
    """Some seeds of each path: "seed 2 on p = 1 and p = 3", "seed 2" for all paths, "" for none."""
    names: dict[tuple[int, ...], list[str]] = {}
    for own, name in zip(seeds, names_of_paths(paths), strict=True):
        if own:
            names.setdefault(tuple(own), []).append(name)
    parts = []
    for own, named in names.items():
        where = f" on {among(named, len(paths))}" if len(named) < len(paths) else ""
        parts.append(f"seed{'s' * (len(own) > 1)} {join_words(map(str, own))}{where}")
    return join_words(parts) if parts else ""
