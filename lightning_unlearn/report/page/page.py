"""The page: one HTML file that needs no network and lets nothing be fetched or sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_unlearn.analysis.scores import score_name
from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.report.figures.curves import answers_figure, forget_figure, utility_figure
from lightning_unlearn.report.figures.divergence import divergence_figure
from lightning_unlearn.report.figures.examples import examples_figure
from lightning_unlearn.report.figures.oracle_distance import oracle_figure
from lightning_unlearn.report.figures.plotly_renderer import chart_data, colors_css, legend_rows
from lightning_unlearn.report.figures.spec import LEVELS, Figure, Panel, y_limits
from lightning_unlearn.report.figures.style import (
    DASHES,
    CurveStyle,
    StyleMap,
    styles_of_paths,
    styles_of_stages,
)
from lightning_unlearn.report.figures.tradeoff import tradeoff_figure
from lightning_unlearn.report.sections.scores import sweep_grid
from lightning_unlearn.report.study_report import StudyReport
from lightning_unlearn.report.verdict import verdict_of
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
    charts, every, differ = chart_data(page.panels, MOST_CHARACTERS)
    template = environment().get_template(TEMPLATE)
    return template.render(
        page=page,
        reports=reports,
        sections=sections,
        verdicts=[(report.name, verdict_of(report), _missing(report)) for report in reports],
        charts=charts,
        every=every,
        differ=differ and len(reports) > 1,
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
        panels: of the whole page, by number; filled while the sections are made.
    """

    def __init__(self, reports: Sequence[StudyReport]) -> None:
        self.reports = reports
        self.panels: list[Panel] = []

    @cached_property
    def styles(self) -> StyleMap:
        """Colors and line styles of the paths of all studies."""
        return styles_of_paths(path for report in self.reports for path in report.paths)

    @cached_property
    def stages(self) -> StyleMap:
        """Colors and line styles of the stages whose answers studies of depths compare."""
        deep = [report for report in self.reports if report.depths]
        stages = dict.fromkeys(stage for own in deep for stage in own.measured("answers/"))
        forget = dict.fromkeys(stage for own in deep for stage in own.forget)
        return styles_of_stages(list(stages), list(forget))

    @property
    def toggles(self) -> list[CurveStyle]:
        """The styles that are shown and hidden; panels of a study of depths have one path each."""
        paths = not all(report.depths for report in self.reports)
        return [*(self.styles.styles.values() if paths else ()), *self.stages.styles.values()]

    def sections(self) -> list[tuple[str, list[tuple[str, list[Block]]]]]:
        """Identity of each section that has something to show, with the blocks of each study."""
        makers: dict[str, Callable[[StudyReport], list[Block]]] = {
            "scores": self._scores,
            "forget": self._forget,
            "utility": self._utility,
            "depth": self._depth,
            "trade": lambda report: self._grid(tradeoff_figure(report.study.finite(), self.styles)),
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

    def _grid(self, figure: Figure | Sequence[Panel] | None, small: bool = False) -> list[Block]:
        """Number panels and place them side by side; none without values."""
        panels = figure.panels if isinstance(figure, Figure) else figure or []
        panels = [panel for panel in panels if panel.steps]
        if not panels:
            return []
        shown = panels[:MOST_CHARTS]
        _, differ = y_limits([[panel] for panel in shown])
        numbered = list(enumerate(shown, start=len(self.panels)))
        self.panels += shown
        # `count`: how many there were to draw; `differ`: axes that should be shared are not.
        grid = {"panels": numbered, "count": len(panels), "differ": differ, "small": small}
        return [Block("charts", grid)]

    def _groups(self, panels: Sequence[Panel], title: str = "", small: bool = False) -> list[Block]:
        """Panels under the heading of their group, which follows `title`."""
        blocks: list[Block] = []
        for group in dict.fromkeys(panel.group for panel in panels):
            own = [panel for panel in panels if panel.group == group]
            blocks += [Block("heading", group, title), *self._grid(own, small)]
        return blocks

    def _scores(self, report: StudyReport) -> list[Block]:
        assert report.summary.table is not None
        shown = [*report.source.remarks, *report.summary.cautions]
        said = [line for line in report.summary.findings if line not in shown]
        blocks = [Block("table", report.summary.table, "Scores by method and path")]
        blocks += _sentences(said)
        if dependence := _section(report, "Path dependence"):
            blocks += [Block("heading", "Path dependence"), *dependence]
        return blocks

    def _forget(self, report: StudyReport) -> list[Block]:
        measured = report.measured("forget/")
        own = "label" if "label" in measured else "mean"
        grid = self._grid(forget_figure(report.study.finite(), self.styles, f"forget/{own}"))
        note = Block("note", f"Log-likelihood of {report.study.label_words}.")
        return [note, *grid] if grid else []

    def _utility(self, report: StudyReport) -> list[Block]:
        figure = utility_figure(report.study.finite(), self.styles)
        if report.depths or figure is None:
            return []
        panels = figure.panels
        if len({panel.group for panel in panels}) == len(panels):
            # Of a single method and setting, stages stand side by side.
            return self._grid([replace(own, title=f"Answers of {own.group}") for own in panels])
        return self._groups(panels, "Answers of ")

    def _depth(self, report: StudyReport) -> list[Block]:
        figure = answers_figure(report.study.finite(), self.stages) if report.depths else None
        return self._groups([replace(p, setting="") for p in figure.panels]) if figure else []

    def _distance(self, report: StudyReport) -> list[Block]:
        groups = report.measured("distance/")
        if not groups:
            return []
        study, examples = report.study.finite(), report.examples
        first = "forget" if "forget" in groups else groups[0]
        blocks = self._grid(oracle_figure(study, self.styles, examples, first))
        blocks += _section(report, "Distance to the oracle")
        for group in groups:
            figure = oracle_figure(study, self.styles, examples, group) if group != first else None
            if grid := self._grid(figure):
                blocks.append(Block("details", grid, f"Distance on {group}"))
        return blocks

    def _divergence(self, report: StudyReport) -> list[Block]:
        if len(report.paths) < 2 or report.examples is None:
            return []
        figure = divergence_figure(report.examples)
        if figure is None or not (grid := self._grid(figure)):
            return []
        legend = Block("legend", legend_rows(figure.legend))
        return [legend, *grid, *_section(report, "Divergence between paths")]

    def _examples(self, report: StudyReport) -> list[Block]:
        study, examples = report.study.finite(), report.examples
        figure = examples_figure(study, self.styles, examples, complete=True)
        if figure is None:
            return []
        panels = figure.panels
        shown = panels[:MOST_CHARTS]
        compared = any(mark.role in LEVELS for panel in shown for mark in panel.marks)
        notes = [" · ".join(figure.notes)]
        if len(panels) > len(shown):
            notes.append(f"The first {len(shown)} of {len(panels)} pairs of trial and path.")
        blocks = [Block("examples", compared), *(Block("note", note) for note in notes)]
        return [*blocks, *self._groups(shown, small=True)]

    def _sweep(self, report: StudyReport) -> list[Block]:
        if report.depths or not report.study.sweep:
            return []
        name = score_name(report.scores)
        titles = {"forget_score": f"{name.capitalize()}, nats per token"}
        kept = [str(column) for column in report.scores if str(column).endswith(" utility")]
        titles |= {column: column.capitalize() for column in kept}
        blocks = []
        for column, title in titles.items():
            if table := sweep_grid(report.scores, column):
                blocks += [Block("heading", title), Block("grid", table, title)]
        return blocks


def _section(report: StudyReport, title: str) -> list[Block]:
    """Table and sentences of a section of the summary."""
    blocks = []
    for section in report.summary.sections:
        if section.title == title:
            if section.table is not None:
                blocks.append(Block("table", section.table, title))
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
