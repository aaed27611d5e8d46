"""Charts of what lies behind the curves: the trade, the pairs of paths, the single examples."""

from __future__ import annotations

import itertools

import numpy as np

from lightning_unlearn.report.bands import spread_over_seeds
from lightning_unlearn.report.curves import Curves, curves_of, names_of_paths, oracles_of_paths
from lightning_unlearn.report.divergence import divergences
from lightning_unlearn.report.naming import setting_name, short_number
from lightning_unlearn.report.page.chart import Chart, Series
from lightning_unlearn.report.page.lines import LIKELIHOOD, SQUARED, Floats
from lightning_unlearn.report.page.looks import PathLooks
from lightning_unlearn.report.study_report import StudyReport
from lightning_unlearn.statistics import Growth, exponential_growth, mean_over_seeds

# More pairs than these are one curve with a band.
MOST_PAIRS = 10
# Examples drawn one by one in a chart.
MOST_EXAMPLES = 40
FORGOT = "forget score so far, nats per token"
KEPT = "mean utility of the other stages"


def trade_charts(told: StudyReport, looks: PathLooks) -> list[Chart]:
    """What was kept against what was forgotten, step by step, a chart per method and setting."""
    stages = [stage for stage in told.measured("answers/") if stage not in told.forget]
    others = [
        {(c.method, c.setting): c for c in curves_of(told.study, f"answers/{stage}")}
        for stage in stages
    ]
    charts = []
    for curves in curves_of(told.study, "forget/mean"):
        every = [found.get((curves.method, curves.setting)) for found in others]
        mine = [
            own for own in every if own and own.means.shape == curves.means.shape
        ]  # Measured at the same steps.
        if not mine or len(curves.steps) < 2:
            continue
        forgot = mean_over_seeds(curves.means[..., :1] - curves.means)
        changes = [np.abs(own.means - own.means[..., :1]) for own in mine]
        kept = mean_over_seeds(1 - np.mean(changes, axis=0))
        series = [
            Series(
                [look.key],
                f"p = {place[1]}: {place[0]}",
                look.short,
                look.color,
                look.dash,
                kept[number],
                x=forgot[number],
                role="trail",
            )
            for number, place in enumerate(curves.paths)
            for look in [looks.of(place)]
        ]
        under = setting_name(curves.keys, curves.setting)
        charts.append(
            Chart(curves.method, under, curves.steps, KEPT, series, xtitle=FORGOT, share="trade")
        )
    return charts


