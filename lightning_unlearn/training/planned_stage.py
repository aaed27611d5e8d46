"""PlannedStage: one training or evaluation of a run, with the settings that determine it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.storage.entries import content_key
from lightning_unlearn.storage.path_history import Chain, Link, chain_name


@dataclass(frozen=True)
class Part:
    """A model in the sum that a path-aware method computes.

    Attributes:
        chain: the stages that it was trained on.
        coefficient: its coefficient.
        key: key of its entry in the stage store; None for a model that was not trained here.
        given: name of the stage of model.adapters after which it is the state; None for another
            model. With neither a key nor this name it is the base model.
        is_update: whether the entry has an adapter "unlearn" that was trained on a sum, and not the
            whole model.
    """

    chain: Chain
    coefficient: float
    key: str | None = None
    given: str | None = None
    is_update: bool = False


@dataclass(frozen=True)
class Result:
    """What a path-aware method computes.

    Attributes:
        parts: the models of its sum.
        is_model: whether the result is one model itself, not an update of the path's last one.
    """

    parts: tuple[Part, ...]
    is_model: bool


@dataclass
class PlannedStage:
    """One stage of the run of a path.

    Attributes:
        name: name of a trained stage; "unlearn"; or "oracle" for an evaluation of the oracle.
        content: all settings that determine the weights after the stage and the monitors' results.
        oracle: key of the oracle that monitors compare with during the stage; "base" for the base
            model; "external" for a model of its own; None for none.
        uses: whether its steps use retain rows, and alternates.
        before: the stages that are trained before it, in order, from the start of the path.
        chain: for a trained stage, the stages that the model has learned after it.
        recipe: recipe of its training; None for a stage without one.
        history: whether only a path-aware method uses the stage, and not the path itself.
        result: what a path-aware method computes in the stage "unlearn"; None for another stage.
        frozen: the sum of models on which it trains a new adapter; () for none.
        key: name of the stage's entry in the stage store.
    """

    name: str
    content: dict[str, Any]
    oracle: str | None = None
    uses: tuple[bool, bool] = (False, False)
    before: tuple["PlannedStage", ...] = ()
    chain: Chain = ()
    recipe: Recipe | None = None
    history: bool = False
    result: Result | None = None
    frozen: tuple[Part, ...] = ()
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = content_key(self.content)

    @property
    def label(self) -> str:
        """Its name for messages and curves; for a stage of the history, with those before it."""
        return chain_name(self.chain) if self.history else self.name

    @property
    def upto(self) -> int | None:
        """The optimizer step after which it stops; None for its last step."""
        last = self.chain[-1] if self.chain else None
        return last.upto if isinstance(last, Link) else None

    @property
    def adapter(self) -> str:
        """The adapter that it trains: "learn" or "unlearn"."""
        is_new = bool(self.frozen) and self.content["lora"] is not None
        return UNLEARN if self.name == UNLEARN or is_new else LEARN

    @property
    def needs(self) -> list[str]:
        """Keys of the entries of the store that its result is computed from."""
        parts = self.result.parts if self.result is not None else self.frozen
        return [part.key for part in parts if part.key is not None]


def of_path(plan: Sequence[PlannedStage]) -> list[PlannedStage]:
    """Return the planned stages without those that only the history needs."""
    return [stage for stage in plan if not stage.history]


def trainings(
    data: StagedDataModule,
    shared: dict[str, Any],
    chain: Chain,
    first: int = 0,
    frozen: tuple[Part, ...] = (),
) -> list[PlannedStage]:
    """Return the planned stages that train stages one after the other.

    Args:
        data: the stages.
        shared: the content that all stages of a run share.
        chain: the stages.
        first: number of stages at the start of the chain that are not trained.
        frozen: the sum of models on which they train a new adapter; () for none.
    """
    stages: list[dict[str, Any]] = []
    plan: list[PlannedStage] = []
    for place, link in enumerate(chain[first:], start=first + 1):
        assert isinstance(link, Link), "only the first one is a sum"
        recipe = _recipe(data, link)
        trained: dict[str, Any] = {
            "name": link.name,
            "recipe": recipe.key(),
            "data": data.fingerprint(link.name),
        }
        if link.upto is not None:
            trained["upto"] = link.upto
        stages = [*stages, trained]
        content = {**shared, "stages": stages}
        before = tuple(plan)
        chained = tuple(chain[:place])
        stage = PlannedStage(link.name, content, before=before, chain=chained, recipe=recipe)
        plan.append(replace(stage, frozen=frozen))
    return plan


def _recipe(data: StagedDataModule, link: Link) -> Recipe:
    recipe = data.recipe(link.name)
    return recipe if link.steps is None else replace(recipe, steps=link.steps)
