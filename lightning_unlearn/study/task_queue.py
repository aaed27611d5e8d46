"""The order of the tree: a task can be made when what it starts from is made."""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_unlearn.errors import DivergedError, InputError, Unfinished
from lightning_unlearn.study.plan import Task

State = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class TaskResult:
    """How the making of a task ended.

    Attributes:
        key: of the task.
        state: "done"; "failed"; or "skipped", for something it needs failed.
        seconds: how long it took.
        made: whether anything had to be trained or measured.
        error: what went wrong.
        trace: where, if the mistake may be the program's.
        said: sentences for the user that came up.
    """

    key: str
    state: State
    seconds: float = 0.0
    made: bool = True
    error: str = ""
    trace: str = ""
    said: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "TaskResult":
        """The outcome from its ``asdict``, as another process sends it."""
        return cls(**{**values, "said": tuple(values["said"])})


def failure(key: str, error: BaseException, seconds: float = 0.0) -> TaskResult:
    """The outcome of a task in whose making an exception was raised."""
    known = isinstance(error, (InputError, DivergedError, Unfinished))
    text = str(error) or type(error).__name__
    trace = "" if known else "".join(traceback.format_exception(error))
    return TaskResult(key, "failed", seconds, error=text, trace=trace)


class TaskQueue:
    """The tasks that are still to be made.

    Args:
        tasks: each after those it needs. What is needed and not among them is made already.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = {task.key: task for task in tasks}
        self._open = set(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether no task is left, neither waiting nor in the making."""
        return not self._open

    def ready(self) -> list[Task]:
        """The tasks that can be made now and that nobody has taken, in order."""
        return [task for task in self._waiting.values() if self._open.isdisjoint(task.needs)]

    def take(self, key: str) -> None:
        """Somebody makes a task now."""
        del self._waiting[key]

    def give_back(self, task: Task) -> None:
        """Whoever made it is gone; it is the first in turn."""
        self._waiting = {task.key: task, **self._waiting}

    def close(self, outcome: TaskResult) -> list[TaskResult]:
        """A task that was taken is made, or can't be.

        Args:
            outcome: how it ended.

        Returns:
            The outcomes of tasks that can't be made for that reason.
        """
        self._open.discard(outcome.key)
        skipped: list[TaskResult] = []
        if outcome.state == "failed":
            lost = {outcome.key}
            for task in list(self._waiting.values()):
                if not lost.isdisjoint(task.needs):
                    lost.add(task.key)
                    del self._waiting[task.key]
                    self._open.discard(task.key)
                    skipped.append(TaskResult(task.key, "skipped", error=outcome.error))
        return skipped
