"""Runs a study: paths x methods in one process, every stage prefix trained once."""

import importlib.util
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lightning_unlearn import records
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.recipe import Recipe
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.module import CausalLM
from lightning_unlearn.progress import StageProgress, make_progress
from lightning_unlearn.study.plan import Cell, StudyPlan
from lightning_unlearn.trainer import StagedTrainer

MakeTrainer = Callable[[str, StageProgress], StagedTrainer]


@dataclass
class StudyResult:
    """What a study left behind.

    Attributes:
        folder: where tables and figures are.
        runs: folders of the finished runs.
        failed: what went wrong, by run.
    """

    folder: Path
    runs: list[Path] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)


class Study:
    """Paths x methods on one base model.

    Args:
        name: of the study, kept in its records.
        module: the model; used for all runs.
        data: the stages; its path is set for each run.
        paths: the paths.
        recipes: recipe of unlearning by label of the method.
        make_trainer: gives a fresh trainer, with fresh callbacks, for a method.
        folder: where tables and figures go.
        console: where progress and results are printed.
    """

    def __init__(
        self,
        name: str,
        module: CausalLM,
        data: StagedDataModule,
        paths: Sequence[tuple[str, ...]],
        recipes: Mapping[str, Recipe],
        make_trainer: MakeTrainer,
        folder: Path,
        console: Console | None = None,
    ) -> None:
        self.name = name
        self.module = module
        self.data = data
        self.plan = StudyPlan(list(paths), list(recipes))
        self.recipes = recipes
        self.make_trainer = make_trainer
        self.folder = folder
        other_process = os.environ.get("LOCAL_RANK", "0") != "0"
        self.console = console or Console(stderr=True, quiet=other_process)
        self._first_process = True
        self._figures = importlib.util.find_spec("matplotlib") is not None

    def run(self) -> StudyResult:
        """Run what is not stored yet, then write tables and figures.

        A run that fails is reported, and the others go on.

        Returns:
            Folders and failures.

        Raises:
            InputError: for anything wrong that shows before the first run.
        """
        self._check()
        progress = make_progress(self.console)
        bar = StageProgress(progress)
        result = StudyResult(self.folder)
        # The study prints one line per run; the walk's own lines are for single fits.
        with progress:
            overall = progress.add_task("runs", total=len(self.plan.cells), note="")
            for number, cell in enumerate(self.plan.cells, start=1):
                began = time.monotonic()
                place = f"[{number}/{len(self.plan.cells)}] {cell}"
                try:
                    trainer = self._run_cell(cell, bar)
                except Exception as error:
                    # Whatever broke this run, the others are worth having.
                    result.failed[cell] = str(error)
                    self.console.print(f"[red]✗[/] {escape(place)}: {escape(str(error))}")
                    if not isinstance(error, (DivergedError, InputError)):
                        self.console.print(escape(traceback.format_exc()), highlight=False)
                else:
                    assert trainer.run_dir is not None
                    result.runs.append(trainer.run_dir)
                    done = ", ".join(trainer.trained) or "all found in the store"
                    seconds = time.monotonic() - began
                    self.console.print(
                        f"[green]✓[/] {escape(place)}: {done} ({seconds:.1f} s)", highlight=False
                    )
                progress.advance(overall)
        if result.runs and self._first_process:
            self._report(result)
        return result

    def _check(self) -> None:
        """Everything that can be found wrong before the first run, for all methods and paths."""
        bar = StageProgress(make_progress(self.console))
        for method in self.plan.methods:
            trainer = self.make_trainer(method, bar)
            for path in self.plan.paths:
                self.data.path = path
                self.data.unlearn = self.recipes[method]
                trainer.check(self.module, self.data)
        self._first_process = trainer.is_global_zero
        if self._first_process:
            self.console.print(f"{self.name}: {self.plan}", highlight=False)
            for sentence in self.data.truncations():
                self.console.print(sentence, highlight=False, markup=False)
            if not self._figures:
                self.console.print(
                    'Figures are left out: they need matplotlib (pip install "lightning-unlearn'
                    '[figures]").',
                    markup=False,
                )

    def _run_cell(self, cell: Cell, bar: StageProgress) -> StagedTrainer:
        trainer = self.make_trainer(cell.method, bar)
        self.data.path = cell.path
        self.data.unlearn = self.recipes[cell.method]
        trainer.fit(self.module, self.data)
        return trainer

    def _report(self, result: StudyResult) -> None:
        """Tables and figures of all runs, and what can be read off them."""
        from lightning_unlearn import report

        self.folder.mkdir(parents=True, exist_ok=True)
        steps = self._gather(result.runs, records.STEPS)
        self._gather(result.runs, records.EXAMPLES)
        if steps.empty:
            self.console.print(
                "There is no table, for nothing was measured: trainer.callbacks has no monitor."
            )
            return
        scores = report.scores(steps)
        findings = report.recency(scores)
        findings += [f"{cell} failed: {reason}" for cell, reason in result.failed.items()]
        text = report.markdown(scores) + "\n" + "\n".join(f"- {line}" for line in findings) + "\n"
        records.write_text(self.folder / "table.md", text)
        records.write_text(self.folder / "table.csv", report.csv(scores))
        written = ["table.md", "table.csv", records.STEPS, records.EXAMPLES]
        if self._figures:
            written += [file.name for file in report.save_figures(steps, self.folder)]
        # Results go to standard output; a file or pipe has no width that columns must fit.
        out = Console()
        if not out.is_terminal:
            out = Console(width=160)
        out.print(report.render(scores))
        for line in [*findings, f"Written to {self.folder}: {', '.join(written)}"]:
            out.print(line, highlight=False, markup=False, soft_wrap=True)

    def _gather(self, runs: list[Path], file: str) -> Any:
        import pandas as pd

        tables = [records.read_table(run / file) for run in runs]
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "study", self.name)
        columns = {name: table[name].tolist() for name in table.columns}
        records.replace(self.folder / file, lambda draft: records.write_table(draft, columns))
        return table
