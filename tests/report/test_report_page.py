"""The page of a report: what it says, that it is safe, and that a browser shows it."""

import base64
import hashlib
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Tab, browser
from jinja2 import UndefinedError
from study_folders import ORDERS, Synthetic

from lightning_unlearn.analysis.curves import Band, spread_over_seeds
from lightning_unlearn.report.figures.plotly_renderer import chart_data
from lightning_unlearn.report.figures.spec import Mark, Panel, thick_line
from lightning_unlearn.report.figures.style import DARK_PALETTE, styles_of_paths, styles_of_stages
from lightning_unlearn.report.page.page import build, environment
from lightning_unlearn.report.study_report import Source, StudyReport
from lightning_unlearn.report.verdict import verdict_of
from lightning_unlearn.report.write import write_report
from lightning_unlearn.study.report_source import source_of

pytest.importorskip("plotly")
MOST = 6_000_000
DEPTH = Synthetic("deep", ["".join(f"{s}-" for s in o)[:-1] for o in itertools.permutations("RCU")],
                  ["GA"], (0, 1), oracle=False, label=False)  # fmt: skip
ORDER = ["inst-safety-math"]
HOSTILE = "</script><script>hacked=1</script>\"'><img src=x onerror=hacked=1>\u202egnp"


class Reader(HTMLParser):
    """What a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def sections(self) -> list[str | None]:
        """Their identities."""
        return [attributes.get("id") for tag, attributes in self.tags if tag == "section"]

    @property
    def charts(self) -> list[dict[str, Any]]:
        """What the script is given."""
        found: list[dict[str, Any]] = json.loads(self.scripts[0])
        return found


def page_of(*studies: Synthetic) -> Reader:
    return Reader(build([report_of(study) for study in studies], ["table.csv"]))


def report_of(study: Synthetic) -> StudyReport:
    return StudyReport(Source(study.name, *study.tables()))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study that has everything but sweeps."""
    folder = Synthetic().write(tmp_path_factory.mktemp("full") / "study")
    return write_report([source_of(folder)], folder / "report", formats=("png",)).folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def test_a_study_with_everything_has_every_section_in_the_order_of_questions(full: Path) -> None:
    page = Reader((full / "index.html").read_text())
    assert page.sections == [
        *("verdict", "scores", "forget", "utility", "trade", "oracle", "divergence"),
        *("examples", "models", "tree", "origin", "files"),
    ]
    assert "The outcome depends on the path, beyond seeds, under GA and NPO." in page.text
    assert "Peak memory is not recorded." in page.text
    assert "python 3.11.7, lightning-unlearn 0.1.0" in page.text
    assert "Some CPU, 2 threads" in page.text
    assert "shared by 2 paths" in page.text and "b" * 64 in page.text
    assert (full / "index.html").stat().st_size < MOST
    links = [a["href"] for tag, a in page.tags if tag == "a" and a["href"]]
    assert {"table.md", "table.csv", "table.tex", "seeds.csv"} <= set(links)
    assert all((full / link).is_file() for link in links if not link.startswith("#"))


def test_the_verdict_repeats_the_numbers_of_the_tables() -> None:
    report = report_of(Synthetic())
    verdict = verdict_of(report)
    text = " ".join(itertools.chain(*verdict.sentences.values()))
    findings = "\n".join(
        itertools.chain(*(section.findings for section in report.summary.sections))
    )
    for method in ("GA", "NPO"):
        found = re.search(rf"{method}: share of the variance.*?: (\d.\d\d) for", findings)
        assert found and f"{100 * float(found[1]):.0f} % under {method}" in text
    means = report.scores.groupby(["method", "path"])["forget_score"].mean()["GA"]
    assert f"{means.min():.3g} to {means.max():.3g} under GA" in text
    assert (
        "two oracles are to each other" in text
        and "best steps of paths differ under GA: they range from" in text
    )


def test_what_cannot_be_told_is_said() -> None:
    one_seed = verdict_of(report_of(Synthetic(seeds=(0,))))
    assert "cannot be determined" in one_seed.headline
    one_path = page_of(Synthetic(paths=ORDER))
    assert "There is one path: nothing can be said about paths." in one_path.text
    assert "neither a difference nor a divergence between paths can be shown" in one_path.text
    assert "divergence" not in one_path.sections
    without = page_of(Synthetic(oracle=False))
    assert (
        "oracle" not in without.sections
        and "oracle: true in the study with its oracles" in without.text
    )


