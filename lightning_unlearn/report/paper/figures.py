"""The figures and the table of the paper, drawn from a study of one's own.

Source: Yu, He, Goyal and Arora, arXiv 2510.16629, whose captions and panels these follow. Columns
of several base models there need the sweep key `model.base` here, and are one column without it.
There are no titles, for a caption follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.curves import Curves, band_of, curves_by_condition, paths_of
from lightning_unlearn.analysis.reading import Condition, StudyRecords, answers_of, read_records
from lightning_unlearn.report.figures import spec
from lightning_unlearn.report.figures.curves import path_entries, path_marks
from lightning_unlearn.report.figures.files import check_formats, write_figures
from lightning_unlearn.report.figures.labels import wrapped
from lightning_unlearn.report.figures.style import CurveStyle, styles_of_paths
from lightning_unlearn.report.paper.table import table_one
from lightning_unlearn.settings.labels import setting_name, short_value
from lightning_unlearn.storage.records import write_text

if TYPE_CHECKING:
    import pandas as pd

ByTrial = Mapping[Condition, Curves]
LABEL = "forget/label"
TOKEN = "(nats per token)"
UNIT = f"log-likelihood\n{TOKEN}"
# The orders of Figure 4, as the paper numbers them.
ORDERS = ("R-C-U", "C-R-U", "U-C-R", "U-R-C", "R-U-C", "C-U-R")
# Their stages, each with its place in the palette and its meaning.
STAGES = {"U": (3, "compliant, unlearned"), "C": (0, "compliant, another phrasing")}
STAGES |= {"R": (1, "refusal")}
THREE = {
    stage: CurveStyle(stage, rank, 7, ((stage, True), (f": {meaning}", False)), stage, stage)
    for stage, (rank, meaning) in STAGES.items()
}


@dataclass(frozen=True)
class Paper:
    """What was written of the paper's figures and what was not.

    Attributes:
        written: the files.
        missing: a sentence for each figure left out, by its name.
    """

    written: list[Path] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def paper_figures(records: pd.DataFrame) -> tuple[dict[str, spec.Figure], dict[str, str]]:
    """The figures of the paper for which the study has the trials, by name.

    - "figure-1": forget label by step, one method (NPO where it was run), a panel per base model.
    - "figure-3": label, and answers of TOFU, side by side for each base model; a row per method
      (NPO and SimNPO where they were run; in the paper GA is in the table alone).
    - "figure-4": answers of U, C and R, a panel per order of these three stages.
    - "figure-5": label above, TOFU below, a column per method: means over seeds, 95 % bands.
    - "figure-6": label under NPO, a row per learning rate and a column per base model.
    - "figure-7": label and TOFU at the highest learning rate, under NPO.
    - "figure-8": label, a row per method and a column per schedule.

    TOFU is the stage named tofu, or the first that is not forgotten. A figure of one setting takes
    the upper median learning rate and the first of the rest, and says so. The paper's Figure 2 is a
    drawing of the set-up.

    Args:
        records: as for `lightning_unlearn.analysis.scores`.

    Returns:
        The figures, and a sentence for each that is left out.

    Raises:
        InputError: as for `lightning_unlearn.analysis.scores`.
    """
    if not len(records):
        return {}, {name: f"{name} is left out: nothing was measured." for name in BUILDERS}
    trials = Trials(read_records(records).finite())
    found: dict[str, spec.Figure] = {}
    missing = {}
    for name, build in BUILDERS.items():
        try:
            found[name] = build(trials)
        except Lacking as lacking:
            missing[name] = f"{name} is left out: the study has {lacking}."
    return found, missing


def save_paper(
    records: pd.DataFrame, folder: str | Path, formats: Sequence[str] = ("pdf",)
) -> Paper:
    """Write the paper's figures, and its Table 1 as table-1.md and table-1.tex, into a folder.

    Args:
        records: as for `paper_figures`.
        folder: made where it is missing; files of the same name are replaced.
        formats: "png", "pdf" (vectors) or both; the files are figure-1.pdf and so on.

    Raises:
        InputError: matplotlib is not installed, the folder cannot be made, a format is unknown, or
            the records are wrong.
    """
    check_formats(formats)
    figures, missing = paper_figures(records)
    written = write_figures(figures, folder, formats)
    table = table_one(records) if len(records) else None
    if table is None:
        missing["table-1"] = "table-1 is left out: the study has no forget score."
    else:
        for suffix, text in (("md", table.markdown()), ("tex", table.latex())):
            path = Path(folder) / f"table-1.{suffix}"
            write_text(path, text)
            written.append(path)
    return Paper(written, missing)


class Lacking(Exception):
    """What a study lacks for a figure, as the end of a sentence."""


class Trials:
    """What the figures take from a study: trials by method, base model, rate and schedule."""

    def __init__(self, study: StudyRecords) -> None:
        self.study = study
        self.styles = styles_of_paths(paths_of(study.runs))
        self.methods = [str(name) for name in study.runs["method"].unique()]
        self.model = self.key("base")
        self.title = study.labels[0].words if len(study.labels) == 1 else "label"

    def key(self, ending: str) -> int | None:
        """The place of the sweep key that ends so; that of unlearning goes before others."""
        found = [i for i, key in enumerate(self.study.sweep) if key.split(".")[-1] == ending]
        found.sort(key=lambda place: "unlearn" not in self.study.sweep[place])
        return found[0] if found else None

    def label(self) -> ByTrial:
        """The curves of the label."""
        found = curves_by_condition(self.study, LABEL)
        if not found:
            raise Lacking(f"no {LABEL}; add the monitor LabelLikelihood")
        if not any(len(curves.paths) > 1 for curves in found.values()):
            raise Lacking("a single path; give it several positions")
        return found

    def retained(self) -> tuple[str, ByTrial]:
        """The stage whose answers stand for utility, and their curves."""
        answers = answers_of(self.study.runs)
        others = list(answers["stage"][answers["stage"] != answers["forget"]].unique())
        if not others:
            raise Lacking("no answers of a stage that is not forgotten (answers/tofu)")
        stage = "tofu" if "tofu" in others else others[0]
        rows = answers[answers["forget"] != stage]
        return stage, curves_by_condition(replace(self.study, runs=rows), f"answers/{stage}")

    def local(self) -> str:
        """The method of figures that show one: NPO where it was run."""
        return "NPO" if "NPO" in self.methods else self.methods[0]

    def choose(self, trials: ByTrial, method: str, **wanted: object) -> list[Condition]:
        """A setting of each base model, among those with the wanted values.

        Its learning rate is the upper median unless one is wanted: of the paper's, 1e-6, 5e-6, 1e-5
        and 5e-5, that is the 1e-5 of its main results. Of the rest the first is taken.
        """
        rates = self.values("lr", method, trials)
        middle = rates[len(rates) // 2] if rates else None
        own = [trial for trial in trials if trial.method == method]
        found: dict[object, Condition] = {}
        for trial in sorted(own, key=lambda trial: self.value("lr", trial) != middle):
            if all(self.value(name, trial) == value for name, value in wanted.items()):
                found.setdefault(self.value("base", trial), trial)
        return list(found.values())

    def value(self, ending: str, trial: Condition) -> object:
        """A trial's value of the sweep key that ends so; None without such a key."""
        place = self.key(ending)
        return None if place is None else trial.setting[place]

    def values(self, ending: str, method: str, trials: ByTrial) -> list[object]:
        """The values of a sweep key under a method, ascending if they are numbers."""
        every = [self.value(ending, trial) for trial in trials if trial.method == method]
        distinct = [value for value in dict.fromkeys(every) if value is not None]
        numbers = all(isinstance(value, (int, float)) for value in distinct)
        return sorted(distinct, key=float) if numbers else distinct  # type: ignore[arg-type]

    def rates(self, method: str, trials: ByTrial) -> list[object]:
        """The learning rates of a method, two or more."""
        rates = self.values("lr", method, trials)
        if len(rates) < 2:
            raise Lacking(
                f"fewer than two learning rates under {method}; sweep over data.unlearn.lr"
            )
        return rates

    def model_name(self, trial: Condition) -> str:
        """The base model of a trial, without its folder; "" where all have the same."""
        if self.model is None:
            return ""
        return str(self.value("base", trial)).rstrip("/").split("/")[-1]

    def panel(
        self, curves: ByTrial, trial: Condition, title: str, ylabel: str, share: object
    ) -> spec.Panel | None:
        """The curves of the paths of a trial, under its setting but for its base model."""
        if trial not in curves:
            return None
        others = [place for place in range(len(trial.keys)) if place != self.model]
        words = setting_name([trial.keys[i] for i in others], [trial.setting[i] for i in others])
        marks = path_marks(curves[trial], self.styles)
        return spec.Panel(marks, title, words, ylabel, str(share))

    def figure(self, grid: spec.Grid, drawn: ByTrial, height: float) -> spec.Figure:
        """The figure of a grid, with a legend of the paths."""
        entries = path_entries(list(drawn.values()), self.styles)
        return spec.Figure("", [], grid, spec.Legend("", entries), height)


