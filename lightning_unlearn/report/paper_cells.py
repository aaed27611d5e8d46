"""What the paper's figures take from a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_unlearn.report.arrangement import Trial, cells_of
from lightning_unlearn.report.curve_figures import answers_of, parts_of
from lightning_unlearn.report.curves import Curves
from lightning_unlearn.report.frame import Entry, compose
from lightning_unlearn.report.looks import folded, looks_of_paths
from lightning_unlearn.report.panels import Panel
from lightning_unlearn.report.reading import StudyRecords
from lightning_unlearn.settings.labels import setting_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = "forget/label"


class Lacking(Exception):
    """What a study lacks for a figure, as the end of a sentence."""


class Cells:
    """What the figures take from a study: cells by method, base model, learning rate, schedule."""

    def __init__(self, study: StudyRecords) -> None:
        self.study = study
        self.looks = looks_of_paths(study.runs)
        self.methods = [str(name) for name in study.runs["method"].unique()]
        self.model = self.key("base")

    def key(self, ending: str) -> int | None:
        """The place of the sweep key that ends so; that of unlearning goes before others."""
        found = [i for i, key in enumerate(self.study.sweep) if key.split(".")[-1] == ending]
        found.sort(key=lambda place: "unlearn" not in self.study.sweep[place])
        return found[0] if found else None

    def label(self) -> dict[Trial, Curves]:
        """The curves of the label."""
        found = cells_of(self.study, LABEL)
        if not found:
            raise Lacking(f"no {LABEL}; add the monitor LabelLikelihood")
        if not any(len(curves.paths) > 1 for curves in found.values()):
            raise Lacking("a single path; give it several positions")
        return found

    def retained(self) -> tuple[str, dict[Trial, Curves]]:
        """The stage whose answers stand for utility, and their curves."""
        answers = answers_of(self.study)
        others = list(answers["stage"][answers["stage"] != answers["forget"]].unique())
        if not others:
            raise Lacking("no answers of a stage that is not forgotten (answers/tofu)")
        stage = "tofu" if "tofu" in others else others[0]
        rows = answers[answers["forget"] != stage]
        return stage, cells_of(replace(self.study, runs=rows), f"answers/{stage}")

    def local(self) -> str:
        """The method of figures that show one: NPO where it was run."""
        return "NPO" if "NPO" in self.methods else self.methods[0]

    def choose(self, cells: dict[Trial, Curves], method: str, **wanted: object) -> list[Trial]:
        """A setting of each base model, among those with the wanted values.

        Its learning rate is the upper median unless one is wanted: of the paper's, 1e-6, 5e-6, 1e-5
        and 5e-5, that is the 1e-5 of its main results. Of the rest the first is taken.
        """
        rate, rates = self.key("lr"), self.values("lr", method, cells)
        middle = rates[len(rates) // 2] if rates else None
        places = {name: self.key(name) for name in wanted}
        found: dict[object, Trial] = {}

        def order(cell: Trial) -> tuple[bool, int]:
            setting = self.study.settings[cell[1]]
            return rate is not None and setting[rate] != middle, cell[1]

        for cell in sorted((c for c in cells if c[0] == method), key=order):
            setting = self.study.settings[cell[1]]
            agree = all(
                place is not None and setting[place] == wanted[name]
                for name, place in places.items()
            )
            if agree:
                found.setdefault(None if self.model is None else setting[self.model], cell)
        return list(found.values())

    def values(self, ending: str, method: str, cells: dict[Trial, Curves]) -> list[object]:
        """The values of a sweep key under a method, ascending if they are numbers."""
        place = self.key(ending)
        if place is None:
            return []
        every = [self.study.settings[code][place] for name, code in cells if name == method]
        distinct = [value for value in dict.fromkeys(every) if value is not None]
        numbers = all(isinstance(value, (int, float)) for value in distinct)
        return sorted(distinct, key=float) if numbers else distinct  # type: ignore[arg-type]

    def model_name(self, cell: Trial) -> str:
        """The base model of a cell, without its folder; "" where all have the same."""
        if self.model is None:
            return ""
        return str(self.study.settings[cell[1]][self.model]).rstrip("/").split("/")[-1]

    def words(self, cell: Trial) -> str:
        """The setting of a cell but for its base model."""
        pairs = zip(self.study.sweep, self.study.settings[cell[1]], strict=True)
        others = [pair for place, pair in enumerate(pairs) if place != self.model]
        return setting_name([key for key, _ in others], [value for _, value in others])

    def panel(
        self, curves: Curves | None, title: str, setting: str, ylabel: str, share: object
    ) -> Panel | None:
        """A panel of the paths' curves."""
        if curves is None:
            return None
        parts = parts_of(curves, self.looks)
        return Panel(parts, folded(title, 30), setting, ylabel, str(share))

    def figure(
        self, grid: Sequence[Sequence[Panel | None]], cells: dict[Trial, Curves], height: float
    ) -> Figure:
        """The figure of a grid, with a legend of the paths."""
        paths = {path for curves in cells.values() for path in curves.paths}
        entries: list[Entry] = [(o.line(1), o.label) for o in self.looks.present(paths)]
        return compose(grid, height, "", [], "", entries)