def test_a_study_of_depths_has_panels_of_stages() -> None:
    page = page_of(DEPTH)
    assert "depth" in page.sections and "forget" not in page.sections
    first = next(chart for chart in page.charts if len(chart["series"]) == 3)
    assert [series["short"] for series in first["series"]] == ["R", "C", "U"]
    assert sum(tag == "button" and "toggle" in (a.get("class") or "") for tag, a in page.tags) == 3


def test_a_sweep_has_grids() -> None:
    page = page_of(Synthetic(sweep={"data.unlearn.lr": [1e-4, 1e-3]}, seeds=(0,)))
    assert "sweep" in page.sections
    assert "lr = 0.0001" in page.text and "Darker: higher." in page.text


def test_studies_are_side_by_side_on_the_same_axes() -> None:
    longer = Synthetic("longer", paths=[*ORDERS, "math-inst-safety"])
    page = page_of(Synthetic(), longer)
    assert "2 studies compared" in page.text
    headings = [a for tag, a in page.tags if a.get("class") == "study"]
    assert len(headings) >= 2 * 5
    ranges = {tuple(chart["range"]) for chart in page.charts
              if chart["ytitle"].startswith("label") and "GA" in chart["title"]}  # fmt: skip
    assert len(ranges) == 1


def test_more_than_seven_paths_are_drawn_by_position() -> None:
    names = ["a", "b", "safety", "c"]
    many = Synthetic(paths=["-".join(order) for order in itertools.permutations(names)][:12])
    page = page_of(many)
    assert "p = 2 (" in page.text
    roles = [series["role"] for series in page.charts[0]["series"]]
    assert roles.count("thin") >= 8 and 1 <= roles.count("line") <= 4
    pairs = [c for c in page.charts if any("pairs of paths" in s["name"] for s in c["series"])]
    assert len(pairs) == 2


@pytest.mark.parametrize("field", ["name", "method", "stage", "sweep", "config", "remark"])
def test_text_from_outside_is_text(field: str, tmp_path: Path) -> None:
    plain = HOSTILE.replace("-", "")
    study = Synthetic(
        name=HOSTILE if field == "name" else "small",
        methods=[HOSTILE] if field == "method" else ["GA"],
        paths=[f"{plain}-safety", f"safety-{plain}"] if field == "stage" else ORDER,
        sweep={"model.base": [HOSTILE, "other"]} if field == "sweep" else {},
        seeds=(0,),
    )
    folder = study.write(tmp_path / "study")
    if field == "config":
        config = next(folder.rglob("config.yaml"))
        config.write_text(f"# {HOSTILE}\n{HOSTILE}\n")
    source = source_of(folder, [HOSTILE] if field == "remark" else [])
    page = build([StudyReport(source)], [HOSTILE])
    clean = Reader(build([report_of(Synthetic(methods=["GA"], paths=ORDER, seeds=(0,)))], []))
    read = Reader(page)
    assert len(read.scripts) == len(clean.scripts) == 3 and read.scripts[1:] == clean.scripts[1:]
    assert "hacked=1" in read.text and "\\u202e" in page
    # Plotly's own script has such characters; the page around it must not.
    assert "\u202e" not in page.replace(read.scripts[1], "")
    assert not any(tag == "img" for tag, _ in read.tags)
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert read.charts


@pytest.mark.slow
def test_hostile_names_do_nothing_in_a_browser(tab: Tab, tmp_path: Path) -> None:
    study = Synthetic(name=HOSTILE, methods=[HOSTILE, "%{x}<b>GA</b>"], seeds=(0, 1))
    folder = study.write(tmp_path / "study")
    page = write_report([source_of(folder)], tmp_path / "out", formats=()).page
    assert page is not None
    tab.mistakes.clear()
    tab.open(page, 1400, 6000)
    tab.wait("document.querySelectorAll('.main-svg').length > 3")
    assert tab.run("typeof hacked") == "undefined"
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.mistakes == [] and tab.requests == []


