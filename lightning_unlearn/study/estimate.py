"""How long the rest of a study takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_unlearn.study.plan import StudyPlan, Task


@dataclass
class Estimate:
    """How long the rest of a study takes, from how long its parts took.

    Attributes:
        plan: the study.
        seconds: how long tasks took, by key.
    """

    plan: StudyPlan
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, task: Task) -> float | None:
        """Seconds that a task will take; None as long as nothing tells.

        Like the mean of tasks of the same stage and method; else by its tokens, at the speed of
        the trainings that are known.
        """
        return self._speeds()(task)

    def _speeds(self) -> Callable[[Task], float | None]:
        """`of`, for many tasks: what is known is looked through once."""
        alike: dict[tuple[Any, ...], list[float]] = {}
        tokens, trained = 0, 0.0
        for key, seconds in self.seconds.items():
            alike.setdefault(self._kind(key), []).append(seconds)
            if self.plan.task[key].tokens:
                tokens += self.plan.task[key].tokens
                trained += seconds

        def of(task: Task) -> float | None:
            if known := alike.get(self._kind(task.key)):
                return sum(known) / len(known)
            return task.tokens * trained / tokens if tokens else None

        return of

    def _kind(self, key: str) -> tuple[Any, ...]:
        task = self.plan.task[key]
        trial = self.plan.trials[task.trial]
        return task.stage, task.tokens, trial.method if task.is_run else None

    def left(
        self, tasks: Sequence[Task], begun: Mapping[str, float] | None = None, workers: int = 1
    ) -> float | None:
        """Seconds until all of some tasks are made.

        Args:
            tasks: those that are not made yet.
            begun: share that is done, by key.
            workers: how many are made at a time, where the tree allows it.

        Returns:
            Seconds; None as long as nothing tells.
        """
        cost: dict[str, float] = {}
        of = self._speeds()
        for task in tasks:
            whole = of(task)
            if whole is None:
                return None
            cost[task.key] = whole * (1 - (begun or {}).get(task.key, 0.0))
        finish: dict[str, float] = {}
        for task in tasks:
            begins = max((finish.get(key, 0.0) for key in task.needs), default=0.0)
            finish[task.key] = cost[task.key] + begins
        return max(sum(cost.values()) / workers, max(finish.values(), default=0.0))
