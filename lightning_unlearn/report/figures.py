"""Curves of a study: how the paths part while the forget stage is unlearned."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.report.scores import unlearn_records

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), safe for colour-blind readers; without yellow, which is faint on white.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
READABLE = 1 / 5
FLAT = 0.05
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class _Look:
    """How one curve, or all curves of one position, are drawn and named in the legend."""

    colour: str
    marker: str
    label: str


def save_figures(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw `forget.png` and `utility.png` into `folder`, which is made where it is missing.

    `forget.png` shows the log-likelihood of the unlearn label ("forget/label") against the
    unlearning step, one panel per method. `utility.png` shows that of the other stages' answers
    ("answers/<stage>"), one row per stage and one column per method; a run is left out of the row
    of its own forget stage. All values are nats per token.

    - Up to seven paths: one colour and marker per path; several seeds are drawn as their mean
      with a band from the lowest to the highest. More paths: one colour per position, a thin line
      for each path's mean over seeds and a thick one for the mean over the position's paths.
    - The panels of `forget.png`, and those of one row of `utility.png`, share the y axis unless
      the values of one panel span less than a fifth of those of another; then each has its own, at
      least 0.05 nats high so that noise is not blown up, and the figure says so.

    The same records give the same bytes with the same version of matplotlib.

    Args:
        records: as for `lightning_unlearn.report.scores`.
        folder: where the figures go; files of the same name are replaced.

    Returns:
        The files written. A figure without a finite value to show is not written.

    Raises:
        InputError: matplotlib is not installed, the folder cannot be made, or the records are
            wrong as described for `lightning_unlearn.report.scores`.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "figures: found no matplotlib, expected it for drawing; install it with "
            'pip install "lightning-unlearn[figures]"'
        ) from error

    data = unlearn_records(records)
    data = data[data["value"].abs() < float("inf")]
    label = data[data["measure"] == "forget/label"]
    others = data[data["measure"].str.startswith("answers/")]
    others = others[others["measure"] != "answers/" + others["forget"]]
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"figures: found {folder} not usable as a folder ({error.strerror}), expected a folder "
            f"that can be written to; choose another one"
        ) from error

    looks, by_path = _looks(data)
    written = []
    with _drawing_style():
        for name, draw, part in (
            ("forget.png", _forget_figure, label),
            ("utility.png", _utility_figure, others),
        ):
            if len(part):
                figure = draw(part, looks, by_path)
                figure.savefig(folder / name, metadata={"Software": None})
                written.append(folder / name)
    return written


@contextmanager
def _drawing_style() -> Iterator[None]:
    """matplotlib's defaults with `STYLE`, whatever the user's settings, which come back after."""
    import matplotlib

    settings: Any = {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(("backend", "toolbar", "interactive"))
    }
    settings.update(STYLE)
    with matplotlib.rc_context(settings):
        yield


def _looks(data: pd.DataFrame) -> tuple[dict[tuple[str, int], _Look], bool]:
    """The look of every (path, position), and whether each path has its own."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    pairs = data[["path", "position"]].drop_duplicates().sort_values("position", kind="stable")
    curves = [(str(path), int(position)) for path, position in pairs.itertuples(index=False)]
    positions = sorted({position for _, position in curves})
    by_path = len(curves) <= len(PALETTE)
    if by_path:
        return {
            (path, position): _Look(
                colour, marker, f"p = {position}: {_emphasised(path, position)}"
            )
            for (path, position), colour, marker in zip(curves, PALETTE, MARKERS, strict=False)
        }, True
    colours = PALETTE
    if len(positions) > len(PALETTE):
        shades = colormaps["viridis"]
        colours = [to_hex(shades(0.9 * i / (len(positions) - 1))) for i in range(len(positions))]
    looks = {}
    for path, position in curves:
        rank = positions.index(position)
        count = sum(other == position for _, other in curves)
        label = f"p = {position}  ({count} path{'s' * (count > 1)})"
        looks[path, position] = _Look(colours[rank], MARKERS[rank % len(MARKERS)], label)
    return looks, False


