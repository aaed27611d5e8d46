"""How a study came about: its tree of tasks, what is recorded of it, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Branch:
    """A trained stage, or the runs on top of one, in the tree of a study.

    Attributes:
        text: the stage, or the methods.
        done: how many of its tasks are done.
        tasks: how many there are.
        paths: how many paths go through it.
        seconds: of its tasks together; None where none is known.
        is_run: whether runs end here.
        below: what starts from it.
    """

    text: str
    done: int
    tasks: int
    paths: int
    seconds: float | None = None
    is_run: bool = False
    below: list[Branch] = field(default_factory=list)

    @property
    def longest(self) -> float:
        """The most seconds of a branch of this tree; 0 where none is known."""
        return max([self.seconds or 0.0, *(branch.longest for branch in self.below)])


@dataclass(frozen=True)
class Cost:
    """What the tasks of one kind took.

    Attributes:
        kind: a stage, or a method.
        done: how many tasks are done.
        seconds: of wall time of each task that has it recorded.
        tokens: that passed through training, of all tasks; None where it is not known.
        memory: peak bytes of each task that has it recorded.
    """

    kind: str
    done: int
    seconds: Sequence[float] = ()
    tokens: int | None = None
    memory: Sequence[float] = ()


@dataclass(frozen=True)
class Provenance:
    """How a study came about.

    Attributes:
        plan: its tree, in a sentence.
        trees: its stages by seed: a heading, and what starts from the base model.
        facts: what is recorded, by name.
        costs: by kind of task.
        configuration: of one run, as YAML; "" where there is none.
        run: folder of that run.
    """

    plan: str = ""
    trees: Sequence[tuple[str, Sequence[Branch]]] = ()
    facts: Sequence[tuple[str, str]] = ()
    costs: Sequence[Cost] = ()
    configuration: str = ""
    run: str = ""
