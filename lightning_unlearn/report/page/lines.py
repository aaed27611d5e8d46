"""Curves of a measure by unlearning step, a chart per method and setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.report.bands import spread_over_seeds
from lightning_unlearn.report.closeness import between_oracles, closeness_of
from lightning_unlearn.report.curves import Curves, Place, curves_of
from lightning_unlearn.report.looks import PALETTE
from lightning_unlearn.report.naming import setting_name
from lightning_unlearn.report.page.chart import Chart, Level, Series
from lightning_unlearn.report.page.looks import PathLooks
from lightning_unlearn.report.study_report import StudyReport
from lightning_unlearn.statistics import mean_over_seeds

LIKELIHOOD = "nats per token"
SQUARED = "(nats per token)²"
RETRAINED = "retrained without the forget stage"
ALIKE = 1e-9
Floats = NDArray[np.float64]


def path_series(
    values: Floats,
    paths: Sequence[Place],
    looks: PathLooks,
    best: dict[Place, int] | None = None,
) -> list[Series]:
    """A curve per path with its band over seeds; of many paths, one per position.

    Args:
        values: [paths, seeds, steps].
        paths: of the first axis.
        looks: of the page.
        best: places of the values that are marked.
    """
    means, half = spread_over_seeds(values)
    own = [looks.of(place) for place in paths]
    found = []
    for number, (place, look) in enumerate(zip(paths, own, strict=True)):
        mean, ends, thin = means[number], half[number], own.count(look) > 1
        found.append(
            Series(
                [look.key],
                f"p = {place[1]}: {place[0]}",
                look.short,
                look.color,
                look.dash,
                mean,
                low=None if thin else mean - ends,
                high=None if thin else mean + ends,
                role="thin" if thin else "line",
                best=None if thin else (best or {}).get(place),
            )
        )
    for look in looks.every:
        mine = [mean for mean, other in zip(means, own, strict=True) if other == look]
        if len(mine) > 1:
            mean = mean_over_seeds(np.array([mine]))[0]
            label = f"mean of {len(mine)} paths, {look.short}"
            found.append(Series([look.key], label, look.short, look.color, look.dash, mean))
    return found


def oracle_levels(told: StudyReport, measure: str, curves: Curves, looks: PathLooks) -> list[Level]:
    """The oracles' values: one line where all are alike, else one per path or position."""
    values: dict[Place, float] = {}
    for place in curves.paths:
        value = told.study.oracles.value(measure, place[0], place[1], curves.setting)
        if np.isfinite(value):
            values[place] = value
    if not values:
        return []
    if len(values) == len(curves.paths) and np.ptp(list(values.values())) <= ALIKE:
        return [Level(RETRAINED, next(iter(values.values())))]
    found = []
    for look in looks.every:
        mine = [value for place, value in values.items() if looks.of(place) == look]
        if mine:
            label = f"{RETRAINED}, {look.short}"
            found.append(Level(label, sum(mine) / len(mine), [look.key], look.color))
    return found


def measure_charts(
    told: StudyReport, measure: str, looks: PathLooks, what: str, without_own: str = ""
) -> list[Chart]:
    """A chart per method and setting of a log-likelihood.

    Args:
        told: the study.
        measure: its name.
        looks: of the page.
        what: is measured.
        without_own: a stage; paths that forget it are left out.
    """
    charts = []
    for curves in curves_of(told.study, measure):
        own = [
            number
            for number, (path, position) in enumerate(curves.paths)
            if path.split("-")[position - 1] != without_own
        ]
        if not own:
            continue
        paths = [curves.paths[number] for number in own]
        chart = Chart(
            title=curves.method,
            under=setting_name(curves.keys, curves.setting),
            steps=curves.steps,
            ytitle=f"{what}, {LIKELIHOOD}",
            series=path_series(curves.means[own], paths, looks),
            levels=oracle_levels(told, measure, curves, looks),
            share=measure,
        )
        charts.append(chart)
    return charts


def distance_charts(told: StudyReport, probe: str, looks: PathLooks) -> list[Chart]:
    """The distance to the oracle, with each path's best step marked."""
    found = told.examples
    floors = (
        between_oracles(found[1], probe) if found and found[0] == f"log_likelihood/{probe}" else {}
    )
    pairs = {tuple(distances): distances for distances in floors.values()}
    every = [distance for distances in pairs.values() for distance in distances]
    levels = []
    if every:
        floor = sum(every) / len(every)
        levels = [Level("two oracles of different seeds", floor)]
    charts = []
    for own in closeness_of(told.study, probe):
        curves = own.distance
        best = dict(zip(own.paths, map(int, own.best.own), strict=True))
        chart = Chart(
            title=curves.method,
            under=setting_name(curves.keys, curves.setting),
            steps=curves.steps,
            ytitle=SQUARED,
            series=path_series(curves.means, curves.paths, looks, best),
            levels=levels,
            share=f"distance/{probe}",
            log=True,
        )
        charts.append(chart)
    return charts


def stage_charts(told: StudyReport, stages: Sequence[str]) -> list[Chart]:
    """The answers of every stage together, a chart per method, setting and path.

    Args:
        told: the study.
        stages: in the order of their looks.
    """
    by_stage = {
        stage: {(c.method, c.setting): c for c in curves_of(told.study, f"answers/{stage}")}
        for stage in stages
    }
    cells = list(dict.fromkeys(cell for found in by_stage.values() for cell in found))
    colors = len(PALETTE)
    charts = []
    for method, setting in cells:
        every = {stage: found.get((method, setting)) for stage, found in by_stage.items()}
        known = {stage: curves for stage, curves in every.items() if curves is not None}
        some = next(iter(known.values()))
        for place in sorted(told.paths, key=lambda pair: pair[1]):
            series = []
            for number, stage in enumerate(stages):
                curves = known.get(stage)
                if curves is None or place not in curves.paths:
                    continue
                means, half = spread_over_seeds(curves.means[[curves.paths.index(place)]])
                mean, own = means[0], half[0]
                look, key = number % colors, [f"stage:{stage}"]
                ends = {"low": mean - own, "high": mean + own}
                series.append(Series(key, stage, stage, look, look, mean, **ends))
            if series:
                name = setting_name(some.keys, setting)
                charts.append(
                    Chart(
                        title=f"{method}: {place[0]}",
                        under=f"p = {place[1]}{name and f', {name}'}",
                        steps=some.steps,
                        ytitle=LIKELIHOOD,
                        series=series,
                        share="answers",
                    )
                )
    return charts
