"""Writes a report: the page, the tables as CSV and Markdown, and the figures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_unlearn.report.figures.files import save_figures
from lightning_unlearn.report.page.page import build
from lightning_unlearn.report.study_report import Source, StudyReport
from lightning_unlearn.report.summary import Summary
from lightning_unlearn.storage import records

FOLDER = "report"  # below the folder of a study or run
PAGE = "index.html"


@dataclass(frozen=True)
class Written:
    """What a report consists of.

    Attributes:
        folder: where it is.
        files: by name, as they were written.
        page: the page among them; None where there is no plotly to draw its curves.
        summaries: of each source, in order.
    """

    folder: Path
    files: list[str]
    page: Path | None
    summaries: list[Summary]


def write_report(
    sources: Sequence[Source],
    folder: Path,
    page: bool = True,
    formats: Sequence[str] = ("png", "pdf"),
) -> Written:
    """Write the report of a study or run, or of several, compared side by side.

    A table.md, table.csv, table.tex and a CSV per section are written for a single source; several
    have a folder each, named by their place and name.

    Args:
        sources: what it is of.
        folder: where it goes, made where it is missing; files of the same name are replaced.
        page: whether the page is wanted; it needs plotly.
        formats: of the figures, as of `save_figures`; () for no figures.

    Raises:
        InputError: plotly is not installed, or the records are wrong as described for
            `summarize`.
        OSError: the folder can't be written.
    """
    reports = [StudyReport(source) for source in sources]
    files: list[str] = []
    for number, report in enumerate(reports, start=1):
        place = "" if len(reports) == 1 else f"{number}-{_safe(report.name)}/"
        files += [f"{place}{file}" for file in _write_tables(report, folder / place, formats)]
    if page:
        records.write_text(folder / PAGE, build(reports, files))
        files.insert(0, PAGE)
    summaries = [report.summary for report in reports]
    return Written(folder, files, folder / PAGE if page else None, summaries)


def _write_tables(report: StudyReport, folder: Path, formats: Sequence[str]) -> list[str]:
    """Write tables and figures of one source; return the names of the files."""
    summary = report.summary
    texts = {"table.md": summary.page, "table.csv": summary.csv, "table.tex": report.latex}
    texts = {name: text for name, text in {**texts, **summary.files}.items() if text}
    for file, text in texts.items():
        records.write_text(folder / file, text)
    written = list(texts)
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    if formats and has_matplotlib and not report.is_empty:
        source = report.source
        figures = save_figures(source.records, folder, source.examples, formats)
        written += [file.name for file in figures]
    return written


def _safe(name: str) -> str:
    """A name as part of a file name."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)
    return kept.strip("-.")[:60] or "study"