def figure_one(trials: Trials) -> spec.Figure:
    """Figure 1: the label by step for one method; a panel per base model.

    The paper does not say of which method its four panels (Llama 1B and 13B, Qwen 1B and 14B) are.
    """
    label, method = trials.label(), trials.local()
    chosen = trials.choose(label, method)
    if not chosen:
        raise Lacking(f"no {LABEL} under {method}")
    row = [
        trials.panel(label, t, trials.model_name(t) or method, f"{trials.title}\n{UNIT}", "label")
        for t in chosen
    ]
    return trials.figure([row], label, 2.6)


def figure_three(trials: Trials) -> spec.Figure:
    """Figure 3: label and TOFU answers, for each base model; a row per method.

    Its y axes are each their own, as in the paper.
    """
    label = trials.label()
    stage, kept = trials.retained()
    methods = [name for name in trials.methods if name != "GA"] or trials.methods
    grid = []
    for method in methods:
        row: list[spec.Panel | None] = []
        for trial in trials.choose(label, method):
            own = trials.model_name(trial)
            for name, curves in ((trials.title, label), (stage, kept)):
                title = f"{own}: {name}" if own else name
                first = f"{method}\n{TOKEN}" if not row else ""
                row.append(trials.panel(curves, trial, title, first, (trial, name)))
        grid.append(row)
    return trials.figure(grid, label, 2.1)


