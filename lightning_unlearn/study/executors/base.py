"""The interface of executors."""

from collections.abc import Callable, Sequence
from typing import Protocol

from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.task_queue import TaskResult

Report = Callable[[TaskResult], None]


class Executor(Protocol):
    """Runs tasks; each executor chooses order and place.

    Attributes:
        workers: number of tasks that run at the same time.
    """

    workers: int

    @property
    def is_first_process(self) -> bool:
        """Return whether this process is the one that reports and writes."""

    def plan(self) -> StudyPlan:
        """Return the plan of the study, made by a process that runs tasks.

        Raises:
            InputError: for any mistake that a run would report before training.
        """

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """Run tasks, and report each result.

        Args:
            tasks: parents before children; a parent that is not among them is finished already.
            report: called once per task, in this process.

        Raises:
            StorageError: if results cannot be written; all other tasks would fail too.
            KeyboardInterrupt: after the running tasks have stopped.
        """

    def close(self) -> None:
        """End all worker processes."""
