"""Runs a study: has its tree made, then writes tables and figures."""

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lightning_unlearn.errors import StorageError, visible
from lightning_unlearn.storage import records
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.study.executors.base import Executor
from lightning_unlearn.study.executors.in_process import InProcessExecutor
from lightning_unlearn.study.live_curves import DivergenceCurves
from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.progress import Display
from lightning_unlearn.study.results import finished, gather, whole
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_queue import TaskResult
from lightning_unlearn.study.task_runner import TaskRunner
from lightning_unlearn.study.tree_view import draw
from lightning_unlearn.training.progress import StageProgress, make_progress

NOTHING = "There is no table, for nothing was measured: trainer.callbacks has no monitor."


@dataclass
class StudyResult:
    """What a study left behind.

    Attributes:
        folder: where tables and figures are.
        runs: folders of the finished runs, in the order of the trials.
        failed: what went wrong, by part of the study.
    """

    folder: Path
    runs: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Study:
    """Paths x methods x seeds x settings on one base model, and the oracles.

    Args:
        spec: the study.
        executor: does the work; None works in this process.
        console: where progress and results are printed.
        figures: whether figures and page are drawn at the end; tables are written in any case.

    Raises:
        InputError: for a mistake in the study or in its fit configuration.
    """

    def __init__(
        self,
        spec: StudySpec,
        executor: Executor | None = None,
        console: Console | None = None,
        figures: bool = True,
    ) -> None:
        spec.check()
        self.figures = figures
        other_process = os.environ.get("LOCAL_RANK", "0") != "0"
        self.console = console or Console(stderr=True, quiet=other_process)
        self.progress = make_progress(self.console)
        self.executor: Executor = executor or InProcessExecutor(
            TaskRunner(spec, self._say), StageProgress(self.progress)
        )
        self._plan: StudyPlan | None = None
        self._curves: DivergenceCurves | None = None

    def _say(self, text: str) -> None:
        self.console.print(visible(text), highlight=False, markup=False)

    @property
    def plan(self) -> StudyPlan:
        """The tree, after everything that can be found wrong before the first run.

        Raises:
            InputError: for whatever a run would refuse before it trains.
        """
        if self._plan is None:
            self._plan = self.executor.plan()
        return self._plan

    def show(self, only: str | None = None) -> None:
        """Print the plan as a tree; nothing is trained or written.

        Args:
            only: a part of the grid, as of `StudyPlan.select`.
        """
        trials = self.plan.select(only)
        tasks = self.plan.needed(trials)
        store = StageStore(self.plan.store, report=self._say)
        store.report_unused()
        made = {task.key for task in tasks if store.has(task.key)}
        out = Console()
        out.print(draw(self.plan, trials, made), highlight=False)
        for remark in self.plan.remarks:
            out.print(remark, highlight=False, markup=False)
        chosen = f" of {len(self.plan.trials)}" if only is not None else ""
        out.print(
            f"{len(trials)}{chosen} trials; {len(made)} of {len(tasks)} parts are in the store.",
            highlight=False,
        )

    def run(self, only: str | None = None) -> StudyResult:
        """Make what is not stored yet, then write records, tables and, if wanted, figures.

        A part that fails is reported, and the others go on.

        Args:
            only: a part of the grid, as of `StudyPlan.select`. Tables hold all trials that are
                finished, whoever made them.

        Returns:
            Folders and failures.

        Raises:
            InputError: for anything wrong that shows before the first run.
            StorageError: if results can't be written; what is stored is intact.
            KeyboardInterrupt: if it was stopped.
        """
        try:
            plan = self.plan
            tasks = plan.needed(plan.select(only))
            left = self._left(tasks)
            folder = Path(plan.folder)
            result = StudyResult(folder)
            if self.executor.is_first_process:
                if left:
                    # Before anything else is written.
                    StageStore(plan.store).check_writable()
                self._announce(plan, tasks, left)
                self._write_plan(plan, folder)
                self._curves = DivergenceCurves(plan, self._say)
                self._curves.begin()
            if left:
                self._work(plan, left, result)
        finally:
            self.executor.close()
        # In the order of the plan, whoever was first to fail.
        order = {plan.label(task): number for number, task in enumerate(plan.tasks)}
        result.failed = dict(sorted(result.failed.items(), key=lambda item: order[item[0]]))
        if self.executor.is_first_process:
            result.runs = [
                run for trial in plan.runs() if (run := trial.find(folder, True)) is not None
            ]
            entries = finished(plan)
            if entries:
                self._report(plan, entries, result)
        return result

    def _left(self, tasks: list[Task]) -> list[Task]:
        """What is still to be made; entries of the store are looked through."""
        store = StageStore(self.plan.store, report=self._say)
        store.report_unused()
        trials, folder = self.plan.trials, Path(self.plan.folder)
        return [
            task
            for task in tasks
            if store.get(task.key) is None
            or (task.is_run and trials[task.trial].find(folder, report=self._say) is None)
        ]

    def _announce(self, plan: StudyPlan, tasks: list[Task], left: list[Task]) -> None:
        self._say(f"{plan.name}: {plan}")
        for remark in plan.remarks:
            self._say(remark)
        if len(left) < len(tasks):
            self._say(f"{len(tasks) - len(left)} of {len(tasks)} parts are in the store already.")
        if self.figures and importlib.util.find_spec("matplotlib") is None:
            self._say(
                'Figures are left out: they need matplotlib (pip install "lightning-unlearn'
                '[figures]").'
            )

    def _write_plan(self, plan: StudyPlan, folder: Path) -> None:
        try:
            plan.write(folder)
        except OSError as error:
            raise StorageError(
                f"folder: {folder} can't be written: {error.strerror or error}."
            ) from error

    def _work(self, plan: StudyPlan, left: list[Task], result: StudyResult) -> None:
        """Have the executor make what is left, and tell of each part how it ended."""
        polls = not isinstance(self.executor, InProcessExecutor)
        with self.progress:
            display = Display(self.progress, plan, left, self.executor.workers, polls)

            def report(outcome: TaskResult) -> None:
                place = display.place
                rest = display.close(outcome)
                self._tell(plan, outcome, place, rest, result)

            try:
                self.executor.run(left, report)
            except KeyboardInterrupt as stop:
                if not str(stop):
                    made = f"{display.made} of {len(left)} parts were made"
                    text = f"stopped: {made}. The same command goes on from there."
                    raise type(stop)(text) from None
                raise
            finally:
                display.stop()

    def _tell(
        self, plan: StudyPlan, outcome: TaskResult, place: str, rest: str, result: StudyResult
    ) -> None:
        label = plan.label(plan.task[outcome.key])
        for sentence in outcome.said:
            self._say(sentence)
        if outcome.state == "done":
            how = f"{outcome.seconds:.1f} s" if outcome.made else "found in the store"
            # A terminal has it in the bar below.
            rest = f", {rest}" if rest and not self.console.is_terminal else ""
            text = f"[green]✓[/] {place}{escape(label)} ({how}{rest})"
            self.console.print(text, highlight=False)
            if self._curves is not None:
                self._curves.add(outcome.key)
            return
        result.failed[label] = outcome.error
        why = "not made, for something it needs failed: " if outcome.state == "skipped" else ""
        self.console.print(
            f"[red]✗[/] {place}{escape(label)}: {why}{escape(visible(outcome.error))}"
        )
        if outcome.trace:
            self.console.print(escape(visible(outcome.trace, lines=True)), highlight=False)

    def _report(self, plan: StudyPlan, entries: dict[str, Path], result: StudyResult) -> None:
        """Tables, figures and page of all finished runs, and what can be read off them."""
        from lightning_unlearn.report import terminal
        from lightning_unlearn.report.sections import Section
        from lightning_unlearn.report.summary import Summary
        from lightning_unlearn.report.write import FOLDER, write_report
        from lightning_unlearn.study.report_source import source_of

        folder = result.folder
        page = self.figures and importlib.util.find_spec("plotly") is not None
        # The report command draws vectors too, which takes as long again.
        formats = ("png",) if self.figures else ()
        try:
            entries, damaged = whole(entries, plan)
            if not gather(plan, entries):
                for sentence in damaged or [NOTHING]:
                    self._say(sentence)
                return
            remarks = [f"{label} failed: {reason}" for label, reason in result.failed.items()]
            source = source_of(folder, [*remarks, *damaged])
            report = write_report([source], folder / FOLDER, page, formats)
        except OSError as error:
            raise StorageError(
                f"folder: {folder} can't be written: {error.strerror or error}. The runs are "
                "stored; make room, and the same command writes tables and figures."
            ) from error
        summary = report.summaries[0]
        written = [records.STEPS, records.EXAMPLES, *(f"{FOLDER}/{file}" for file in report.files)]
        # Results go to standard output; a file or pipe has no width that columns must fit.
        out = Console()
        if not out.is_terminal:
            out = Console(width=160)
        drawn = terminal.curves(source.records)
        if drawn is not None:
            out.print(drawn)
        parts: list[Summary | Section] = [summary, *summary.sections]
        for part in parts:
            if part.renderable is not None:
                out.print(part.renderable)
            for line in part.findings:
                out.print(line, highlight=False, markup=False, soft_wrap=True)
        text = f"Written to {folder}: {', '.join(written)}"
        out.print(visible(text), highlight=False, markup=False, soft_wrap=True)
        if report.page is not None:
            text = f"Open {visible(str(report.page))} in a browser."
        elif self.figures:
            text = (
                'The page is left out: it needs plotly (pip install "lightning-unlearn[figures]").'
            )
        else:
            older = " anew" if (folder / FOLDER / "index.html").exists() else ""
            text = f"To draw figures and page{older}: lightning-unlearn report {folder}"
        out.print(visible(text), highlight=False, markup=False, soft_wrap=True)
