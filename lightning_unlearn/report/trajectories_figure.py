"""The missing-targets plot: each forget example against its own oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lightning_unlearn.report.arrangement import arrange, cells_of
from lightning_unlearn.report.curve_figures import forgotten, titled_once
from lightning_unlearn.report.curves import Band, Curves, oracles_of_paths
from lightning_unlearn.report.drawn import GREY, Curve, Level, Part, Spots, Thin, Words, Zone
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import Looks, folded, looks_of_paths
from lightning_unlearn.report.panels import Panel
from lightning_unlearn.report.reading import PathPosition, StudyRecords
from lightning_unlearn.settings.labels import run_name
from lightning_unlearn.statistics import half_width, mean_over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

ZERO = {"color": GREY, "linewidth": 1.4, "linestyle": (0, (4, 2.5)), "zorder": 1.9}
CROSSING = {"marker": "|", "markersize": 9, "markeredgewidth": 1.3, "color": "#000000", "zorder": 3}
# More examples than that would be one blot.
MOST = 60


@dataclass(frozen=True, eq=False)
class Trajectories:
    """The examples of one path, means over seeds.

    Attributes:
        x: steps.
        gaps: log-likelihood less that of the oracle, [examples, steps]; NaN where either is
            missing. 0 is the target.
        half: half the 95 % interval of the oracles' mean over their seeds, mean over examples; NaN
            with one oracle.
    """

    x: NDArray[np.float64]
    gaps: NDArray[np.float64]
    half: float

    @property
    def crossings(self) -> NDArray[np.float64]:
        """The steps, interpolated, at which examples first fall to their target."""
        return np.array([c for c in map(self._crossing, self.gaps) if np.isfinite(c)])

    def _crossing(self, gaps: NDArray[np.float64]) -> float:
        known = np.isfinite(gaps)
        x, y = self.x[known], gaps[known]
        falls = np.flatnonzero((y[:-1] > 0) & (y[1:] <= 0))
        if not falls.size:
            return float("nan")
        at = falls[0]
        return float(x[at] + (x[at + 1] - x[at]) * y[at] / (y[at] - y[at + 1]))


def trajectories_of(
    curves: Curves, oracles: list[NDArray[np.float64]]
) -> dict[PathPosition, Trajectories]:
    """Each path's examples against its oracles; paths without both are left out.

    Args:
        curves: of examples.
        oracles: what `lightning_unlearn.report.curves.oracles_of_paths` gives for them.
    """
    found = {}
    for path, values, models in zip(curves.paths, curves.values, oracles, strict=True):
        if not np.isfinite(models).any():
            continue
        known = np.isfinite(models)
        target = mean_over_seeds(models[None])[0]
        count = known.sum(axis=0)
        squares = np.where(known, (np.where(known, models, 0) - target) ** 2, 0).sum(axis=0)
        half = half_width(np.sqrt(squares / np.maximum(count - 1, 1)), count)
        half = half[np.isfinite(half)]
        # [seeds, steps, examples] to [steps, seeds, examples], whose seeds are averaged.
        gaps = (mean_over_seeds(values.swapaxes(0, 1)) - target).T
        gaps = gaps[np.isfinite(gaps).any(axis=1)]
        if len(gaps):
            x = np.asarray(curves.steps, np.float64)
            found[path] = Trajectories(x, gaps, float(half.mean()) if half.size else float("nan"))
    return found


def trajectories_figure(study: StudyRecords, examples: StudyRecords | None) -> Figure | None:
    """The log-likelihood of each forget example less that of its oracle, by step.

    A row per method and setting and a column per path; of more than seven paths the first of each
    position.

    Args:
        study: the records; "overshoot/forget" is written into the panels.
        examples: of one measure, of runs and oracles.
    """
    if examples is None or examples.runs.empty:
        return None
    measure = str(examples.runs["metric"].iloc[0])
    looks = looks_of_paths(study.runs)
    cells = {
        cell: (curves, trajectories_of(curves, oracles_of_paths(examples, measure, curves)))
        for cell, curves in cells_of(examples, measure).items()
    }
    shown = _chosen([path for _, found in cells.values() for path in found], looks)
    if not shown:
        return None
    shares = overshoots(study) if measure == "log_likelihood/forget" else {}
    grid: list[list[Panel | None]] = []
    for cell in (
        cell for column in zip(*arrange(examples.runs, examples), strict=True) for cell in column
    ):
        if cell is None or not cells[cell][1]:
            continue
        found = cells[cell][1]
        name = folded(run_name(cell[0], examples.name(cell[1])), 30)
        grid.append([])
        for path in shown:
            if path not in found:
                grid[-1].append(None)
                continue
            share = shares.get((cell[0], examples.settings[cell[1]], path))
            parts = parts_of_examples(found[path], looks, path, share)
            ylabel = f"{name}\n{folded('less its oracle (nats per token)', 40)}"
            grid[-1].append(Panel(parts, f"p = {path[1]}", path[0], ylabel, cell))
    entries: list[Entry] = [(look.line(1), f"mean, {look.label}") for look in looks.present(shown)]
    entries.append(({**CROSSING, "linestyle": "none"}, "an example first falls to its oracle"))
    every = [t for _, found in cells.values() for t in found.values()]
    shaded = (
        " (shaded: 95 % over the oracles' seeds)"
        if np.isfinite([t.half for t in every]).any()
        else ""
    )
    entries.append((ZERO, f"the example's oracle{shaded}"))
    most = max(len(t.gaps) for t in every)
    seeds = max(len(curves.seeds) for curves, _ in cells.values())
    notes = [
        f"thin: one example{f', mean over {seeds} seeds' * (seeds > 1)}"
        + f" ({MOST} of {most} drawn)" * (most > MOST),
        "below the dashed line: overshot",
    ]
    title = f"Unlearning {forgotten(examples.runs)}: every example against its own oracle"
    return compose(titled_once(grid), 2.1 if len(grid) < 4 else 1.8, title, notes, "", entries)


def _chosen(paths: list[PathPosition], looks: Looks) -> list[PathPosition]:
    """All paths, or the first of each position, by position."""
    distinct = sorted(dict.fromkeys(paths), key=lambda path: path[1])
    if not looks.grouped:
        return distinct
    return list({path[1]: path for path in reversed(distinct)}.values())[::-1]


def parts_of_examples(
    own: Trajectories, looks: Looks, path: PathPosition, share: float | None
) -> list[Part]:
    """The examples of a panel, their mean, their targets and where they reach them."""
    look = looks.of(path)
    parts: list[Part] = [Level(0.0, ZERO)]
    if np.isfinite(own.half):
        parts.append(Zone(-own.half, own.half))
    drawn = own.gaps
    if len(drawn) > MOST:
        order = np.argsort(np.nanmean(drawn, axis=1), kind="stable")
        drawn = drawn[order[np.linspace(0, len(order) - 1, MOST).round().astype(int)]]
    style = {"color": look.color, "alpha": 0.5, "linewidth": 0.8}
    for gaps in drawn:
        known = np.isfinite(gaps)
        parts.append(Thin(own.x[known], gaps[known], style))
    mean = mean_over_seeds(own.gaps[None])[0]
    known, nothing = np.isfinite(mean), np.full(int(np.isfinite(mean).sum()), np.nan)
    parts.append(Curve(Band(own.x[known], mean[known], nothing, nothing, 1), replace(look, end="")))
    crossings = own.crossings
    parts.append(Spots(crossings, np.zeros(len(crossings)), CROSSING))
    if share is not None:
        parts.append(Words(f"{100 * share:.0f} % overshot at the end"))
    return parts


def overshoots(study: StudyRecords) -> dict[tuple[str, tuple[object, ...], PathPosition], float]:
    """The share of examples below their oracle at the last step, mean over seeds."""
    found = {}
    for (method, _), curves in cells_of(study, "overshoot/forget").items():
        means = mean_over_seeds(curves.means)
        for path, values in zip(curves.paths, means, strict=True):
            known = values[np.isfinite(values)]
            if known.size:
                found[method, curves.setting, path] = float(known[-1])
    return found
