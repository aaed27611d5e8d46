"""What the records of a study say: scores, sentences, tables and figures.

Works on a tidy table of records alone: neither torch nor lightning is needed, and pandas, rich
and matplotlib are imported only by the functions that use them.
"""

from lightning_unlearn.report.figures import save_figures
from lightning_unlearn.report.scores import recency, scores
from lightning_unlearn.report.tables import csv, markdown, render

__all__ = ["csv", "markdown", "recency", "render", "save_figures", "scores"]
