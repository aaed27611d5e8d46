"""The page: one file that needs no network, and lets nothing be fetched or sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from lightning_unlearn.errors import InputError
from lightning_unlearn.report.page.chart import chart_data, share_axes
from lightning_unlearn.report.page.looks import Look, colors_css, toggle
from lightning_unlearn.report.page.markup import Markup, data_block, element, name
from lightning_unlearn.report.page.sections import Page
from lightning_unlearn.report.page.source import Told
from lightning_unlearn.version import __version__

# Characters of JSON that all charts together may take.
ROOM = 800_000
INSTALL = 'pip install "lightning-unlearn[figures]"'


def build(sources: Sequence[Told], files: Sequence[str]) -> str:
    """The page of one study or run, or of several, side by side.

    Args:
        sources: the studies.
        files: what lies beside the page, by name.

    Raises:
        InputError: plotly, which draws the curves, is not installed.
    """
    plotly = plotly_script()
    page = Page(sources)
    verdicts = page.verdicts()
    sections = page.sections()
    shown, differ = page.charts.every, False
    if len(sources) > 1:
        # Charts of different studies are to be compared as well.
        shown, differ = share_axes(shown)
    charts, every = chart_data(shown, ROOM)
    notes = []
    if every > 1:
        notes.append(f"Each {every}. step is drawn, to keep the page small; the files hold all.")
    if differ:
        notes.append("Some axes of the same measure differ, where curves would be flat otherwise.")
    scripts = [plotly, resource("page.js")]
    links = [element("a", title, href=f"#{identity}") for identity, title, _ in sections]
    body = [
        element("a", "To the content", href="#verdict", class_="skip"),
        _header(sources),
        _controls(page) if charts else None,
        element(
            "main",
            element("section", element("h2", "The verdict"), verdicts, id="verdict"),
            element("nav", *links, aria_label="Sections") if links else None,
            element("p", " ".join(notes), class_="note") if notes else None,
            *(
                element("section", element("h2", title), content, id=identity)
                for identity, title, content in sections
            ),
            _files(files),
        ),
        element(
            "noscript",
            element("p", "The curves need JavaScript; the tables and files do not."),
        ),
        element("footer", f"Made by lightning-unlearn {__version__}."),
        data_block("charts", charts),
        *(Markup(f"<script>{script}</script>") for script in scripts),
    ]
    title = " · ".join(told.name for told in sources)
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("meta", name_="referrer", content="no-referrer"),
        element("title", f"{title}: unlearning report"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(colors_css() + resource("page.css"))),
    ]
    # Elements without content have no end tag.
    top = "".join(head).replace("</meta>", "").replace("</link>", "")
    html = element("html", element("head", Markup(top)), element("body", *body), lang="en")
    return f"<!doctype html>\n{html}\n"


def plotly_script() -> str:
    """The script of the plotly that is installed.

    Raises:
        InputError: it is not.
    """
    try:
        script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise InputError(
            f"report: found no plotly, expected it for the page's curves; install it with {INSTALL}"
        ) from error
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def resource(file: str) -> str:
    """A file that lies beside this one."""
    return (resources.files(__package__) / file).read_text("utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched or sent, and no other script runs, were it to get into the page."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _header(sources: Sequence[Told]) -> Markup:
    said = []
    for told in sources:
        runs = told.study.runs
        counts = [
            (int(runs["run"].nunique()), "run"),
            (int(runs["method"].nunique()), "method"),
            (len(told.paths), "path"),
            (int(runs["seed"].nunique()), "seed"),
            (len(told.study.settings) if told.study.sweep else 0, "setting"),
        ]
        words = [f"{count} {noun}{'s' * (count > 1)}" for count, noun in counts if count]
        if told.forget:
            words.append(f"forgets {', '.join(told.forget)}")
        line = [element("strong", name(told.name)), ": "] if len(sources) > 1 else []
        said.append(element("p", *line, " · ".join(words) or "no finished run"))
    title = name(sources[0].name) if len(sources) == 1 else f"{len(sources)} studies compared"
    theme = element("button", "Light or dark", type="button", id="theme")
    head = element("div", element("h1", title), *said)
    return element("header", head, theme)


def _controls(page: Page) -> Markup:
    """What all charts obey: which curves are shown, and the step."""
    toggles = [toggle(look) for look in page.looks.every]
    for place, stage in enumerate(page.stages):
        toggles.append(toggle(Look(f"stage:{stage}", stage, stage, place, name(stage))))
    if page.stages and all(told.depths for told in page.told):
        # Each chart is of one path there.
        toggles = toggles[len(page.looks.every) :]
    every = element("button", "Show all", type="button", id="all")
    slider = element(
        "label",
        element("span", "Step ", element("output", id="now")),
        Markup('<input type="range" id="step" min="0" max="0" step="1" value="0">'),
        class_="slider",
    )
    group = element(
        "div", *toggles, every, class_="toggles", role="group", aria_label="Curves that are shown"
    )
    return element("div", group, slider, class_="controls")


def _files(files: Sequence[str]) -> Markup | None:
    if not files:
        return None
    items = [element("li", element("a", name(file), href=file)) for file in files]
    return element(
        "section",
        element("h2", "Files beside this page"),
        element("ul", *items, class_="files"),
        id="files",
    )