def test_the_policy_names_the_scripts_and_forbids_the_rest(full: Path) -> None:
    page = Reader((full / "index.html").read_text())
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy is not None and "default-src 'none'" in policy and "connect-src 'none'" in policy
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in page.scripts[1:]
    ]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    sources = [a[name] for _, a in page.tags for name in ("src", "href") if a.get(name)]
    assert all(not re.match(r"(https?:)?//", str(source)) for source in sources)


@pytest.mark.slow
def test_a_script_that_got_into_the_page_would_not_run(
    full: Path, tab: Tab, tmp_path: Path
) -> None:
    page = tmp_path / "changed.html"
    foreign = "<script>hacked = 1</script><img src='http://127.0.0.1:9/x.png'></body>"
    page.write_text((full / "index.html").read_text().replace("</body>", foreign))
    tab.open(page)
    assert tab.run("typeof hacked") == "undefined"
    assert any("Content Security Policy" in text for text in tab.mistakes)
    tab.mistakes.clear()
    tab.requests.clear()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 390])
def test_a_browser_draws_the_curves(full: Path, tab: Tab, width: int, dark: bool) -> None:
    tab.mistakes.clear()
    tab.open(full / "index.html", width, 1000, dark)
    tab.size(width, 12000)
    tab.wait(
        "[...document.querySelectorAll('figure')].every((f) => !f.checkVisibility() ||"
        " f.querySelector('.main-svg'))"
    )
    figures = tab.run("document.querySelectorAll('figure').length")
    paths = tab.run("document.querySelectorAll('.plot path.js-line').length")
    assert figures >= 15 and paths >= 3 * figures
    assert tab.run("document.documentElement.scrollWidth") <= width
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    unnamed = "[...document.querySelectorAll('.plot')].filter((p) => !p.ariaLabel).length"
    assert tab.run(unnamed) == 0
    assert tab.mistakes == [] and tab.requests == []


@pytest.mark.slow
def test_toggles_slider_theme_and_tables_act(full: Path, tab: Tab) -> None:
    tab.mistakes.clear()
    tab.open(full / "index.html", 1400, 12000)
    tab.wait("document.querySelectorAll('#forget path.js-line').length > 0")
    lines = "document.querySelector('#forget figure').querySelectorAll('path.js-line').length"
    before = tab.run(lines)
    # By keyboard, as those do who have no mouse.
    tab.run("document.querySelector('.toggle').focus()")
    tab.press("Enter", 13, "\r")
    assert tab.run("document.querySelector('.toggle').ariaPressed") == "false"
    tab.wait(f"{lines} < {before}")
    tab.run("document.getElementById('all').click()")
    tab.wait(f"{lines} === {before}")

    readout = "document.querySelector('#forget .readout').textContent"
    assert tab.run(readout).startswith("step 10")
    tab.run("document.getElementById('step').focus()")
    tab.press("ArrowLeft", 37)
    tab.wait(f"{readout}.startsWith('step 5')")
    assert tab.run("document.getElementById('now').textContent") == "5"
    assert "p = 1" in tab.run(readout)

    tab.run("document.querySelector('#forget details').open = true")
    tab.wait("document.querySelector('#forget .data table') !== null")
    cells = tab.run("document.querySelector('#forget .data tbody tr').textContent")
    assert "safety-inst-math" in cells and " to " in cells

    tab.run("document.getElementById('theme').click()")
    assert tab.run("document.documentElement.dataset.theme") == "dark"
    assert tab.mistakes == [] and tab.requests == []


def test_values_that_are_not_numbers_are_gaps_and_are_counted() -> None:
    steps, examples = Synthetic().tables()
    lost = (steps["metric"] == "forget/label") & (steps["step"] == 5) & (steps["seed"] < 9)
    lost &= (steps["method"] == "GA") & (steps["path"] == ORDER[0])
    steps.loc[lost, "value"] = [math.nan, math.inf, math.nan]
    page = Reader(build([StudyReport(Source("small", steps, examples))], []))
    assert "3 of " in page.text and "are not finite numbers" in page.text
    series = page.charts[0]["series"][1]
    assert series["name"] == "p = 2: inst-safety-math" and series["y"][1] is None


