"""The order of the tree: a node can be made when what it starts from is made."""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_unlearn.errors import DivergedError, InputError, Unfinished
from lightning_unlearn.study.plan import Task

State = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class TaskResult:
    """How the making of a node ended.

    Attributes:
        key: of the node.
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
    """The outcome of a node in whose making an exception was raised."""
    known = isinstance(error, (InputError, DivergedError, Unfinished))
    text = str(error) or type(error).__name__
    trace = "" if known else "".join(traceback.format_exception(error))
    return TaskResult(key, "failed", seconds, error=text, trace=trace)


class TaskQueue:
    """The nodes that are still to be made.

    Args:
        nodes: each after those it needs. What is needed and not among them is made already.
    """

    def __init__(self, nodes: Iterable[Task]) -> None:
        self._waiting = {node.key: node for node in nodes}
        self._open = set(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether no node is left, neither waiting nor in the making."""
        return not self._open

    def ready(self) -> list[Task]:
        """The nodes that can be made now and that nobody has taken, in order."""
        return [node for node in self._waiting.values() if self._open.isdisjoint(node.needs)]

    def take(self, key: str) -> None:
        """Somebody makes a node now."""
        del self._waiting[key]

    def give_back(self, node: Task) -> None:
        """Whoever made it is gone; it is the first in turn."""
        self._waiting = {node.key: node, **self._waiting}

    def close(self, outcome: TaskResult) -> list[TaskResult]:
        """A node that was taken is made, or can't be.

        Args:
            outcome: how it ended.

        Returns:
            The outcomes of nodes that can't be made for that reason.
        """
        self._open.discard(outcome.key)
        skipped: list[TaskResult] = []
        if outcome.state == "failed":
            lost = {outcome.key}
            for node in list(self._waiting.values()):
                if not lost.isdisjoint(node.needs):
                    lost.add(node.key)
                    del self._waiting[node.key]
                    self._open.discard(node.key)
                    skipped.append(TaskResult(node.key, "skipped", error=outcome.error))
        return skipped
