"""The figures and the table of the paper, from a study of one's own."""

from lightning_unlearn.report.paper.figures import Paper, paper_figures, save_paper

__all__ = ["Paper", "paper_figures", "save_paper"]
