"""A report to look at: one HTML file with curves, and the tables beside it."""

from lightning_unlearn.report.page.document import build
from lightning_unlearn.report.page.source import Branch, Cost, Provenance, Source, Told
from lightning_unlearn.report.page.writing import Written, write_report

__all__ = ["Branch", "Cost", "Provenance", "Source", "Told", "Written", "build", "write_report"]
