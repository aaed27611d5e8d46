"""PathHistory: the models of a path that a path-aware method may use, as expressions.

A method adds and scales models of the history. The expression is made twice from the same code:
when a run is planned, it says which models have to be trained and stored; when the run is made, it
says what the result is. Nothing is read or computed here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_unlearn.errors import InputError


@dataclass(frozen=True)
class Link:
    """One trained stage of a model of the history.

    Attributes:
        name: name of the stage.
        steps: train only the first n global batches of the stage's own order, with the schedule of
            n steps; None for all.
        upto: stop after this step of the training, with the schedule of all its steps; None for
            the end.
    """

    name: str
    steps: int | None = None
    upto: int | None = None

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.name} ({self.steps} steps)"
        return self.name if self.upto is None else f"{self.name} (to step {self.upto})"


@dataclass(frozen=True)
class Frozen:
    """A sum of models from which a model of the history starts.

    The sum does not change any more: the following stages train a new adapter on it. Without
    adapters they train all weights.

    Attributes:
        terms: see `Weights`.
    """

    terms: "tuple[tuple[Chain, float], ...]"

    def __str__(self) -> str:
        return "sum"


# The stages that a model was trained on, in order; () for the model from which the path starts.
Chain = tuple[Link | Frozen, ...]


def chain_name(chain: Chain) -> str:
    """Return the name of a model for messages, such as "inst-tofu (to step 5)"."""
    return "-".join(map(str, chain)) or "the model before the first stage"


@dataclass(frozen=True)
class Weights:
    """A sum of models of the history, each with a coefficient.

    Expressions with ``+``, ``-`` and ``*`` of a number give such a sum; coefficients of one model
    are added. The coefficients of a result sum to 1: differences of models, added to a model.

    Attributes:
        terms: the models with their coefficients, none of them 0.
    """

    terms: tuple[tuple[Chain, float], ...]

    def __add__(self, other: "Weights") -> "Weights":
        summed: dict[Chain, float] = {}
        for chain, coefficient in (*self.terms, *other.terms):
            summed[chain] = summed.get(chain, 0.0) + coefficient
        return Weights(tuple((chain, value) for chain, value in summed.items() if value != 0))

    def __neg__(self) -> "Weights":
        return -1.0 * self

    def __sub__(self, other: "Weights") -> "Weights":
        return self + -other

    def __mul__(self, factor: float) -> "Weights":
        scaled = ((chain, factor * value) for chain, value in self.terms)
        return Weights(tuple((chain, value) for chain, value in scaled if value != 0))

    __rmul__ = __mul__

    @property
    def is_affine(self) -> bool:
        """Whether the coefficients sum to 1."""
        total = sum(value for _, value in self.terms)
        return math.isclose(total, 1.0, abs_tol=1e-9)


@dataclass(frozen=True)
class HistoryModel(Weights):
    """One model of the history, read-only.

    A method whose result is one model gives that model itself, bit for bit.
    """

    @property
    def chain(self) -> Chain:
        """The stages that it was trained on, in order."""
        return self.terms[0][0]


class PathHistory:
    """The models of a path, before unlearning, by the stages that they have learned.

    Args:
        path: the stages that the model has learned before unlearning, in order.
        forget: the forget stage.
        steps: optimizer steps of each stage of the path that is trained here.

    Attributes:
        path: see above.
        forget: see above.
    """

    def __init__(self, path: Sequence[str], forget: str, steps: Mapping[str, int]) -> None:
        self.path = tuple(path)
        self.forget = forget
        self._steps = dict(steps)

    @property
    def end(self) -> HistoryModel:
        """The model after the last stage of the path, which is to be unlearned."""
        return self.trained(*self.path)

    @property
    def later(self) -> tuple[str, ...]:
        """The stages after the forget stage."""
        return self.path[self._place(self.forget) + 1 :]

    def before(self, stage: str) -> HistoryModel:
        """Return the model before a stage of the path."""
        return self.trained(*self.path[: self._place(stage)])

    def after(self, stage: str) -> HistoryModel:
        """Return the model after a stage of the path."""
        return self.trained(*self.path[: self._place(stage) + 1])

    def alone(self, stage: str) -> HistoryModel:
        """Return the model that was trained on one stage only, from the start of the path."""
        return self.trained(stage)

    def at(self, stage: str, step: int) -> HistoryModel:
        """Return the model after some optimizer steps of a stage of the path.

        Args:
            stage: a stage of the path.
            step: from 0, which is the model before the stage, to the steps of the stage.

        Raises:
            InputError: if the stage has fewer steps.
        """
        return self.trained(*self.path[: self._place(stage) + 1], upto=step)

    def without(self, stage: str, fraction: float = 1.0) -> HistoryModel:
        """Return the model of the path without one stage; without the forget stage, the oracle.

        Args:
            stage: a stage of the path.
            fraction: share of the global batches of each later stage to train on, rounded up.
        """
        place = self._place(stage)
        chain = [Link(name) for name in self.path[:place]]
        chain += [self._first_part(name, fraction) for name in self.path[place + 1 :]]
        return _model(chain)

    def continued(self, start: Weights, fraction: float = 1.0) -> Weights:
        """Return a sum of models, trained on the stages after the forget stage.

        Args:
            start: the sum, which stays as it is: a new adapter is trained.
            fraction: share of the global batches of each stage to train on, rounded up.

        Returns:
            One model; ``start`` itself if the forget stage is the last one.
        """
        links = [self._first_part(name, fraction) for name in self.later]
        return _model([Frozen(start.terms), *links]) if links else start

    def _first_part(self, stage: str, fraction: float) -> Link:
        total = self.steps(stage) if fraction < 1 else 0
        count = math.ceil(fraction * total)
        return Link(stage, None if count == total else count)

    def trained(self, *stages: str, upto: int | None = None) -> HistoryModel:
        """Return the model that was trained on stages one after the other.

        Args:
            stages: names of stages of the path, in any order; a stage may appear twice.
            upto: optimizer steps of the last stage; None for all.

        Raises:
            InputError: if a stage is not on the path, or has fewer steps.
        """
        for name in stages:
            self._place(name)
        if upto is None:
            return _model([Link(name) for name in stages])
        total = self.steps(stages[-1])
        if not 0 <= upto <= total:
            raise InputError(
                f"step {upto} of stage {stages[-1]!r} was requested, expected 0 to {total}, the "
                "optimizer steps of the stage."
            )
        chain = [Link(name) for name in stages[:-1]]
        if upto:
            chain.append(Link(stages[-1], None, None if upto == total else upto))
        return _model(chain)

    def steps(self, stage: str) -> int:
        """Return the number of optimizer steps of a stage of the path.

        Raises:
            InputError: if the stage was trained elsewhere.
        """
        self._place(stage)
        if stage not in self._steps:
            raise InputError(
                f"the steps of stage {stage!r} were requested, but it is in data.learned: it was "
                "trained elsewhere."
            )
        return self._steps[stage]

    def _place(self, stage: str) -> int:
        if stage not in self.path:
            raise InputError(
                f"the stage {stage!r} was requested, expected one of the path: "
                f"{', '.join(self.path)}."
            )
        return self.path.index(stage)


def _model(chain: Sequence[Link | Frozen]) -> HistoryModel:
    return HistoryModel(((tuple(chain), 1.0),))
