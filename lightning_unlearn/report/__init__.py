"""What the records of a study say: scores, depths, statistics, sentences, tables and figures.

Works on tidy tables alone: neither torch nor lightning is needed, and pandas, rich and matplotlib
are imported only by the functions that use them.
"""

from lightning_unlearn.report.depth import depth
from lightning_unlearn.report.depth_tables import depth_findings
from lightning_unlearn.report.figures import save_figures
from lightning_unlearn.report.recency import recency
from lightning_unlearn.report.scores import scores
from lightning_unlearn.report.sections import Section
from lightning_unlearn.report.summary import Summary, summarize
from lightning_unlearn.report.tables import csv, markdown, render

__all__ = [
    "Section",
    "Summary",
    "csv",
    "depth",
    "depth_findings",
    "markdown",
    "recency",
    "render",
    "save_figures",
    "scores",
    "summarize",
]
