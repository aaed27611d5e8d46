"""Log-likelihoods by step: how paths diverge while the forget stage is unlearned."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_unlearn.analysis.curves import (
    Band,
    Curves,
    Floats,
    band_of,
    curves_by_condition,
    oracles_of,
    paths_of,
)
from lightning_unlearn.analysis.reading import Condition, PathPosition, StudyRecords, answers_of
from lightning_unlearn.report.figures import labels, spec
from lightning_unlearn.report.figures.style import CurveStyle, StyleMap, plain
from lightning_unlearn.report.formatting import span
from lightning_unlearn.statistics import mean_over_seeds

ORACLE = "retrained without the forget stage"

# A panel that is wanted: method and setting, metric of its curves, and the panel without marks.
Cell = tuple[Condition, str, spec.Panel]


def forget_figure(
    study: StudyRecords, styles: StyleMap, metric: str = "forget/label"
) -> spec.Figure | None:
    """The log-likelihood of the label of the forget score."""
    data = study.runs[study.runs["metric"] == metric]
    if data.empty:
        return None
    ylabel = "label log-likelihood\n(nats per token)"

    def cell(of: Condition) -> Cell:
        return of, metric, spec.Panel((), of.method, of.words, ylabel, metric)

    cells = [[cell(of) if of else None for of in row] for row in labels.arrange(data, study)]
    title = f"Unlearning {labels.forgotten(data)}: log-likelihood of {study.label_words}"
    figure = curve_figure(study, styles, cells, title, ["lower = more forgotten"])
    return replace(figure, grid=labels.tidy(figure.grid))


def utility_figure(study: StudyRecords, styles: StyleMap) -> spec.Figure | None:
    """The log-likelihood of the answers of the stages that are not forgotten.

    A row per stage and a column per method; where there are settings, a row per setting. A run is
    left out of the panels of its own forget stage.
    """
    answers = answers_of(study.runs)
    data = answers[answers["stage"] != answers["forget"]]
    if data.empty:
        return None
    trials = labels.arrange(data, study)
    stages = [str(stage) for stage in data["stage"].unique()]

    def cell(of: Condition | None, stage: str) -> Cell | None:
        if of is None:
            return None
        title, unit = of.method, "nats per token"
        name = f"{textwrap.fill(stage, 18)} answers"
        if len(trials) == 1:
            unit = f"{name}\n({unit})"
        else:
            title = f"{title}: {name}"
        metric = f"answers/{stage}"
        return of, metric, spec.Panel((), title, of.words, unit, metric, group=stage)

    if len(trials) == 1:
        cells = [[cell(of, stage) for of in trials[0]] for stage in stages]
    else:
        cells = [[cell(of, stage) for stage in stages for of in row] for row in trials]
    title = f"Unlearning {labels.forgotten(data)}: the other stages' log-likelihood"
    figure = curve_figure(replace(study, runs=data), styles, cells, title, ["flat = kept"])
    return replace(figure, height=2.1 if len(trials) == 1 or len(cells) < 3 else 1.9)


def curve_figure(
    study: StudyRecords,
    styles: StyleMap,
    cells: Sequence[Sequence[Cell | None]],
    title: str,
    notes: Sequence[str],
) -> spec.Figure:
    """The curves of paths in panels, with their oracles drawn alike.

    Wanted panels without a curve are gaps. A note on what was averaged is added to the others.
    """
    wanted = [cell for row in cells for cell in row if cell]
    metrics = dict.fromkeys(metric for _, metric, _ in wanted)
    every = {metric: curves_by_condition(study, metric) for metric in metrics}
    curves = {(of, m): every[m][of] for of, m, _ in wanted if of in every[m]}
    oracles = {(of, m): oracles_of(study, m, own) for (of, m), own in curves.items()}
    one = labels.same_for_all([(own, oracles[key]) for key, own in curves.items()], styles)

    def panel(cell: Cell | None) -> spec.Panel | None:
        if cell is None or cell[:2] not in curves:
            return None
        marks = path_marks(curves[cell[:2]], styles)
        for key, value in labels.means_of_styles(oracles[cell[:2]], styles).items():
            style = styles.styles[key]
            name = ORACLE if one else f"{ORACLE}, {style.short}"
            marks.append(spec.level(value, "oracle", name, None if one else style))
            if one:
                break
        return replace(cell[2], marks=marks)

    entries = path_entries(list(curves.values()), styles)
    if any(oracles.values()):
        mean = ", mean over paths" if styles.grouped else ""
        whose = "" if one else f", in the {styles.kind}'s color"
        entries.append(spec.Entry("oracle", plain(f"{ORACLE}{mean}{whose}")))
    grid = [[panel(cell) for cell in row] for row in cells]
    said = [*notes, *seeds_note(list(curves.values()), styles)]
    return spec.Figure(title, said, grid, spec.Legend(styles.heading, entries))


def path_marks(curves: Curves, styles: StyleMap, shade: float = 0.18) -> list[spec.Mark]:
    """A curve with its band for each path; or thin ones, and a thick one for each position.

    The curves are those of one method and setting, `shade` is the opacity of their bands.
    """
    if not styles.grouped:
        pairs = zip(curves.paths, curves.means, strict=True)
        return [
            spec.thick_line(band, styles.of(path), labels.full_name(path), shade)
            for path, values in pairs
            if (band := band_of(curves.steps, values)).seeds
        ]
    marks: list[spec.Mark] = []
    means = mean_over_seeds(curves.means)
    x = np.asarray(curves.steps, np.float64)
    keys = [styles.key(path) for path in curves.paths]
    for key, style in styles.styles.items():
        own = [place for place, other in enumerate(keys) if other == key]
        for place in own:
            known = np.isfinite(means[place])
            name = labels.full_name(curves.paths[place])
            marks.append(spec.Mark(x[known], means[place][known], "path", name, style))
        mean = mean_over_seeds(means[own][None])[0] if own else np.empty(0)
        name = f"mean of {len(own)} path{'s' * (len(own) > 1)}, {style.short}"
        marks += mean_line(x, mean, style, name) if own else []
    return marks


def mean_line(x: Floats, mean: Floats, style: CurveStyle, name: str) -> list[spec.Mark]:
    """A thick curve without a band, where it has a value."""
    known = np.isfinite(mean)
    nothing = np.full(int(known.sum()), np.nan)
    band = Band(x[known], mean[known], nothing, nothing, 1)
    return [spec.thick_line(band, style, name)] if known.any() else []


def path_entries(drawn: Sequence[Curves], styles: StyleMap, role: str = "line") -> list[spec.Entry]:
    """The lines of the legend for the paths that are drawn."""
    present = styles.present(path for curves in drawn for path in curves.paths)
    return [spec.Entry(role, style.label, style) for style in present]


def answers_figure(study: StudyRecords, styles: StyleMap) -> spec.Figure | None:
    """The answers of all stages together, where those of the forget stage were measured."""
    data = answers_of(study.runs)
    if not (data["stage"] == data["forget"]).any():
        return None
    every = {
        stage: curves_by_condition(study, f"answers/{stage}") for stage in map(str, styles.styles)
    }
    trials = labels.by_method(data, study)
    paths = sorted(paths_of(data), key=lambda path: path[1])
    columns = 6 if len(trials) > 1 or len(paths) > 9 else 2 if len(paths) == 4 else 3
    grid: list[Sequence[spec.Panel | None]] = []
    for of in trials:
        own = {stage: found[of] for stage, found in every.items() if of in found}
        panels = [_answers_panel(own, path, styles, study) for path in paths]
        named = [
            panel and replace(panel, setting=of.name if len(trials) > 1 else "", group=of.name)
            for panel in panels
        ]
        grid += labels.wrapped(named, columns)
    drawn = [curves for found in every.values() for curves in found.values()]
    entries = [spec.Entry("line", style.label, style) for style in styles.styles.values()]
    marks = [mark for row in grid for panel in row if panel for mark in panel.marks]
    if any(mark.role == "oracle" for mark in marks):
        entries.append(spec.Entry("oracle", plain(f"{ORACLE}, in the stage's color")))
    title = f"Unlearning {labels.forgotten(data)}: log-likelihood of every stage's answers"
    notes = ["superficial = only the forgotten stage falls", *seeds_note(drawn, styles)]
    legend = spec.Legend(styles.heading, entries)
    return spec.Figure(title, notes, grid, legend, (2.8, 2.1)[len(grid) > 2])


def _answers_panel(
    own: dict[str, Curves], path: PathPosition, styles: StyleMap, study: StudyRecords
) -> spec.Panel | None:
    marks: list[spec.Mark] = []
    for stage, curves in own.items():
        if path not in curves.paths:
            continue
        style = styles.styles[stage]
        band = band_of(curves.steps, curves.means[curves.paths.index(path)])
        marks += [spec.thick_line(band, style, stage)] if band.seeds else []
        value = oracles_of(study, f"answers/{stage}", curves).get(path)
        if value is not None:
            marks.append(spec.level(value, "oracle", f"{ORACLE}, {stage}", style))
    ylabel = "log-likelihood of answers\n(nats per token)"
    return spec.Panel(marks, labels.full_name(path), "", ylabel) if marks else None


def seeds_note(drawn: Sequence[Curves], styles: StyleMap) -> list[str]:
    """What was averaged, in words."""
    each = [np.isfinite(c.means).any(axis=2).sum(axis=1) for c in drawn]
    counts = [int(count) for found in each for count in found if count]
    several = max(counts) > 1
    if styles.grouped:
        over = f", mean over {span(counts)} seeds" if several else ""
        return [f"thin: one path{over}; thick: mean of the position"]
    note = f"line: mean of {span(counts)} seeds; band: 95 % interval (Student's t)"
    return [note] if several else []
