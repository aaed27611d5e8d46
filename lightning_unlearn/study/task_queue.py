"""Order of the tasks of a study: a task can run when the tasks it needs are finished."""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_unlearn.errors import DivergedError, InputError, Unfinished
from lightning_unlearn.study.plan import Task

State = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class TaskResult:
    """Result of a task.

    Attributes:
        key: key of the task.
        state: "done"; "failed"; or "skipped" because a task it needs failed.
        seconds: duration of the task.
        ran: whether the task trained or evaluated anything; False if its entry was stored already.
        error: error message of a failed or skipped task.
        trace: traceback, if the error may be a defect of the program.
        messages: messages for the user from the task.
    """

    key: str
    state: State
    seconds: float = 0.0
    ran: bool = True
    error: str = ""
    trace: str = ""
    messages: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "TaskResult":
        """Return the result from its ``asdict``, as another process sends it."""
        return cls(**{**values, "messages": tuple(values["messages"])})


def failure(key: str, error: BaseException, seconds: float = 0.0) -> TaskResult:
    """Return the result of a task that raised an exception."""
    known = isinstance(error, (InputError, DivergedError, Unfinished))
    text = str(error) or type(error).__name__
    trace = "" if known else "".join(traceback.format_exception(error))
    return TaskResult(key, "failed", seconds, error=text, trace=trace)


class TaskQueue:
    """The unfinished tasks of a study.

    Args:
        tasks: the tasks, each after the tasks it needs. A needed task that is not among them is
            finished already.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = {task.key: task for task in tasks}
        self._open = set(self._waiting)

    @property
    def is_over(self) -> bool:
        """Return whether no task is waiting or running."""
        return not self._open

    def ready(self) -> list[Task]:
        """Return the waiting tasks that can run now, in order."""
        return [task for task in self._waiting.values() if self._open.isdisjoint(task.needs)]

    def take(self, key: str) -> None:
        """Remove a task from the waiting tasks, because it starts to run."""
        del self._waiting[key]

    def give_back(self, task: Task) -> None:
        """Put a task back as the first waiting task, because its worker died."""
        self._waiting = {task.key: task, **self._waiting}

    def close(self, result: TaskResult) -> list[TaskResult]:
        """Finish a task that was taken.

        Args:
            result: result of the task.

        Returns:
            The results of the tasks that are skipped because this task failed.
        """
        self._open.discard(result.key)
        skipped: list[TaskResult] = []
        if result.state == "failed":
            lost = {result.key}
            for task in list(self._waiting.values()):
                if not lost.isdisjoint(task.needs):
                    lost.add(task.key)
                    del self._waiting[task.key]
                    self._open.discard(task.key)
                    skipped.append(TaskResult(task.key, "skipped", error=result.error))
        return skipped