@pytest.mark.slow
def test_many_examples_and_steps_leave_the_page_small() -> None:
    many = Synthetic(methods=["GA"], seeds=(0,), examples=1500, steps=range(0, 300, 3))
    text = build([report_of(many)], [])
    page = Reader(text)
    assert "(60 of 1500 drawn)" in page.text
    assert len(text.encode()) < MOST


def test_charts_are_thinned_until_they_fit() -> None:
    style = styles_of_stages(["a"], []).styles["a"]
    x, nothing = np.arange(1000.0), np.full(1000, np.nan)
    curve = thick_line(Band(x, x / 999, nothing, nothing, 1), style, "a")
    best = Mark(x[501:502], x[501:502] / 999, "best", "best step", style)
    panel = Panel([curve, best], "t", "", "y", readout={step: str(step) for step in range(1000)})
    (chart,), every, _ = chart_data([panel], 5000)
    assert every > 1 and len(json.dumps(chart)) < 7000
    assert chart["steps"][0] == 0 and chart["steps"][-1] == 999
    assert chart["steps"][1] == every and chart["readout"] == list(map(str, chart["steps"]))
    assert chart["series"][0]["y"] == pytest.approx(np.array(chart["steps"]) / 999, abs=1e-5)
    # The best step stays where it is.
    assert chart["points"][0]["x"] == [501]
    assert chart_data([panel], 10**6)[1] == 1


def test_bands_are_those_of_a_naive_computation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 5))
    values[0, 1, 2] = np.nan
    means, half = spread_over_seeds(values)
    for path, step in itertools.product(range(3), range(5)):
        known = [v for v in values[path, :, step].tolist() if math.isfinite(v)]
        assert means[path, step] == pytest.approx(statistics.fmean(known))
        quantile = {4: 3.182446, 3: 4.302653}[len(known)]
        width = quantile * statistics.stdev(known) / math.sqrt(len(known))
        assert half[path, step] == pytest.approx(width, rel=1e-6)


def test_dark_colors_stand_out_and_styles_are_distinct() -> None:
    def luminance(color: str) -> float:
        parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        lit = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lit[0] + 0.7152 * lit[1] + 0.0722 * lit[2]

    ground = luminance("#14171b") + 0.05
    assert all((luminance(color) + 0.05) / ground >= 4.5 for color in DARK_PALETTE)
    few = styles_of_paths((f"a-{n}", 1) for n in range(7)).styles.values()
    assert len({(style.tone, style.dash) for style in few}) == 7
    many = styles_of_paths(("-".join("x" * 12), position) for position in range(1, 13))
    assert len({(style.tone, style.dash) for style in many.styles.values()}) == 12


def test_the_template_writes_every_text_as_text() -> None:
    def written(template: str, **values: Any) -> str:
        return environment().from_string(template).render(**values)

    text = "a\u200fb\x00\u2028\n<\"'"
    shown = "a\\u200fb\\x00\\u2028\n&lt;&#34;&#39;"
    assert written("{{ text }}", text=text) == shown
    assert written('{{ [text, text] | join("-") }}', text=text) == f"{shown}-{shown}"
    macro = "{% macro name(text) %}<bdi>{{ text }}</bdi>{% endmacro %}"
    inside = '<p title="{{ text }}">{% call(own) each(text) %}{{ name(own) }}{% endcall %}</p>'
    each = "{% macro each(text) %}{{ caller(text) }}{% endmacro %}"
    found = written(macro + each + inside, text=text)
    assert found == f'<p title="{shown}"><bdi>{shown}</bdi></p>'
    with pytest.raises(UndefinedError, match="missing"):
        written("{{ missing }}")
    values = ["</script><!--", "é\u2028"]
    block = written('<script type="application/json">{{ own | tojson }}</script>', own=values)
    assert "</script><" not in block.removesuffix("</script>") and "<!--" not in block
    assert block.isascii() and json.loads(Reader(block).scripts[0]) == values


def test_a_source_without_runs_has_a_page() -> None:
    steps, examples = Synthetic().tables()
    page = Reader(
        build([StudyReport(Source("s", steps[steps["stage"] == "oracle"], examples))], [])
    )
    assert "There is nothing to judge yet." in page.text
    assert "Only oracles were measured" in page.text
