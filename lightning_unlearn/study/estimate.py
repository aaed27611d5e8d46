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
        seconds: how long nodes took, by key.
    """

    plan: StudyPlan
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, node: Task) -> float | None:
        """Seconds that a node will take; None as long as nothing tells.

        Like the mean of nodes of the same stage and method; else by its tokens, at the speed of
        the trainings that are known.
        """
        return self._speeds()(node)

    def _speeds(self) -> Callable[[Task], float | None]:
        """`of`, for many nodes: what is known is looked through once."""
        alike: dict[tuple[Any, ...], list[float]] = {}
        tokens, trained = 0, 0.0
        for key, seconds in self.seconds.items():
            alike.setdefault(self._kind(key), []).append(seconds)
            if self.plan.node[key].tokens:
                tokens += self.plan.node[key].tokens
                trained += seconds

        def of(node: Task) -> float | None:
            if known := alike.get(self._kind(node.key)):
                return sum(known) / len(known)
            return node.tokens * trained / tokens if tokens else None

        return of

    def _kind(self, key: str) -> tuple[Any, ...]:
        node = self.plan.node[key]
        cell = self.plan.cells[node.cell]
        return node.stage, node.tokens, cell.method if node.is_run else None

    def left(
        self, nodes: Sequence[Task], begun: Mapping[str, float] | None = None, workers: int = 1
    ) -> float | None:
        """Seconds until all of some nodes are made.

        Args:
            nodes: those that are not made yet.
            begun: share that is done, by key.
            workers: how many are made at a time, where the tree allows it.

        Returns:
            Seconds; None as long as nothing tells.
        """
        cost: dict[str, float] = {}
        of = self._speeds()
        for node in nodes:
            whole = of(node)
            if whole is None:
                return None
            cost[node.key] = whole * (1 - (begun or {}).get(node.key, 0.0))
        finish: dict[str, float] = {}
        for node in nodes:
            begins = max((finish.get(key, 0.0) for key in node.needs), default=0.0)
            finish[node.key] = cost[node.key] + begins
        return max(sum(cost.values()) / workers, max(finish.values(), default=0.0))