def _forget_figure(
    data: pd.DataFrame, looks: dict[tuple[str, int], _Look], by_path: bool
) -> Figure:
    methods = list(data["method"].unique())
    columns = 2 if len(methods) == 4 else min(len(methods), 3)
    rows = -(-len(methods) // columns)
    forget = _names(data["forget"].unique())
    figure, grid = _grid(rows, columns, 3.0)
    axes = [axis for row in grid for axis in row]
    for axis in axes[len(methods) :]:
        axis.remove()
    axes = axes[: len(methods)]
    parts = [data[data["method"] == method] for method in methods]
    for axis, part, method in zip(axes, parts, methods, strict=True):
        _curves(axis, part, looks, by_path)
        axis.set_title(_folded(method, 30))
    own = _limits(axes, parts)
    for index, axis in enumerate(axes):
        _outer_labels(axis, index % columns == 0, index + columns >= len(axes), own)
        if index % columns == 0:
            axis.set_ylabel("label log-likelihood\n(nats per token)")
        _end_labels(axis, parts[index], looks, by_path, 3.0)
    title = f"Unlearning {forget}: log-likelihood of the unlearn label"
    notes = ["lower = more forgotten", *_notes(data, by_path, own)]
    _frame(figure, title, notes, _legend(data, looks), by_path)
    return figure


def _utility_figure(
    data: pd.DataFrame, looks: dict[tuple[str, int], _Look], by_path: bool
) -> Figure:
    methods = list(data["method"].unique())
    measures = list(data["measure"].unique())
    forget = _names(data["forget"].unique())
    figure, grid = _grid(len(measures), len(methods), 2.1)
    some_own = False
    for axes, measure in zip(grid, measures, strict=True):
        row = data[data["measure"] == measure]
        stage = measure.partition("/")[2]
        parts = [row[row["method"] == method] for method in methods]
        for axis, part in zip(axes, parts, strict=True):
            _curves(axis, part, looks, by_path)
        own = _limits(axes, parts)
        some_own = some_own or own
        for axis, part in zip(axes, parts, strict=True):
            _outer_labels(axis, axis is axes[0], measure == measures[-1], own)
            _end_labels(axis, part, looks, by_path, 2.1)
        axes[0].set_ylabel(f"{_folded(stage, 18)} answers\n(nats per token)")
    for axis, method in zip(grid[0], methods, strict=True):
        axis.set_title(_folded(method, 30))
    title = f"Unlearning {forget}: the other stages' log-likelihood"
    notes = ["flat = kept", *_notes(data, by_path, some_own)]
    _frame(figure, title, notes, _legend(data, looks), by_path)
    return figure


def _grid(rows: int, columns: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure with the Agg canvas, apart from pyplot, and its axes row by row.

    `height` is that of one panel in inches; `_frame` adds room for title and legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = {1: 6.4, 2: 9.2}.get(columns, 0.9 + 3.7 * columns)
    figure = Figure(figsize=(width, 0.9 + (height + 0.25) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    return figure, [list(row) for row in axes]


def _curves(
    axis: Axes, data: pd.DataFrame, looks: dict[tuple[str, int], _Look], by_path: bool
) -> None:
    """Draw the runs of one panel."""
    from matplotlib.ticker import MaxNLocator

    for (path, position), look in looks.items():
        runs = data[(data["path"] == path) & (data["position"] == position)]
        steps = runs.groupby("step")["value"].agg(["mean", "min", "max"])
        if not by_path:
            axis.plot(steps.index, steps["mean"], color=look.colour, linewidth=0.7, alpha=0.55)
            continue
        if runs["seed"].nunique() > 1:
            axis.fill_between(
                steps.index, steps["min"], steps["max"], color=look.colour, alpha=0.2, linewidth=0
            )
        axis.plot(steps.index, steps["mean"], **_line(look, len(steps)))
    if not by_path:
        for position, runs in data.groupby("position"):
            means = runs.groupby(["path", "step"])["value"].mean().groupby("step").mean()
            look = _position_look(looks, position)
            axis.plot(means.index, means, **_line(look, len(means)))
    axis.xaxis.set_major_locator(
        MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _outer_labels(axis: Axes, left: bool, bottom: bool, own: bool) -> None:
    """Keep tick and axis labels at the outer edge, and y tick labels on panels of `own` scale."""
    axis.tick_params(axis="x", labelbottom=bottom, length=3 if bottom else 0)
    axis.tick_params(axis="y", labelleft=left or own, length=3 if left or own else 0)
    if bottom:
        axis.set_xlabel("unlearning step (optimizer updates)")


def _end_labels(
    axis: Axes,
    data: pd.DataFrame,
    looks: dict[tuple[str, int], _Look],
    by_path: bool,
    height: float,
) -> None:
    """Write each thick curve's position beside its end, moved apart where ends are close."""
    low, high = axis.get_ylim()
    ends = []
    for key, runs in data.groupby(["path", "position"] if by_path else ["position"], sort=False):
        position = int(key[-1])
        look = looks[key] if by_path else _position_look(looks, position)
        last = runs[runs["step"] == runs["step"].max()]
        end = last.groupby("path")["value"].mean().mean()
        ends.append(((end - low) / (high - low), position, look.colour))
    ends.sort(key=lambda end: end[0])
    places = _apart([end for end, _, _ in ends], gap=9.5 / (72 * height))
    for place, (_, position, colour) in zip(places, ends, strict=True):
        axis.text(
            1.015,
            place,
            f"p = {position}",
            transform=axis.transAxes,
            color=colour,
            fontsize=8,
            fontweight="bold",
            verticalalignment="center",
        )


def _position_look(looks: dict[tuple[str, int], _Look], position: int) -> _Look:
    return next(look for (_, place), look in looks.items() if place == position)


def _apart(places: list[float], gap: float) -> list[float]:
    """The nearest places, in least squares, that lie at least `gap` apart within 0 to 1.

    `places` ascend. Less `gap` for each place before it, this is isotonic regression, solved by
    pooling adjacent violators.
    """
    blocks: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        mean, count = place - index * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        blocks.append((mean, count))
    level = [mean for mean, count in blocks for _ in range(count)]
    room = max(1 - gap * (len(places) - 1), 0)
    return [min(max(base, 0), room) + index * gap for index, base in enumerate(level)]


def _line(look: _Look, points: int) -> dict[str, Any]:
    return {
        "color": look.colour,
        "linewidth": 2.0,
        "marker": look.marker,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "markevery": max(1, points // 10),
    }


def _limits(axes: Sequence[Axes], parts: Sequence[pd.DataFrame]) -> bool:
    """Set the y limits of panels side by side; True when each got its own."""
    drawn = [(axis, part["value"]) for axis, part in zip(axes, parts, strict=True) if len(part)]
    ends = [(float(values.min()), float(values.max())) for _, values in drawn]
    spans = [high - low for low, high in ends]
    own = min(spans) < READABLE * max(spans) and max(spans) > FLAT
    if not own:
        ends = [(min(low for low, _ in ends), max(high for _, high in ends))] * len(ends)
    for (axis, _), (low, high) in zip(drawn, ends, strict=True):
        room = max(0.06 * (high - low), (FLAT - (high - low)) / 2)
        axis.set_ylim(low - room, high + room)
    return own


def _notes(data: pd.DataFrame, by_path: bool, own: bool) -> list[str]:
    """How to read the curves, in words."""
    seeds = data.groupby(["method", "path", "position"])["seed"].nunique()
    low, high = int(seeds.min()), int(seeds.max())
    count = str(high) if low == high else f"{low} to {high}"
    notes = []
    if not by_path:
        over = f" over {count} seeds" if high > 1 else ""
        notes.append(f"thin: one path{over and ', mean' + over}; thick: mean of the position")
    elif high > 1:
        notes.append(f"line: mean of {count} seeds; band: lowest to highest")
    return notes + (["y axes differ between methods"] if own else [])


def _legend(data: pd.DataFrame, looks: dict[tuple[str, int], _Look]) -> list[_Look]:
    """The looks that occur in `data`, each label once."""
    present = {(str(p), int(n)) for p, n in data[["path", "position"]].itertuples(index=False)}
    return list({look.label: look for key, look in looks.items() if key in present}.values())


def _frame(
    figure: Figure, title: str, notes: list[str], looks: Sequence[_Look], by_path: bool
) -> None:
    """Put title and notes over the panels and the legend under them, with room of their own."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_line(look, 1)) for look in looks]
    heading = "path (p = place of the forget stage)" if by_path else "p = place of the forget stage"
    width, height = figure.get_size_inches()
    for rows in range(1, len(looks) + 1):
        legend = figure.legend(
            handles,
            [look.label for look in looks],
            title=heading,
            loc="lower center",
            ncols=-(-len(looks) // rows),
        )
        box = legend.get_window_extent()
        if rows == len(looks) or box.width <= 0.97 * figure.bbox.width:
            break
        legend.remove()
    # The layout of the panels is kept off the legend by the rectangle below.
    legend.set_in_layout(False)
    width = max(width, box.width / figure.dpi / 0.97)
    below = box.height / figure.dpi + 0.12

    titles = textwrap.wrap(title, int(width * 8.5))
    remarks = textwrap.wrap(" · ".join(notes), int(width * 12))
    title_top, remarks_top = 0.1, 0.14 + 0.24 * len(titles)
    above = remarks_top + 0.19 * len(remarks) + 0.08
    full = height + above + below
    figure.set_size_inches(width, full)
    panels = (0.08 / width, below / full, 1 - 0.16 / width, height / full)
    figure.set_layout_engine("constrained", rect=panels, h_pad=0.07)
    for lines, top, look in (
        (titles, title_top, {"fontsize": 12.5, "fontweight": "bold"}),
        (remarks, remarks_top, {"fontsize": 9.5, "color": "#444444"}),
    ):
        text = figure.text(0.5, 1 - top / full, "\n".join(lines), ha="center", va="top")
        text.set(**look)
        text.set_in_layout(False)


def _emphasised(path: str, position: int) -> str:
    """The path with its forget stage in bold, where mathtext can set the name."""
    stages = [_plain(stage) for stage in path.split("-")]
    name = stages[position - 1]
    if name.isascii() and name.isalnum():
        stages[position - 1] = rf"$\mathbf{{{name}}}$"
    return "-".join(stages)


def _folded(text: str, width: int) -> str:
    """A name on as many lines of `width` characters as it takes."""
    return _plain(textwrap.fill(text, width))


def _plain(text: str) -> str:
    """`text` without a meaning for mathtext."""
    return text.replace("$", r"\$")


def _names(stages: Sequence[str]) -> str:
    names = [_plain(stage) for stage in stages]
    return names[0] if len(names) == 1 else f"the forget stage ({', '.join(names)})"
