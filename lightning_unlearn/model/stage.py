"""StageStart: what a stage of training starts from. LoadedKeys: what a model's weights are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lightning_unlearn.data.datamodule import ORACLE
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.model.adapters import LEARN, UNLEARN

# Key of the weights from which paths start: the base model, with a given or a fresh adapter.
START = "start"


@dataclass(frozen=True)
class Term:
    """A stored model in a sum.

    Attributes:
        coefficient: its coefficient.
        folder: where `ModelWeights.save` wrote its weights; None for another model.
        given: name of the stage of the given adapters after which it is the state; None for
            another model. With neither folder nor name it is the base model.
        is_present: whether "learn" has its weights now.
        is_update: whether the weights are those of an adapter "unlearn".
    """

    coefficient: float
    folder: Path | None = None
    given: str | None = None
    is_present: bool = False
    is_update: bool = False


@dataclass
class StageStart:
    """What a stage starts from.

    Attributes:
        stage: its name, "unlearn" for unlearning.
        recipe: how it is trained.
        total_steps: its optimizer steps.
        seed: seed of the run.
        fresh: start from the base model instead of the present weights; with a given adapter,
            from both.
        after: name of a stage trained elsewhere, after which a fresh start takes the given adapter;
            None for the last one.
        frozen: with adapters, the sum of models that "learn" has while "unlearn" is trained;
            without, the sum of models that a fresh start takes; () for none.
        load: folders of saved weights to load first, by "learn" and "unlearn".
        done: optimizer steps of the stage that those weights have behind them.
        optimizer: state of the optimizer after those steps.
    """

    stage: str = LEARN
    recipe: Recipe = field(default_factory=Recipe)
    total_steps: int = 1
    seed: int = 0
    fresh: bool = False
    load: dict[str, Path] = field(default_factory=dict)
    done: int = 0
    optimizer: dict[str, Any] | None = None
    after: str | None = None
    frozen: Sequence[Term] = ()

    @property
    def trainable(self) -> str:
        """The adapter that the stage trains: "learn" or "unlearn"."""
        return UNLEARN if self.stage == UNLEARN or self.frozen else LEARN


class KeyedStage(Protocol):
    """A stage of a path with its key in the stage store."""

    name: str
    key: str


class LoadedKeys:
    """Keys of the stages after which a model's present weights are, as far as they are known.

    Args:
        has_adapters: whether "learn" and "unlearn" are two adapters; without adapters there is one
            set of weights.
    """

    def __init__(self, has_adapters: bool) -> None:
        self._has_adapters = has_adapters
        self._keys: dict[str, str] = {}

    def matches(self, plan: Sequence[KeyedStage]) -> bool:
        """Whether the present weights are those after the last stage of a path.

        Args:
            plan: the stages of the path; evaluating an oracle changes no weights.
        """
        trained = [stage for stage in plan if stage.name != ORACLE]
        if not trained:
            return False
        last = trained[-1]
        if last.name != UNLEARN or not self._has_adapters:
            return self._keys.get(UNLEARN if last.name == UNLEARN else LEARN) == last.key
        # "unlearn" is on top of "learn", so both must be the path's.
        before = trained[-2].key if len(trained) > 1 else START
        return (self._keys.get(LEARN), self._keys.get(UNLEARN)) == (before, last.key)

    def mark(self, stage: str, key: str) -> None:
        """Remember what the present weights are, when a stage has been trained."""
        self._keys[UNLEARN if stage == UNLEARN else LEARN] = key

    def mark_start(self) -> None:
        """Remember that "learn" is as at the start of a path."""
        self._keys[LEARN] = START

    def forget(self, names: Iterable[str]) -> None:
        """Forget what the weights of "learn" or "unlearn" are, before they change."""
        for name in names:
            self._keys.pop(name, None)