def figure_four(trials: Trials) -> spec.Figure:
    """Figure 4: the answers of U, C and R while U is unlearned; a panel per order.

    In nats per token; the paper sums over tokens.
    """
    three = {stage: curves_by_condition(trials.study, f"answers/{stage}") for stage in THREE}
    for stage, own in three.items():
        if not own:
            raise Lacking(f"no answers/{stage}; its paths are orders of the stages R, C and U")
    trial = next(iter(trials.choose(three["U"], trials.methods[0])), None)
    paths = {path for curves in three["U"].values() for path, _ in curves.paths}
    orders = [order for order in ORDERS if order in paths]
    if trial is None or not orders:
        raise Lacking(f"no path among {', '.join(ORDERS)}")
    panels = []
    for order in orders:
        marks: list[spec.Mark] = []
        for stage, style in THREE.items():
            curves = three[stage].get(trial)
            names = [path for path, _ in curves.paths] if curves else []
            if curves and order in names:
                band = band_of(curves.steps, curves.means[names.index(order)])
                marks += [spec.thick_line(band, style, stage)] if band.seeds else []
        number, arrows = "₁₂₃₄₅₆"[ORDERS.index(order)], order.replace("-", " → ")
        panels.append(spec.Panel(marks, f"θ{number}: {arrows}", "", UNIT, "answers"))
    entries = [spec.Entry("line", style.label, style) for style in THREE.values()]
    return spec.Figure("", [], wrapped(panels, 3), spec.Legend("", entries), 2.1)


