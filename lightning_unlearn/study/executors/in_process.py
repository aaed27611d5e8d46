"""The work of a study in this process, task by task."""

import time
from collections.abc import Sequence

from lightning_unlearn.errors import StorageError
from lightning_unlearn.study.executors.base import Report
from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.task_queue import TaskQueue, TaskResult, failure
from lightning_unlearn.study.task_runner import TaskRunner
from lightning_unlearn.training.progress import StageProgress


class InProcessExecutor:
    """Makes tasks one after the other.

    What another process is making is left for later: two studies on one store share the work.

    Args:
        bench: makes a task.
        bar: shows how far it is; None shows nothing.
    """

    workers = 1

    def __init__(self, bench: TaskRunner, bar: StageProgress | None = None) -> None:
        self.bench = bench
        self.bar = bar

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.bench.is_first_process

    def plan(self) -> StudyPlan:
        """See `Executor`."""
        return self.bench.plan()

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """See `Executor`."""
        if self.bench.processes > 1:
            # What another process finished in between, some of ours may have seen and some not.
            keys = set(self.bench.agree([task.key for task in tasks]))
            tasks = [task for task in self.plan().tasks if task.key in keys]
        frontier = TaskQueue(tasks)
        while not frontier.is_over:
            task = self._next(frontier)
            frontier.take(task.key)
            outcome = self._make(task)
            report(outcome)
            for skipped in frontier.close(outcome):
                report(skipped)

    def _next(self, frontier: TaskQueue) -> Task:
        ready = {task.key: task for task in frontier.ready()}
        free = (key for key in ready if not self.bench.store.is_locked(key))
        return ready[self.bench.agree(next(free, next(iter(ready))))]

    def _make(self, task: Task) -> TaskResult:
        began = time.monotonic()
        try:
            made = self.bench.make(task.key, self.bar)
        except StorageError:
            raise
        except Exception as error:
            # Whatever broke this task, the others are worth having.
            return failure(task.key, error, time.monotonic() - began)
        return TaskResult(task.key, "done", time.monotonic() - began, made)

    def close(self) -> None:
        """Nothing to let go of."""
