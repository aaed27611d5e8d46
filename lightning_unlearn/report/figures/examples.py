"""Single forget examples, each against its own oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_unlearn.analysis.curves import curves_by_condition, oracles_of_paths
from lightning_unlearn.analysis.examples import Trajectories, overshoots, trajectories_of
from lightning_unlearn.analysis.reading import Condition, PathPosition, StudyRecords
from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.curves import mean_line
from lightning_unlearn.report.figures.labels import by_method, forgotten
from lightning_unlearn.report.figures.style import StyleMap, plain
from lightning_unlearn.report.formatting import short_number
from lightning_unlearn.statistics import mean_over_seeds

# More examples than that would be one blot.
MOST = 60


def examples_figure(
    study: StudyRecords, styles: StyleMap, examples: StudyRecords | None, complete: bool = False
) -> spec.Figure | None:
    """The log-likelihood of each forget example minus its oracle's, by step.

    A row per method and setting and a column per path; of more than seven paths the first of each
    position. With `complete` all paths are shown, and log-likelihoods where there is no oracle.
    "overshoot/forget" of the study is written into the panels. The examples are those of one
    metric, of runs and oracles.
    """
    if examples is None or examples.runs.empty:
        return None
    metric = str(examples.runs["metric"].iloc[0])
    every: dict[Condition, dict[PathPosition, Trajectories]] = {}
    seeds = 1
    for of, curves in curves_by_condition(examples, metric).items():
        seeds = max(seeds, len(curves.seeds))
        found = trajectories_of(curves, oracles_of_paths(examples, metric, curves))
        every[of] = {p: own for p, own in found.items() if own.has_oracle or complete}
    paths = [path for found in every.values() for path in found]
    shown = _chosen(paths, not styles.grouped or complete)
    if not shown:
        return None
    shares = overshoots(study) if metric == "log_likelihood/forget" else {}
    rows = [
        [
            _panel(every[of][path], styles, path, shares.get((of, path)), of.name)
            if path in every[of]
            else None
            for path in shown
        ]
        for of in by_method(examples.runs, examples)
    ]
    grid = [row for row in rows if any(row)]
    drawn = [own for found in every.values() for own in found.values()]
    most = max(len(own.gaps) for own in drawn)
    notes = [
        f"thin: one example{f', mean over {seeds} seeds' * (seeds > 1)}"
        + f" ({MOST} of {most} drawn)" * (most > MOST),
        *["below the dashed line: overshot"] * any(own.has_oracle for own in drawn),
    ]
    title = f"Unlearning {forgotten(examples.runs)}: every example against its own oracle"
    height = 2.1 if len(grid) < 4 else 1.8
    return spec.Figure(title, notes, grid, spec.Legend("", _entries(drawn, styles, shown)), height)


def _entries(
    drawn: list[Trajectories], styles: StyleMap, paths: list[PathPosition]
) -> list[spec.Entry]:
    shaded = any(np.isfinite(own.half) for own in drawn)
    over = " (shaded: 95 % over the oracles' seeds)" if shaded else ""
    return [
        *(spec.Entry("line", (*plain("mean, "), *o.label), o) for o in styles.present(paths)),
        spec.Entry("crossing", plain("an example first falls to its oracle")),
        spec.Entry("target", plain(f"the example's oracle{over}")),
    ]


def _chosen(paths: list[PathPosition], every: bool) -> list[PathPosition]:
    """Every path, or the first of each position, by position."""
    distinct = sorted(dict.fromkeys(paths), key=lambda path: path[1])
    if every:
        return distinct
    return list({path[1]: path for path in reversed(distinct)}.values())[::-1]


def _panel(
    own: Trajectories, styles: StyleMap, path: PathPosition, share: float | None, name: str
) -> spec.Panel:
    """The examples of a path, their mean, their targets and where they reach them."""
    style, marks = styles.of(path), list[spec.Mark]()
    if own.has_oracle:
        marks.append(spec.level(0.0, "target", "the example's oracle"))
    if np.isfinite(own.half):
        ends = np.array([-own.half, own.half])
        marks.append(spec.Mark(spec.NOTHING, ends, "strip", "95 % over the oracles' seeds"))
    places = np.arange(len(own.gaps))
    if len(places) > MOST:
        order = np.argsort(np.nanmean(own.gaps, axis=1), kind="stable")
        places = order[np.linspace(0, len(order) - 1, MOST).round().astype(int)]
    for place in places:
        known = np.isfinite(own.gaps[place])
        x, y = own.steps[known], own.gaps[place][known]
        marks.append(spec.Mark(x, y, "example", f"example {own.numbers[place]}", style))
    mean = mean_over_seeds(own.gaps[None])[0]
    marks += mean_line(own.steps, mean, replace(style, end=""), "mean of all examples")
    crossings = own.crossings
    zeros = np.zeros(len(crossings))
    marks.append(spec.Mark(crossings, zeros, "crossing", "an example first falls to its oracle"))
    note = "" if share is None else f"{100 * share:.0f} % overshot at the end"
    what = "less its oracle" if own.has_oracle else "log-likelihood"
    ylabel = f"{what}\n(nats per token)"
    panel = spec.Panel(marks, f"p = {path[1]}", path[0], ylabel, name, note=note)
    return replace(panel, group=name, row=name, readout=_readout(own))


def _readout(own: Trajectories) -> dict[int, str]:
    """A sentence for each step on all examples."""
    said = {}
    for step, values in zip(own.steps.astype(int).tolist(), own.gaps.T, strict=True):
        known = values[np.isfinite(values)]
        if not known.size:
            said[step] = f"step {step}: nothing measured"
            continue
        share = f"{100 * float((known < 0).mean()):.0f} % below their oracle, "
        median = f"median {short_number(float(np.median(known)))}"
        said[step] = f"step {step}: {share if own.has_oracle else ''}{median}"
    return said
