"""The interface of executors."""

from collections.abc import Callable, Sequence
from typing import Protocol

from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.task_queue import TaskResult

Report = Callable[[TaskResult], None]


class Executor(Protocol):
    """Makes tasks; in what order and where is its own affair.

    Attributes:
        workers: how many tasks are made at a time.
    """

    workers: int

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that reports and writes."""

    def plan(self) -> StudyPlan:
        """The study's tree, made where the work is done.

        Raises:
            InputError: for whatever a run would refuse before it trains.
        """

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """Make tasks, and report each when it is made or can't be.

        Args:
            tasks: parents before children; a parent that is not among them is made already.
            report: called once per task, in this process.

        Raises:
            StorageError: if results can't be written, which would happen to all others too.
            KeyboardInterrupt: after the work in progress has stopped.
        """

    def close(self) -> None:
        """Let go of all processes."""
