"""The sections of a page, in the order of a reader's questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lightning_unlearn.report.page import origin
from lightning_unlearn.report.page.chart import Chart, share_axes
from lightning_unlearn.report.page.further import divergence_charts, example_charts, trade_charts
from lightning_unlearn.report.page.lines import (
    LIKELIHOOD,
    distance_charts,
    measure_charts,
    stage_charts,
)
from lightning_unlearn.report.page.looks import PathLooks, swatch
from lightning_unlearn.report.page.markup import Markup, bullets, details, element, join, name
from lightning_unlearn.report.page.source import Told
from lightning_unlearn.report.page.tables import layout_table, sweep_table
from lightning_unlearn.report.verdict import verdict_of

# A section shows at most so many charts of a study; files hold everything.
MOST_CHARTS = 48
LABEL = "How likely the model still finds the label that it should forget. Lower: more forgotten."
UTILITY = "How likely it finds the answers of the stages that it should keep. Flat: kept."
BAND = " The band is the 95 % interval of the mean over seeds."
DASHED = " Dashed: the model retrained without the forget stage."
TRADE = (
    "Each curve is a path, from its first step at the upper left to its last; means over seeds. To "
    "the right: more forgotten; down: less kept. Utility is 1 less the absolute change of a "
    "stage's mean log-likelihood. The step of the slider is marked."
)
DISTANCE = (
    "Mean squared difference to the log-likelihoods of the oracle, the model retrained without the "
    "forget stage, on the forget examples. ★: a path's best step. Grey: how far two oracles of "
    "different seeds are from each other."
)
APART = (
    "Mean squared difference between the log-likelihoods that two paths give to the forget "
    "examples, same seed, mean over seeds with 95 % interval. A straight line is exponential "
    "growth; dotted: an exponential, fitted to the latest straight part that no other curve "
    "explains as well."
)
EXAMPLES = "Single forget examples, mean over seeds. "
TO_ORACLE = (
    "From each, what the oracle of the path gives it is subtracted: 0 is retrained, below 0 is "
    "overshoot. Where examples cross 0 at different steps, no step suits all. Grey: the oracles of "
    "other seeds."
)
WITHOUT_ORACLE = "There is no oracle to compare them with."
STAGES = (
    "The answers of every stage, by order of the stages. Deep: those of C fall with those of U; "
    "superficial: only those of U fall."
)


@dataclass
class Charts:
    """The charts of a page, numbered as they are placed."""

    every: list[Chart] = field(default_factory=list)

    def grid(self, charts: Sequence[Chart], small: bool) -> Markup:
        """Charts side by side, with the data under them."""
        charts = [chart for chart in charts if chart.has_values]
        shown, differ = share_axes(charts[:MOST_CHARTS])
        first = len(self.every)
        figures = [self._figure(chart) for chart in shown]
        notes = ["Axes differ between charts."] if differ else []
        if len(charts) > len(shown):
            notes.append(f"The first {len(shown)} of {len(charts)} charts; the files hold all.")
        note = element("p", " ".join(notes), class_="note") if notes else None
        data = details(
            "The data as a table",
            element("div", class_="data", data_from=first, data_to=len(self.every)),
        )
        return join(
            filter(
                None,
                [
                    element("div", *figures, class_="panels small" if small else "panels"),
                    note,
                    data,
                ],
            )
        )

    def _figure(self, chart: Chart) -> Markup:
        number = len(self.every)
        self.every.append(chart)
        under = element("span", name(chart.under), class_="soft") if chart.under else None
        return element(
            "figure",
            element("figcaption", element("b", name(chart.title)), " ", under),
            element("div", class_="plot", role="img", aria_label=chart.sentence()),
            element("p", class_="readout"),
            data_chart=number,
        )


@dataclass
class Page:
    """Studies on their way to sections.

    Attributes:
        told: the studies.
        charts: filled while the sections are made.
    """

    told: Sequence[Told]
    charts: Charts = field(default_factory=Charts)

    @cached_property
    def looks(self) -> PathLooks:
        """The looks of the paths of all studies."""
        return PathLooks([place for told in self.told for place in told.paths])

    @cached_property
    def stages(self) -> list[str]:
        """The stages whose answers are compared, of studies of depths."""
        found = [told.measured("answers/") for told in self.told if told.depths]
        return list(dict.fromkeys(stage for stages in found for stage in stages))

    def sections(self) -> list[tuple[str, str, Markup]]:
        """Identity, title and content of those that have something to show."""
        wanted: list[tuple[str, str, str, Callable[[Told], Markup | None]]] = [
            ("scores", "Forget score and utility", "", self._scores),
            (
                "forget",
                "Log-likelihood of the unlearn label by step",
                self._lead(LABEL),
                self._forget,
            ),
            ("utility", "Utility by step", self._lead(UTILITY), self._utility),
            ("depth", "Superficial or deep forgetting", STAGES, self._stages),
            ("trade", "Forget-utility trade-off", TRADE, self._trade),
            ("oracle", "Distance to the oracle (retrained model)", DISTANCE, self._distance),
            ("divergence", "Divergence between paths", APART, self._divergence),
            ("examples", "Per-example curves", "", self._examples),
            ("sweep", "Hyperparameter sweep", "", self._sweep),
            ("models", "KLoM", "", self._models),
            ("tree", "Training tree", "", self._tree),
            ("origin", "Configuration and cost", "", self._origin),
        ]
        found = []
        for identity, title, lead, make in wanted:
            parts = [(told, part) for told in self.told if (part := make(told))]
            if not parts:
                continue
            blocks = [self._block(told, part) for told, part in parts]
            content = element("div", *blocks, class_="studies")
            about = element("p", lead, class_="lead") if lead else None
            found.append((identity, title, join(filter(None, [about, content]))))
        return found

    def _lead(self, text: str) -> str:
        """How to read the curves of a measure; nothing that none of them has."""
        band = any(told.seeds > 1 for told in self.told)
        oracles = any(len(told.study.oracles) for told in self.told)
        return f"{text}{BAND if band else ''}{DASHED if oracles else ''}"

    def verdicts(self) -> Markup:
        """The verdict on every study."""
        blocks = []
        for told in self.told:
            own = verdict_of(told)
            head = element("p", own.headline, class_="headline")
            pairs = [
                join([element("dt", about), element("dd", " ".join(sentences))])
                for about, sentences in own.sentences.items()
            ]
            answers = element("dl", *pairs, class_="answers") if pairs else None
            content = join(filter(None, [head, answers, _missing(told)]))
            blocks.append(self._block(told, content))
        return element("div", *blocks, class_="studies")

    def _block(self, told: Told, content: Markup) -> Markup:
        heading = element("h3", name(told.name)) if len(self.told) > 1 else None
        return element("div", heading, content, class_="study")

    def _scores(self, told: Told) -> Markup | None:
        if told.summary.table is None:
            return None
        said = [line for line in told.summary.findings if line not in told.source.remarks]
        parts = [layout_table("Scores by method and path", told.summary.table), _said(said)]
        for section in told.summary.sections:
            if section.title == "Path dependence" and section.table is not None:
                parts.append(element("h4", "How much of it is the path, how much the seed"))
                parts.append(layout_table(section.title, section.table))
                parts.append(_said(section.findings))
        return join(filter(None, parts))

    def _forget(self, told: Told) -> Markup | None:
        if told.is_empty:
            return None
        measures = [m for m in ("label", "mean") if m in told.measured("forget/")][:1]
        made = [measure_charts(told, f"forget/{m}", self.looks, "label") for m in measures]
        return self._charts([chart for charts in made for chart in charts])

    def _utility(self, told: Told) -> Markup | None:
        if told.is_empty or told.depths:
            return None
        made: dict[str, list[Chart]] = {}
        for stage in told.measured("answers/"):
            if [stage] != told.forget:
                what = f"{stage} answers"
                made[stage] = measure_charts(told, f"answers/{stage}", self.looks, what, stage)
        if all(len(charts) < 2 for charts in made.values()):
            # Of a single method and setting, stages stand side by side.
            titled = [
                replace(chart, title=f"Answers of {stage}")
                for stage, charts in made.items()
                for chart in charts
            ]
            return self._charts(titled)
        parts = []
        for stage, charts in made.items():
            if grid := self._charts(charts):
                parts.append(join([element("h4", "Answers of ", name(stage)), grid]))
        return join(parts) if parts else None

    def _stages(self, told: Told) -> Markup | None:
        if not told.depths:
            return None
        return self._charts(stage_charts(told, self.stages))

    def _trade(self, told: Told) -> Markup | None:
        return None if told.is_empty else self._charts(trade_charts(told, self.looks))

    def _distance(self, told: Told) -> Markup | None:
        if told.is_empty or not told.measured("distance/"):
            return None
        probes = told.measured("distance/")
        first = "forget" if "forget" in probes else probes[0]
        parts = [self._charts(distance_charts(told, first, self.looks))]
        parts += _tabled(told, "Distance to the oracle")
        for probe in probes:
            if probe != first:
                grid = self._charts(distance_charts(told, probe, self.looks))
                more = join(["On the probe ", name(probe)])
                parts.append(details(more, grid) if grid else None)
        known = list(filter(None, parts))
        return join(known) if known else None

    def _divergence(self, told: Told) -> Markup | None:
        if told.is_empty or len(told.paths) < 2:
            return None
        charts, legend = divergence_charts(told)
        grid = self._charts(charts)
        if grid is None:
            return None
        entries = [
            element("li", swatch(color, dash), " ", name(label)) for color, dash, label in legend
        ]
        shown = element("ul", *entries, class_="legend")
        return join([shown, grid, *_tabled(told, "Divergence between paths")])

    def _examples(self, told: Told) -> Markup | None:
        if told.is_empty:
            return None
        charts, said = example_charts(told, self.looks, MOST_CHARTS)
        every = [chart for own in charts.values() for chart in own]
        compared = any(chart.ytitle != LIKELIHOOD for chart in every)
        lead = EXAMPLES + (TO_ORACLE if compared else WITHOUT_ORACLE)
        parts = [element("p", lead, class_="lead")]
        parts += [element("p", line, class_="note") for line in said]
        for title, own in charts.items():
            if grid := self._charts(own, small=True):
                parts += [element("h4", name(title)), grid]
        return join(parts) if charts else None

    def _sweep(self, told: Told) -> Markup | None:
        if told.is_empty or told.depths or not told.study.sweep:
            return None
        kept = [column for column in told.scores if str(column).endswith(" utility")]
        parts = [sweep_table(told, "forget_score", "Forget score, nats per token")]
        parts += [sweep_table(told, str(column), str(column).capitalize()) for column in kept]
        known = list(filter(None, parts))
        return join(known) if known else None

    def _models(self, told: Told) -> Markup | None:
        parts = _tabled(told, "Distribution over models")
        return join(parts) if parts else None

    def _tree(self, told: Told) -> Markup | None:
        return origin.tree(told.source.provenance)

    def _origin(self, told: Told) -> Markup | None:
        own = told.source.provenance
        parts = [origin.facts(own), origin.costs(own), origin.configuration(own)]
        known = list(filter(None, parts))
        return join(known) if known else None

    def _charts(self, charts: Sequence[Chart], small: bool = False) -> Markup | None:
        drawn = any(chart.has_values for chart in charts)
        return self.charts.grid(charts, small) if drawn else None


def _said(sentences: Sequence[str]) -> Markup | None:
    """Findings, to be opened: the verdict has the short of them."""
    if not sentences:
        return None
    count = f"In words ({len(sentences)} sentence{'s' * (len(sentences) > 1)})"
    return details(count, bullets(sentences))


def _tabled(told: Told, title: str) -> list[Markup]:
    """Table and sentences of a part of the summary."""
    parts: list[Markup | None] = []
    for section in told.summary.sections:
        if section.title == title:
            if section.table is not None:
                parts.append(layout_table(title, section.table))
            parts.append(_said(section.findings))
    return list(filter(None, parts))


def _missing(told: Told) -> Markup | None:
    """What is missing, where it cannot be overlooked."""
    lines = list(told.source.remarks)
    lines += [line for line in told.summary.findings if "left out" in line and line not in lines]
    lines = [line for line in lines if ": position" not in line]
    if not lines:
        return None
    return element("div", element("b", "Missing"), bullets(lines), class_="missing", role="note")
