"""Estimate of the time that the rest of a study takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_unlearn.study.plan import StudyPlan, Task


@dataclass
class Estimate:
    """Estimate of remaining time from the durations of finished tasks.

    Attributes:
        plan: the study.
        seconds: durations of finished tasks in seconds, by key.
    """

    plan: StudyPlan
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, task: Task) -> float | None:
        """Estimate the duration of a task.

        The estimate is the mean duration of finished tasks of the same stage and method. If there
        are none, it is the task's number of tokens times the mean time per token of the finished
        trainings.

        Returns:
            Seconds; None while no finished task allows an estimate.
        """
        return self._estimator()(task)

    def _estimator(self) -> Callable[[Task], float | None]:
        """Return the function `of` for many tasks; it reads the durations once."""
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
        """Estimate the time until the given tasks are finished.

        Args:
            tasks: unfinished tasks, each after the tasks it needs.
            begun: finished fraction of running tasks, by key.
            workers: maximum number of tasks that run at the same time.

        Returns:
            Seconds; None while no finished task allows an estimate.
        """
        cost: dict[str, float] = {}
        of = self._estimator()
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
