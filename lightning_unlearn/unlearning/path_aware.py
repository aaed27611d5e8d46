"""Base class of path-aware methods, which compute their result from the history of the path."""

from typing import Any

from torch import Tensor

from lightning_unlearn.data.batches import Batch
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.storage.path_history import PathHistory, Weights
from lightning_unlearn.unlearning.base import Unlearning

# Larger factors of an update would lose the model that they are added to, by rounding.
LARGEST_FACTOR = 1000.0


def check_factor(key: str, value: float) -> None:
    """Refuse a factor of an update that no sum can be computed with.

    Args:
        key: of the factor, for the message.
        value: the factor.

    Raises:
        InputError: with the key.
    """
    if not -LARGEST_FACTOR <= value <= LARGEST_FACTOR:
        raise InputError(
            f"{key}: found {value}, expected a number from {-LARGEST_FACTOR:g} to "
            f"{LARGEST_FACTOR:g}."
        )


class PathAware(Unlearning):
    """An unlearning method that sees the history of the path, for ``trainer.callbacks``.

    Subclass it and write `unlearned`, which returns the unlearned model as a sum of models of the
    history; no registry and no other edit is needed. A run of such a method does this:

    1. The plan calls `unlearned` and lists the models that the sum names. A model whose stages are
       on the path, or that another run has trained (such as an oracle), has its entry in the stage
       store already; the others are planned as stages of their own, before unlearning, and trained
       once. Their keys, and the identity of the method, are in the key of the result.
    2. The stages of the path and of the history are trained, stored and resumed like any stage.
    3. The monitors evaluate the model before unlearning, as step 0. The sum is computed without an
       optimizer step, and the monitors evaluate it as step 1. What it costs are the steps of the
       history, which ``run.json`` lists.

    The result is stored and exported as that of any method. With LoRA a sum becomes the adapter
    ``unlearn`` on top of ``learn``: its rank is the sum of the ranks of its parts, or ``rank``. A
    method that returns one model gives its ``learn``, and an ``unlearn`` without effect. Without
    LoRA the result is that of all weights. ``data.unlearn`` is not used.

    Args:
        rank: rank of the adapter ``unlearn``, by singular value decomposition of each layer's
            update; the relative error is printed and stored. Null keeps the exact sum.
    """

    uses_reference = False
    # An attribute of the class, so that a method without it keeps its identity.
    rank: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.unlearned is PathAware.unlearned:
            raise TypeError(
                f"{cls.__name__}: found a path-aware method without unlearned(self, history), "
                "expected that it defines it."
            )

    def __init__(self, rank: int | None = None) -> None:
        super().__init__()
        if rank is not None and rank < 1:
            raise InputError(
                f"{type(self).__name__}.rank: found {rank}, expected at least 1, or null."
            )
        if rank is not None:
            self.rank = rank

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the unlearned model.

        Args:
            history: the models of the path.

        Returns:
            One model, such as ``history.without(history.forget)``, or a sum whose coefficients add
            up to 1, such as ``history.end - alpha * (history.after(s) - history.before(s))``.
        """
        raise NotImplementedError

    def result(self, history: PathHistory) -> Weights:
        """Return `unlearned`, checked.

        Raises:
            InputError: for a stage or step that the path does not have.
            TypeError: if the coefficients do not sum to 1.
        """
        name = type(self).__name__
        try:
            found = self.unlearned(history)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if not isinstance(found, Weights):
            raise TypeError(
                f"{name}.unlearned: found {type(found).__name__}, expected a model of the history "
                "or a sum of such models."
            )
        if not found.is_affine:
            total = sum(value for _, value in found.terms)
            raise TypeError(
                f"{name}.unlearned: found coefficients with the sum {total:g}, expected 1: a model "
                "plus differences of models."
            )
        return found

    def check(self, model: CausalLM, data: Any) -> None:
        """Refuse settings that do not fit model and data; see `Unlearning.check`."""
        super().check(model, data)
        if self.rank is not None and model.settings.lora is None:
            raise InputError(
                f"{type(self).__name__}.rank: found {self.rank} with model.lora null, expected "
                "null: all weights are trained, so there is no adapter."
            )

    def data_notes(self, data: Any) -> list[str]:
        """Return a note on rows that other methods use; see `Unlearning.data_notes`."""
        rows = {"data.retain": data.retain, "data.alternates": data.alternates}
        return [
            f"{key}: {self.name} makes no optimizer step of unlearning, so these rows are not "
            f"used; remove {key}."
            for key, given in rows.items()
            if given is not None
        ]

    def objective(self, network: LogProbModel, batch: Batch) -> Tensor:
        """Refuse a step: the method makes none."""
        raise AssertionError("path-aware methods make no optimizer step of unlearning")