def divergence_charts(told: StudyReport) -> tuple[list[Chart], list[tuple[int | None, int, str]]]:
    """The distance between paths on a logarithmic axis, with the exponentials that fit.

    Returns:
        The charts, and their legend: color, line style and name.
    """
    found = told.examples
    if found is None:
        return [], []
    charts: list[Chart] = []
    legend: dict[str, tuple[int | None, int, str]] = {}
    for own in divergences(found[1], found[0]):
        curves = own.curves
        means, half = spread_over_seeds(own.paths)
        series: list[Series] = []
        if len(own.pairs) <= MOST_PAIRS:
            names = names_of_paths(curves.paths)
            for number, (one, other) in enumerate(own.pairs):
                name = f"{names[one]} and {names[other]}"
                color, dash = number % 7, (number + number // 7) % 7
                legend[name] = (color, dash, name)
                ends = {"low": means[number] - half[number], "high": means[number] + half[number]}
                key = [f"pair:{name}"]
                series.append(Series(key, name, name, color, dash, means[number], **ends))
                series += _fit(curves, means[number], name, color)
        else:
            middle = mean_over_seeds(means[None])[0]
            name = f"mean of {len(own.pairs)} pairs of paths"
            low, high = _middle(means)
            legend[name] = (0, 0, f"{name}; band: from the 10th to the 90th percentile")
            series.append(Series([f"pair:{name}"], name, "pairs", 0, 0, middle, low=low, high=high))
            series += _fit(curves, middle, name, 0)
        if len(own.seed_pairs):
            apart = mean_over_seeds(own.seeds.reshape(1, -1, len(curves.steps)))[0]
            name = "two seeds of one path, mean"
            legend[name] = (None, 1, name)
            series.append(Series([f"pair:{name}"], name, "seeds", None, 1, apart))
        under = setting_name(curves.keys, curves.setting)
        charts.append(
            Chart(curves.method, under, curves.steps, SQUARED, series, log=True, share="apart")
        )
    return charts, list(legend.values())


def _middle(means: Floats) -> tuple[Floats, Floats]:
    """The 10th and the 90th percentile over pairs, [steps] each; NaN where there is no value."""
    ends = np.full((2, means.shape[1]), np.nan)
    known = np.isfinite(means).any(axis=0)
    ends[:, known] = np.nanpercentile(means[:, known], [10, 90], axis=0)
    return ends[0], ends[1]


def _fit(curves: Curves, distances: Floats, name: str, color: int) -> list[Series]:
    """The exponential fitted to a mean curve, if there is one."""
    fit = exponential_growth(curves.steps, distances)
    if not isinstance(fit, Growth):
        return []
    steps = np.asarray(curves.steps, float)
    inside = (steps >= fit.first) & (steps <= fit.last)
    logs = np.log(distances[inside])
    line = np.exp(logs.mean() + fit.rate * (steps - steps[inside].mean()))
    verb, every = ("doubles", fit.doubling) if fit.rate > 0 else ("halves", -fit.doubling)
    note = f"fit of {name}: {verb} every {short_number(every)} steps"
    fitted = np.where(inside, line, np.nan)
    return [Series([f"pair:{name}"], note, "fit", color, 2, fitted, role="fit", note=note)]


def example_charts(
    told: StudyReport, looks: PathLooks, most: int
) -> tuple[dict[str, list[Chart]], list[str]]:
    """Single forget examples, less what their oracles give them, a chart per path.

    Args:
        told: the study.
        looks: of the page.
        most: charts; paths and methods are left out beyond that.

    Returns:
        The charts by method and setting, and sentences on what is shown of how much.
    """
    found = told.examples
    if found is None:
        return {}, []
    measure, examples = found
    charts: dict[str, list[Chart]] = {}
    counts: set[int] = set()
    every = drawn = total = 0
    for curves in curves_of(examples, measure):
        oracles = oracles_of_paths(examples, measure, curves)
        each = zip(curves.paths, curves.values, oracles, strict=True)
        for place, values, models in itertools.islice(each, max(0, most - drawn)):
            chart, shown = _of_path(curves, place, values, models, looks)
            charts.setdefault(curves.name, []).append(chart)
            counts.add(shown)
            drawn += 1
        every += len(curves.paths)
        total = max(total, len(curves.examples))
    said = []
    if counts and max(counts) < total:
        said.append(
            f"Each chart draws {max(counts)} of {total} examples, evenly taken from the order of "
            "their last values; shares and medians are of all."
        )
    if every > drawn:
        said.append(f"The first {drawn} of {every} pairs of method and path are drawn.")
    return charts, said


def _of_path(
    curves: Curves, place: tuple[str, int], values: Floats, models: Floats, looks: PathLooks
) -> tuple[Chart, int]:
    """The chart of a path from its values, [seeds, steps, examples], and how many it draws."""
    look = looks.of(place)
    mean = mean_over_seeds(values.reshape(1, values.shape[0], -1))[0].reshape(values.shape[1:])
    has_oracle = bool(len(models)) and bool(np.isfinite(models).any())
    band: tuple[float, float, str] | None = None
    told: list[str] = []
    if has_oracle:
        aim = mean_over_seeds(models[None])[0]
        mean = mean - aim
        if len(models) > 1:
            off = (models - aim).ravel()
            low, high = np.nanpercentile(off, [2.5, 97.5])
            band = (float(low), float(high), "oracles of other seeds (95 %)")
    for step, row in zip(curves.steps, mean, strict=True):
        known = row[np.isfinite(row)]
        if not known.size:
            told.append(f"step {step}: nothing measured")
        elif has_oracle:
            below = 100 * float((known < 0).mean())
            told.append(
                f"step {step}: {below:.0f} % below their oracle, median "
                f"{short_number(float(np.median(known)))}"
            )
        else:
            told.append(f"step {step}: median {short_number(float(np.median(known)))}")
    order = [n for n in np.argsort(mean[-1], kind="stable") if np.isfinite(mean[:, n]).any()]
    places = np.linspace(0, len(order) - 1, min(len(order), MOST_EXAMPLES)).round().astype(int)
    chosen = [order[number] for number in places] if order else []
    series = [
        Series(
            [look.key],
            f"example {curves.examples[number]}",
            f"example {curves.examples[number]}",
            look.color,
            0,
            mean[:, number],
            role="thin",
        )
        for number in chosen
    ]
    counts = np.isfinite(mean).any(axis=1)
    middle = np.full(len(mean), np.nan)
    middle[counts] = np.nanmedian(mean[counts], axis=1)
    name = "median of all examples"
    series.append(Series([look.key], name, look.short, look.color, look.dash, middle))
    chart = Chart(
        title=f"p = {place[1]}",
        under=place[0],
        steps=curves.steps,
        ytitle="less the oracle's, nats per token" if has_oracle else LIKELIHOOD,
        series=series,
        band=band,
        share=f"examples {curves.name}",
        told=told,
    )
    return chart, len(chosen)