def figure_five(trials: Trials) -> spec.Figure:
    """Figure 5: label above and TOFU answers below, a column per method, over seeds."""
    label = trials.label()
    stage, kept = trials.retained()
    chosen = [trial for m in trials.methods for trial in trials.choose(label, m)[:1]]
    if max(len(curves.seeds) for curves in label.values()) < 2:
        raise Lacking("one seed; the figure shows intervals over several")
    grid = [
        [trials.panel(source, t, t.method, f"{name}\n{TOKEN}", name) for t in chosen]
        for name, source in ((trials.title, label), (f"{stage} answers", kept))
    ]
    return trials.figure(grid, label, 2.2)


def figure_six(trials: Trials) -> spec.Figure:
    """Figure 6: the label under NPO, a row per learning rate and a column per base model.

    With one base model the rates are side by side.
    """
    label, method = trials.label(), trials.local()
    chosen = [trials.choose(label, method, lr=rate) for rate in trials.rates(method, label)]
    alone = max(map(len, chosen)) == 1

    ylabel = f"{trials.title}\n{UNIT}"

    def panel(trial: Condition) -> spec.Panel | None:
        title = trials.model_name(trial) or method
        return trials.panel(label, trial, title, ylabel, "label" if alone else trial)

    grid: spec.Grid = [[panel(trial) for trial in row] for row in chosen]
    if alone:
        grid = wrapped([own for row in grid for own in row], 2 if len(grid) == 4 else 3)
    return trials.figure(grid, label, 2.1)


def figure_seven(trials: Trials) -> spec.Figure:
    """Figure 7: label and TOFU answers at the highest learning rate, under NPO."""
    label, method = trials.label(), trials.local()
    stage, kept = trials.retained()
    (trial, *_) = trials.choose(label, method, lr=trials.rates(method, label)[-1])
    titles = {f"forget quality: {trials.title}": label, f"retained utility: {stage} answers": kept}
    row = [
        trials.panel(curves, trial, title, UNIT if curves is label else "", title)
        for title, curves in titles.items()
    ]
    named = [panel and replace(panel, setting=f"{method}, {panel.setting}") for panel in row]
    return trials.figure([named], label, 2.8)


def figure_eight(trials: Trials) -> spec.Figure:
    """Figure 8: the label, a row per method and a column per schedule.

    In the paper the schedule is that of all training stages as well; here it is whatever the study
    sweeps over, such as data.unlearn.schedule alone.
    """
    label = trials.label()
    schedules = [value for m in trials.methods for value in trials.values("schedule", m, label)]
    every = list(dict.fromkeys(schedules))
    if len(every) < 2:
        raise Lacking("fewer than two schedules; sweep over data.unlearn.schedule")
    grid = []
    for method in trials.methods:
        row: list[spec.Panel | None] = []
        for schedule in every:
            found = trials.choose(label, method, schedule=schedule)[:1]
            ylabel = f"{method}\n{trials.title}\n{TOKEN}"
            own = [trials.panel(label, t, short_value(schedule), ylabel, method) for t in found]
            row += own or [None]
        if any(row):
            grid.append(row)
    return trials.figure(grid, label, 2.3)


BUILDERS: dict[str, Callable[[Trials], spec.Figure]] = {
    "figure-1": figure_one,
    "figure-3": figure_three,
    "figure-4": figure_four,
    "figure-5": figure_five,
    "figure-6": figure_six,
    "figure-7": figure_seven,
    "figure-8": figure_eight,
}
