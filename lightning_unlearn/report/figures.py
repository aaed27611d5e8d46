"""The figures of a study as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.report.looks import drawing_style
from lightning_unlearn.report.reading import read_records
from lightning_unlearn.report.saving import (
    check_formats,
    make_folder,
    need_matplotlib,
    write_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def save_figures(
    records: pd.DataFrame,
    folder: str | Path,
    examples: pd.DataFrame | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw the figures of a study into `folder`, made where it is missing.

    Each has a panel per method and setting, or a row of them, and is written where what it shows
    was measured:

    - `forget`: the log-likelihood of the unlearn label ("forget/label") against the step, in nats
      per token like all that follow.
    - `utility`: that of the other stages' answers ("answers/<stage>"): a row per stage and a
      column per method; where there are settings, a row per setting and columns for every stage. A
      run is left out of the panels of its own forget stage.
    - `answers`, where answers of the forget stage were measured but not its label: the answers
      of all stages together, a panel per path, with a row per method and setting.
    - `oracle`: the RE distance to the oracle on the forget set ("distance/forget"), each path's
      best step ringed, and how far oracles of different seeds are from each other (needs examples).
    - `divergence`: RE distances between paths, the mean exponential fit and the range it holds
      over (needs examples of "log_likelihood/forget", or of the forget stage's answers).
    - `trajectories`: the log-likelihood of each forget example less that of its oracle: different
      examples cross their targets at different steps, and overshoot (needs the same examples, of
      the oracles too).
    - `tradeoff`: utility against forget score, a curve over the steps for each path.

    How they are drawn:

    - Up to seven paths: one color and marker per path; several seeds are drawn as their mean
      with Student's 95 % band. More paths: one color per position, a thin line for each path's
      mean over seeds and a thick one for the mean over the position's paths.
    - Oracles are dashed: one grey line where all paths have the same value, else one in the color
      of the path or position, at the mean over seeds.
    - Panels that show the same measure share the y axis unless the values of one panel span less
      than a fifth of those of another. Then those of a row share it, if they can by the same rule,
      or each has its own, at least 0.05 nats high so that noise is not blown up; and the figure
      says so.

    The same records give the same bytes with the same version of matplotlib.

    Args:
        records: as for `scores`; a table without rows needs no columns.
        folder: where the figures go; files of the same name are replaced.
        examples: the values per example, with the columns of the records and `example`.
        formats: "png", "pdf" (vectors) or both.

    Returns:
        The files written. A figure without a finite value to show is not written.

    Raises:
        InputError: matplotlib is not installed, the folder cannot be made, a format is unknown, or
            the records are wrong as described for `scores`.
    """
    need_matplotlib()
    check_formats(tuple(formats))
    if not len(records):
        return []
    made = figure_makers(records, examples)
    folder = make_folder(folder)
    written = []
    with drawing_style():
        for name, make in made.items():
            figure = make()
            if figure is not None:
                written += write_figure(figure, folder, name, tuple(formats))
    return written


def figure_makers(
    records: pd.DataFrame, examples: pd.DataFrame | None = None
) -> dict[str, Callable[[], Figure | None]]:
    """Functions that draw the figures of `save_figures`, by name.

    Call them within `lightning_unlearn.report.looks.drawing_style()`. What was not measured is
    None.

    Raises:
        InputError: as for `save_figures`.
    """
    # scipy comes with it.
    from lightning_unlearn.report.makers import FIGURES, finite, read_examples

    study = finite(read_records(records))
    read = read_examples(study, examples)
    return {name: partial(make, study, read) for name, make in FIGURES.items()}
