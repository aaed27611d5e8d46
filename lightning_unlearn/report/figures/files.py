"""Figures as files: equal figures give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage import records as storage

if TYPE_CHECKING:
    import pandas as pd

    from lightning_unlearn.report.figures.spec import Figure

FORMATS = ("png", "pdf")


def save_figures(
    records: pd.DataFrame,
    folder: str | Path,
    examples: pd.DataFrame | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw the figures of a study into `folder`, made where it is missing.

    Each has a panel per method and setting, or a row of them, and is written where what it shows
    was measured; values are nats per token:

    - `forget`: the log-likelihood of the forget label ("forget/label", "forget/own_label") by step.
    - `utility`: that of the other stages' answers ("answers/<stage>").
    - `answers`: those of all stages together, a panel per path, where answers of the forget stage
      were measured but not its label.
    - `oracle`: the RE distance to the oracle on the forget set ("distance/forget").
    - `divergence`: RE distances between paths (needs examples of "log_likelihood/forget", or of
      the forget stage's answers), and their exponential growth.
    - `trajectories`: each forget example less its oracle (needs the same examples, of the oracles
      too): examples cross their targets at different steps, and overshoot.
    - `tradeoff`: utility against forget score, a curve over the steps for each path.

    How they are drawn:

    - Up to seven paths: one color and marker per path; several seeds are drawn as their mean
      with Student's 95 % band. More paths: one color per position, a thin line for each path's
      mean over seeds and a thick one for the mean over the position's paths.
    - Oracles are dashed: one grey line where all paths have the same value, else one in the color
      of the path or position, at the mean over seeds.
    - Panels that show the same metric share the y axis unless the values of one panel span less
      than a fifth of those of another. Then those of a row share it, if they can by the same rule,
      or each has its own, at least 0.05 nats high so that noise is not blown up; and the figure
      says so.

    The same records give the same bytes with the same version of matplotlib.

    Args:
        records: as for `lightning_unlearn.analysis.scores`; a table without rows needs no columns.
        folder: where the figures go; files of the same name are replaced.
        examples: the values per example, with the columns of the records and `example`.
        formats: "png", "pdf" (vectors) or both.

    Returns:
        The files written. A figure without a finite value to show is not written.

    Raises:
        InputError: matplotlib is not installed, the folder cannot be made, a format is unknown, or
            the records are wrong as described for `lightning_unlearn.analysis.scores`.
    """
    check_formats(formats)
    if not len(records):
        return []
    # scipy comes with it.
    from lightning_unlearn.report.figures.catalogue import build_figures

    return write_figures(build_figures(records, examples), folder, formats)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that cannot be written.

    Raises:
        InputError: an unknown format, or none; or matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "figures: found no matplotlib, expected it for drawing; install it with "
            'pip install "lightning-unlearn[figures]"'
        ) from error
    wrong = [name for name in formats if name not in FORMATS]
    if wrong or not formats:
        raise InputError(
            f"formats: found {', '.join(map(str, wrong)) or 'none'}, expected one or more of "
            f"{', '.join(FORMATS)}"
        )


def write_figures(
    figures: Mapping[str, Figure], folder: str | Path, formats: Sequence[str]
) -> list[Path]:
    """Write figures as <name>.<format>, each whole or not at all.

    Files hold neither a date nor the version of matplotlib. `matplotlib.figure.Figure.savefig`
    would draw every figure once more to find out how large it is.

    Args:
        figures: by name.
        folder: made where it is missing.
        formats: "png", "pdf" or both.

    Raises:
        InputError: the folder cannot be made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    from lightning_unlearn.report.figures.matplotlib_renderer import draw, drawing_style

    folder, written = Path(folder), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"figures: found {folder} not usable as a folder ({error.strerror}), expected a folder "
            f"that can be written to; choose another one"
        ) from error
    for name, figure in figures.items():
        with drawing_style():
            drawn = draw(figure)
            dpi = drawn.dpi

            def png(draft: Path, drawn: Any = drawn) -> None:
                # Level 6 takes three times as long for a tenth less.
                quick = {"compress_level": 3}
                canvas: Any = FigureCanvasAgg(drawn)
                canvas.print_png(draft, metadata={"Software": None}, pil_kwargs=quick)

            def pdf(draft: Path, drawn: Any = drawn) -> None:
                canvas: Any = FigureCanvasPdf(drawn)
                nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
                canvas.print_pdf(draft, metadata=nothing)

            for suffix in formats:
                file = folder / f"{name}.{suffix}"
                storage.replace(file, png if suffix == "png" else pdf)
                # print_pdf changes it.
                drawn.dpi = dpi
                written.append(file)
    return written
