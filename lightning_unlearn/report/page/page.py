"""The page: one HTML file that needs no network and lets nothing be fetched or sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.report.page.chart import Chart, chart_data, share_axes
from lightning_unlearn.report.page.further import divergence_charts, example_charts, trade_charts
from lightning_unlearn.report.page.lines import (
    LIKELIHOOD,
    distance_charts,
    measure_charts,
    stage_charts,
)
from lightning_unlearn.report.page.looks import DASHES, PathLooks, colors_css
from lightning_unlearn.report.page.tables import layout_table, sweep_grid
from lightning_unlearn.report.page.verdict import verdict_of
from lightning_unlearn.report.study_report import StudyReport
from lightning_unlearn.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "page.html.j2"
# Characters of JSON that all charts together may take.
MOST_CHARACTERS = 800_000
# A section shows at most so many charts of a study; the files hold the values of all.
MOST_CHARTS = 48
INSTALL = 'pip install "lightning-unlearn[figures]"'


class Block(NamedTuple):
    """A part of a section.

    Attributes:
        kind: the macro of the template that writes it.
        content: what the macro is given.
        title: over it, if the macro writes one.
    """

    kind: str
    content: Any
    title: str = ""


@dataclass(frozen=True)
class ChartGrid:
    """Charts side by side.

    Attributes:
        charts: with their numbers on the page.
        count: how many there were to draw.
        differ: whether axes differ among charts that should share them.
        small: whether they are drawn narrower.
    """

    charts: Sequence[tuple[int, Chart]]
    count: int
    differ: bool
    small: bool


def build(reports: Sequence[StudyReport], files: Sequence[str]) -> str:
    """Return the page of one study or run, or of several, side by side.

    Args:
        reports: the studies.
        files: what lies beside the page, by name.

    Raises:
        InputError: plotly, which draws the curves, is not installed.
    """
    scripts = [plotly_script(), _resource("page.js")]
    page = Page(reports)
    sections = page.sections()
    # Charts of different studies are to be compared as well.
    shown, differ = share_axes(page.charts) if len(reports) > 1 else (page.charts, False)
    charts, every = chart_data(shown, MOST_CHARACTERS)
    template = environment().get_template(TEMPLATE)
    return template.render(
        page=page,
        reports=reports,
        sections=sections,
        verdicts=[(report.name, verdict_of(report), _missing(report)) for report in reports],
        charts=charts,
        every=every,
        differ=differ,
        files=files,
        policy=_policy(scripts),
        css=colors_css() + _resource("page.css"),
        scripts=scripts,
        dashes=DASHES,
        version=__version__,
    )


def plotly_script() -> str:
    """Return the script of the installed plotly.

    Raises:
        InputError: plotly is not installed.
    """
    try:
        script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise InputError(
            f"report: found no plotly, expected it for the page's curves; install it with {INSTALL}"
        ) from error
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _resource(file: str) -> str:
    return (resources.files(__package__) / file).read_text("utf-8")


@cache
def environment() -> Environment:
    """Return the environment of the template, in which every text is escaped and made visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finalize(value: object) -> object:
        """Make every text visible that is not HTML already; autoescape then escapes it."""
        is_text = isinstance(value, str) and not hasattr(value, "__html__")
        return visible(str(value), lines=True) if is_text else value

    environment = Environment(
        loader=PackageLoader(str(__package__), ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["duration"] = duration
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _policy(scripts: Sequence[str]) -> str:
    """Forbid the page to fetch or send anything, and any script but these to run."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def duration(seconds: float) -> str:
    """Write seconds for people: "41 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Page:
    """What the template shows of the studies; titles and explanations are in the template.

    Args:
        reports: the studies.

    Attributes:
        charts: of the whole page, by number; filled while the sections are made.
    """

    def __init__(self, reports: Sequence[StudyReport]) -> None:
        self.reports = reports
        self.charts: list[Chart] = []

    @cached_property
    def looks(self) -> PathLooks:
        """Colors and line styles of the paths of all studies."""
        return PathLooks([place for report in self.reports for place in report.paths])

    @cached_property
    def stages(self) -> list[str]:
        """The stages whose answers are compared, of studies of depths."""
        found = [report.measured("answers/") for report in self.reports if report.depths]
        return list(dict.fromkeys(stage for stages in found for stage in stages))

    def sections(self) -> list[tuple[str, list[tuple[str, list[Block]]]]]:
        """Identity of each section that has something to show, with the blocks of each study."""
        makers: dict[str, Callable[[StudyReport], list[Block]]] = {
            "scores": self._scores,
            "forget": self._forget,
            "utility": self._utility,
            "depth": lambda report: self._grid(
                stage_charts(report, self.stages) if report.depths else []
            ),
            "trade": lambda report: self._grid(trade_charts(report, self.looks)),
            "oracle": self._distance,
            "divergence": self._divergence,
            "examples": self._examples,
            "sweep": self._sweep,
            "models": lambda report: _section(report, "Distribution over models"),
            "tree": lambda report: _recorded(report, "trees"),
            "origin": lambda report: _recorded(report, "facts", "costs", "configuration"),
        }
        found = []
        for identity, make in makers.items():
            recorded = identity in ("tree", "origin")
            own = [
                (report.name, blocks)
                for report in self.reports
                if (recorded or not report.is_empty) and (blocks := make(report))
            ]
            if own:
                found.append((identity, own))
        return found

    def _grid(self, charts: Sequence[Chart], small: bool = False) -> list[Block]:
        """Number charts and place them side by side; none without values."""
        charts = [chart for chart in charts if chart.has_values]
        if not charts:
            return []
        shown, differ = share_axes(charts[:MOST_CHARTS])
        numbered = list(enumerate(shown, start=len(self.charts)))
        self.charts += shown
        return [Block("charts", ChartGrid(numbered, len(charts), differ, small))]

    def _scores(self, report: StudyReport) -> list[Block]:
        assert report.layout is not None
        said = [line for line in report.summary.findings if line not in report.source.remarks]
        blocks = [Block("table", layout_table("Scores by method and path", report.layout))]
        blocks += _sentences(said)
        if dependence := _section(report, "Path dependence"):
            blocks += [Block("heading", "Path dependence"), *dependence]
        return blocks

    def _forget(self, report: StudyReport) -> list[Block]:
        measured = report.measured("forget/")
        own = "label" if "label" in measured else "mean"
        return self._grid(measure_charts(report, f"forget/{own}", self.looks, "label"))

    def _utility(self, report: StudyReport) -> list[Block]:
        stages = [stage for stage in report.measured("answers/") if [stage] != report.forget]
        made = {
            stage: measure_charts(report, f"answers/{stage}", self.looks, f"{stage} answers", stage)
            for stage in stages
            if not report.depths
        }
        if all(len(charts) < 2 for charts in made.values()):
            # Of a single method and setting, stages stand side by side.
            return self._grid(
                [
                    replace(chart, title=f"Answers of {stage}")
                    for stage, charts in made.items()
                    for chart in charts
                ]
            )
        blocks = []
        for stage, charts in made.items():
            if grid := self._grid(charts):
                blocks += [Block("heading", stage, "Answers of "), *grid]
        return blocks

    def _distance(self, report: StudyReport) -> list[Block]:
        groups = report.measured("distance/")
        if not groups:
            return []
        first = "forget" if "forget" in groups else groups[0]
        blocks = self._grid(distance_charts(report, first, self.looks))
        blocks += _section(report, "Distance to the oracle")
        for group in groups:
            if group != first and (grid := self._grid(distance_charts(report, group, self.looks))):
                blocks.append(Block("details", grid, f"Distance on {group}"))
        return blocks

    def _divergence(self, report: StudyReport) -> list[Block]:
        if len(report.paths) < 2:
            return []
        charts, legend = divergence_charts(report)
        if not (grid := self._grid(charts)):
            return []
        return [Block("legend", legend), *grid, *_section(report, "Divergence between paths")]

    def _examples(self, report: StudyReport) -> list[Block]:
        charts, notes = example_charts(report, self.looks, MOST_CHARTS)
        if not charts:
            return []
        compared = any(chart.ytitle != LIKELIHOOD for own in charts.values() for chart in own)
        blocks = [Block("examples", compared), *(Block("note", note) for note in notes)]
        for title, own in charts.items():
            if grid := self._grid(own, small=True):
                blocks += [Block("heading", title), *grid]
        return blocks

    def _sweep(self, report: StudyReport) -> list[Block]:
        if report.depths or not report.study.sweep:
            return []
        titles = {"forget_score": "Forget score, nats per token"}
        kept = [str(column) for column in report.scores if str(column).endswith(" utility")]
        titles |= {column: column.capitalize() for column in kept}
        blocks = []
        for column, title in titles.items():
            if table := sweep_grid(report, column, title):
                blocks += [Block("heading", title), Block("table", table)]
        return blocks


def _section(report: StudyReport, title: str) -> list[Block]:
    """Table and sentences of a section of the summary."""
    blocks = []
    for section in report.summary.sections:
        if section.title == title:
            if section.layout is not None:
                blocks.append(Block("table", layout_table(title, section.layout)))
            blocks += _sentences(section.findings)
    return blocks


def _sentences(sentences: Sequence[str]) -> list[Block]:
    """Sentences that a reader opens; the verdict summarizes them."""
    return [Block("sentences", sentences)] if sentences else []


def _missing(report: StudyReport) -> list[str]:
    """Sentences on what is missing."""
    lines = list(report.source.remarks)
    lines += [line for line in report.summary.findings if "left out" in line and line not in lines]
    return [line for line in lines if ": position" not in line]


def _recorded(report: StudyReport, *kinds: str) -> list[Block]:
    """The kinds of values of the provenance that are recorded."""
    own = report.source.provenance
    return [Block(kind, own) for kind in kinds if getattr(own, kind)]
