"""Executor that runs the tasks of a study in this process, one after the other."""

import time
from collections.abc import Sequence

from lightning_unlearn.errors import StorageError
from lightning_unlearn.study.executors.base import Report
from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.task_queue import TaskQueue, TaskResult, failure
from lightning_unlearn.study.task_runner import TaskRunner
from lightning_unlearn.training.progress import StageProgress


class InProcessExecutor:
    """Runs tasks one after the other.

    A task that another process is running is left for later, so two studies share one store.

    Args:
        runner: runs a task.
        bar: progress bar; None for none.
    """

    workers = 1

    def __init__(self, runner: TaskRunner, bar: StageProgress | None = None) -> None:
        self.runner = runner
        self.bar = bar

    @property
    def is_first_process(self) -> bool:
        """Return whether this process is the one that reports and writes."""
        return self.runner.is_first_process

    def plan(self) -> StudyPlan:
        """See `Executor`."""
        return self.runner.plan()

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """See `Executor`."""
        if self.runner.processes > 1:
            # All processes must run the same tasks: one may have seen an entry of another study
            # that the others did not see yet.
            keys = set(self.runner.agree([task.key for task in tasks]))
            tasks = [task for task in self.plan().tasks if task.key in keys]
        waiting = TaskQueue(tasks)
        while not waiting.is_over:
            task = self._next(waiting)
            waiting.take(task.key)
            result = self._run_task(task)
            report(result)
            for skipped in waiting.close(result):
                report(skipped)

    def _next(self, waiting: TaskQueue) -> Task:
        ready = {task.key: task for task in waiting.ready()}
        free = (key for key in ready if not self.runner.store.is_locked(key))
        return ready[self.runner.agree(next(free, next(iter(ready))))]

    def _run_task(self, task: Task) -> TaskResult:
        began = time.monotonic()
        try:
            ran = self.runner.make(task.key, self.bar)
        except StorageError:
            raise
        except Exception as error:
            # An error of one task must not stop the others.
            return failure(task.key, error, time.monotonic() - began)
        return TaskResult(task.key, "done", time.monotonic() - began, ran)

    def close(self) -> None:
        """Do nothing: there are no worker processes."""
