"""Figures as files: equal figures give equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")


def check_formats(formats: tuple[str, ...]) -> None:
    """Refuse formats that cannot be written.

    Raises:
        InputError: an unknown format, or none.
    """
    wrong = [name for name in formats if name not in FORMATS]
    if wrong or not formats:
        raise InputError(
            f"formats: found {', '.join(map(str, wrong)) or 'none'}, expected one or more of "
            f"{', '.join(FORMATS)}"
        )


def need_matplotlib() -> None:
    """Say how to install matplotlib.

    Raises:
        InputError: it is not there.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "figures: found no matplotlib, expected it for drawing; install it with "
            'pip install "lightning-unlearn[figures]"'
        ) from error


def make_folder(folder: str | Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        InputError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"figures: found {folder} not usable as a folder ({error.strerror}), expected a folder "
            f"that can be written to; choose another one"
        ) from error
    return folder


def write_figure(figure: Figure, folder: Path, name: str, formats: tuple[str, ...]) -> list[Path]:
    """Write a figure as <name>.<format>, without a date and without the version of matplotlib.

    `Figure.savefig` would draw every figure once more to find out how large it is.
    """
    return [write_as(figure, folder / f"{name}.{suffix}") for suffix in formats]


def write_as(figure: Figure, file: Path) -> Path:
    """Write a figure in the format that the file's name ends in: whole, or not at all."""

    def png(draft: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        # Level 6 takes three times as long for a tenth less.
        quick = {"compress_level": 3}
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(draft, metadata={"Software": None}, pil_kwargs=quick)

    def pdf(draft: Path) -> None:
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        dpi = figure.dpi
        canvas: Any = FigureCanvasPdf(figure)
        nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
        canvas.print_pdf(draft, metadata=nothing)
        figure.dpi = dpi

    records.replace(file, png if file.suffix == ".png" else pdf)
    return file
