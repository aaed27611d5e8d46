"""Run of a study: runs its tasks, then writes tables and figures."""

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
from lightning_unlearn.study.results import collect_records, finished, undamaged
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_queue import TaskResult
from lightning_unlearn.study.task_runner import TaskRunner
from lightning_unlearn.study.tree_view import draw
from lightning_unlearn.training.progress import StageProgress, make_progress

NOTHING = (
    "No tables are written: trainer.callbacks has no monitor, so there are no results. Add a "
    "monitor to trainer.callbacks."
)


@dataclass
class StudyResult:
    """Result of a study.

    Attributes:
        folder: folder of tables and figures.
        runs: folders of the finished runs, in the order of the trials.
        failed: error messages of failed and skipped tasks, by name of the task.
    """

    folder: Path
    runs: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Study:
    """Runs of all paths, methods, seeds and settings on one base model, and their oracles.

    Args:
        spec: the study.
        executor: runs the tasks; None runs them in this process.
        console: prints progress; None prints to standard error.
        figures: whether to draw figures and the report page at the end; tables are always written.

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
        """Return the plan of the study, after all checks of its runs.

        Raises:
            InputError: for any mistake that a run would report before training.
        """
        if self._plan is None:
            self._plan = self.executor.plan()
        return self._plan

    def show(self, only: str | None = None) -> None:
        """Print the plan as a tree, without training or writing anything.

        Args:
            only: conditions that select trials, see `StudyPlan.select`.
        """
        trials = self.plan.select(only)
        tasks = self.plan.needed(trials)
        store = StageStore(self.plan.store, report=self._say)
        store.report_unused()
        stored = {task.key for task in tasks if store.has(task.key)}
        out = Console()
        out.print(draw(self.plan, trials, stored), highlight=False)
        for remark in self.plan.remarks:
            out.print(remark, highlight=False, markup=False)
        chosen = f" of {len(self.plan.trials)}" if only is not None else ""
        out.print(
            f"{len(trials)}{chosen} trials; {len(stored)} of {len(tasks)} tasks are in the store.",
            highlight=False,
        )

    def run(self, only: str | None = None) -> StudyResult:
        """Run the tasks that are not stored yet, then write records, tables and figures.

        A task that fails is reported, and the other tasks continue.

        Args:
            only: conditions that select trials, see `StudyPlan.select`. The tables contain all
                finished trials, also those of earlier commands.

        Returns:
            Folders and failures.

        Raises:
            InputError: for any mistake that a run would report before training.
            StorageError: if results cannot be written; the store is intact.
            KeyboardInterrupt: if a signal stopped the study.
        """
        try:
            plan = self.plan
            tasks = plan.needed(plan.select(only))
            left = self._left(tasks)
            folder = Path(plan.folder)
            result = StudyResult(folder)
            if self.executor.is_first_process:
                if left:
                    # Check the store before writing anything else.
                    StageStore(plan.store).check_writable()
                self._announce(plan, tasks, left)
                self._write_plan(plan, folder)
                self._curves = DivergenceCurves(plan, self._say)
                self._curves.begin()
            if left:
                self._work(plan, left, result)
        finally:
            self.executor.close()
        # Sort the failures in the order of the plan.
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
        """Return the tasks that are not finished, after checking the entries of the store."""
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
            self._say(f"{len(tasks) - len(left)} of {len(tasks)} tasks are in the store already.")
        if self.figures and importlib.util.find_spec("matplotlib") is None:
            self._say(
                "Figures are left out because matplotlib is missing. Install it with: "
                'pip install "lightning-unlearn[figures]"'
            )

    def _write_plan(self, plan: StudyPlan, folder: Path) -> None:
        try:
            plan.write(folder)
        except OSError as error:
            raise StorageError(
                f"folder: {folder} cannot be written: {error.strerror or error}. Free disk space, "
                "or set folder to another one."
            ) from error

    def _work(self, plan: StudyPlan, left: list[Task], result: StudyResult) -> None:
        """Run the remaining tasks with the executor, and print the result of each."""
        polls = not isinstance(self.executor, InProcessExecutor)
        with self.progress:
            display = Display(self.progress, plan, left, self.executor.workers, polls)

            def report(finished_task: TaskResult) -> None:
                place = display.place
                rest = display.close(finished_task)
                self._print_result(plan, finished_task, place, rest, result)

            try:
                self.executor.run(left, report)
            except KeyboardInterrupt as stop:
                if not str(stop):
                    count = f"{display.finished} of {len(left)} tasks are finished"
                    text = f"stopped: {count}. Run the same command again to resume."
                    raise type(stop)(text) from None
                raise
            finally:
                display.stop()

    def _print_result(
        self, plan: StudyPlan, task: TaskResult, place: str, rest: str, result: StudyResult
    ) -> None:
        label = plan.label(plan.task[task.key])
        for message in task.messages:
            self._say(message)
        if task.state == "done":
            how = f"{task.seconds:.1f} s" if task.ran else "found in the store"
            # On a terminal the progress bar shows the remaining time.
            rest = f", {rest}" if rest and not self.console.is_terminal else ""
            text = f"[green]✓[/] {place}{escape(label)} ({how}{rest})"
            self.console.print(text, highlight=False)
            if self._curves is not None:
                self._curves.add(task.key)
            return
        result.failed[label] = task.error
        why = "skipped: a task it depends on failed: " if task.state == "skipped" else ""
        self.console.print(f"[red]✗[/] {place}{escape(label)}: {why}{escape(visible(task.error))}")
        if task.trace:
            self.console.print(escape(visible(task.trace, lines=True)), highlight=False)

    def _report(self, plan: StudyPlan, entries: dict[str, Path], result: StudyResult) -> None:
        """Write tables, figures and page of all finished runs, and print the findings."""
        from lightning_unlearn.report import terminal
        from lightning_unlearn.report.write import FOLDER, write_report
        from lightning_unlearn.study.report_source import source_of

        folder = result.folder
        page = self.figures and importlib.util.find_spec("plotly") is not None
        # The report command also draws vector graphics, which takes the same time again.
        formats = ("png",) if self.figures else ()
        try:
            entries, damaged = undamaged(entries, plan)
            if not collect_records(plan, entries):
                for sentence in damaged or [NOTHING]:
                    self._say(sentence)
                return
            remarks = [f"{label} failed: {reason}" for label, reason in result.failed.items()]
            source = source_of(folder, [*remarks, *damaged])
            report = write_report([source], folder / FOLDER, page, formats)
        except OSError as error:
            raise StorageError(
                f"folder: {folder} cannot be written: {error.strerror or error}. All runs are "
                "stored. Free disk space and run the same command again to write tables and "
                "figures."
            ) from error
        summary = report.summaries[0]
        written = [records.STEPS, records.EXAMPLES, *(f"{FOLDER}/{file}" for file in report.files)]
        # Results go to standard output; a file or pipe gets a fixed width.
        out = Console()
        if not out.is_terminal:
            out = Console(width=160)
        drawn = terminal.curves(source.records)
        if drawn is not None:
            out.print(drawn)
        for part in [summary, *summary.sections]:
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
                "The page is left out because plotly is missing. Install it with: "
                'pip install "lightning-unlearn[figures]"'
            )
        else:
            again = " again" if (folder / FOLDER / "index.html").exists() else ""
            text = f"To draw figures and page{again}: lightning-unlearn report {folder}"
        out.print(visible(text), highlight=False, markup=False, soft_wrap=True)
