"""The scores of a study as Markdown, as CSV and as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_unlearn.report.formatting import DECIMALS
from lightning_unlearn.report.layout import Layout, names_of_values, rows_of, spread
from lightning_unlearn.report.reading import sweep_keys

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def markdown(scores: pd.DataFrame) -> str:
    """The scores as a GitHub table: rows are paths by position, grouped by method and setting.

    Several seeds are drawn together as mean (lowest to highest). Within a method and setting with
    several paths the lowest forget score is bold. Names are escaped.

    Args:
        scores: what `lightning_unlearn.report.scores` returns.

    Returns:
        The table and a line on how to read it, ending in a newline.
    """
    return scores_layout(scores).markdown()


def csv(table: pd.DataFrame) -> str:
    """Scores, or depths, as CSV.

    Args:
        table: what `lightning_unlearn.report.scores` or `lightning_unlearn.report.depth` returns.

    Returns:
        One row per run at full precision; a missing value is an empty field.
    """
    return str(table.to_csv(index=False, lineterminator="\n"))


def render(scores: pd.DataFrame) -> Table:
    """The table of `markdown` for the terminal; print it with `rich.console.Console().print`."""
    return scores_layout(scores).render()


def scores_layout(scores: pd.DataFrame) -> Layout:
    """The table of what `lightning_unlearn.report.scores` returns."""
    sweep = sweep_keys(scores, "forget_score")
    names = names_of_values(scores, sweep)

    def cells(runs: pd.DataFrame) -> list[str]:
        return [spread(runs[name], name.endswith((" accuracy change", "_gap"))) for name in names]

    rows = rows_of(scores, sweep, cells, _slowest)
    notes = []
    if any(row.bold is not None for row in rows):
        whose = "method and setting" if sweep else "method"
        notes.append(f"Bold: the lowest forget score of a {whose}, where forgetting was slowest.")
    if "oracle_gap" in names:
        notes.append(
            "Oracle gap: mean log-likelihood of label and paraphrases after unlearning, less that "
            "of the model retrained without the forget stage."
        )
    return Layout(bool(sweep), [*map(_heading, names)], rows, notes)


def _slowest(paths: list[pd.DataFrame]) -> list[int | None]:
    """The forget score, which is the first cell, of the paths where it is lowest."""
    means = [round(runs["forget_score"].mean(), DECIMALS) for runs in paths]
    lowest = min((mean for mean in means if mean == mean), default=None)
    return [0 if len(paths) > 1 and mean == lowest else None for mean in means]


def _heading(name: str) -> str:
    return {"forget_score": "forget score", "oracle_gap": "oracle gap"}.get(name, name)
