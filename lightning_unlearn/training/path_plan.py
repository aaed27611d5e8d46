"""The steps of a walk over a path, each named by everything that decides its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.compat import reduced_fp32_products
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.view import BASE
from lightning_unlearn.storage.callback_identity import callback_identity
from lightning_unlearn.storage.entries import content_key
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.unlearning.base import Unlearning


@dataclass
class PlannedStage:
    """One step of the walk.

    Attributes:
        name: stage, "unlearn", or "oracle" for a look at the model that unlearning should give.
        content: all that decides the weights after it, and what monitors see of them.
        oracle: key of the model it is compared with while it is made; None for none.
        key: its name in the stage store.
    """

    name: str
    content: dict[str, Any]
    oracle: str | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = content_key(self.content)


@dataclass(frozen=True)
class Conditions:
    """What decides a stage's weights besides the model, its data and what is stored before it.

    Attributes:
        other_callbacks: neither method nor monitor, and may change what training does.
        world_size: number of processes.
        precision: the Trainer's.
        seed: of the run.
        plugin: description of a precision plugin of the user's own; None for none.
    """

    other_callbacks: Sequence[Callback]
    world_size: int
    precision: str
    seed: int
    plugin: Any = None


def plan_path(
    model: CausalLM,
    data: StagedDataModule,
    method: Unlearning | None,
    monitors: Sequence[Monitor],
    conditions: Conditions,
    has_oracle: Callable[[PlannedStage], bool] = lambda oracle: False,
) -> list[PlannedStage]:
    """The steps of a walk: one per trained stage, and "unlearn" or "oracle".

    Args:
        model: the module.
        data: prepared stages and path.
        method: what unlearns; None for a walk without unlearning.
        monitors: what looks on; their records are stored with the unlearned adapter, or as what is
            to be seen of the oracle.
        conditions: of the training.
        has_oracle: whether the model retrained without the forget stage is there to be compared
            with, given the last step of its training.

    Returns:
        The steps in order.
    """
    shared = _shared(model, data, conditions)
    plan = _trainings(data, shared, data.training_stages)
    stages = plan[-1].content["stages"] if plan else []
    looks = {
        "monitors": [callback_identity(monitor) for monitor in monitors],
        "measured": data.measured_fingerprints(),
    }
    unlearned = {**shared, "stages": stages, "forget": data.forget}
    if data.oracle:
        forgotten = {"data": data.fingerprint(UNLEARN)}
        plan.append(PlannedStage(ORACLE, {**unlearned, **forgotten, **looks}))
    elif data.forget is not None and method is not None:
        content = {
            **unlearned,
            "unlearn": data.recipe(UNLEARN).key(),
            "data": data.fingerprint(UNLEARN),
            "method": callback_identity(method),
            **looks,
        }
        oracle = None
        if any(monitor.uses_oracle for monitor in monitors):
            oracle = content["oracle"] = _oracle(data, shared, has_oracle)
        plan.append(PlannedStage(UNLEARN, content, oracle))
    return plan


def find_oracle(
    model: CausalLM,
    data: StagedDataModule,
    conditions: Conditions,
    has_oracle: Callable[[PlannedStage], bool],
) -> str | None:
    """The model that the models of a path are compared with.

    Args:
        model: the module.
        data: prepared stages and path, with a forget stage.
        conditions: of the training.
        has_oracle: as of `plan_path`.

    Returns:
        Its key, `BASE` if nothing is left to train without the forget stage, or None.
    """
    return _oracle(data, _shared(model, data, conditions), has_oracle)


def _shared(model: CausalLM, data: StagedDataModule, conditions: Conditions) -> dict[str, Any]:
    """What all steps of a walk have in their content."""
    assert data.format is not None, "load_rows() comes first"
    settings = model.settings
    shared: dict[str, Any] = {
        "base": model.pretrained.fingerprint(),
        "template": data.format.fingerprint,
        "lora": settings.lora.key() if settings.lora is not None else None,
        "precision": conditions.precision,
        "seed": conditions.seed,
        # Some implementations leave out what others do, such as the soft cap of Gemma 2.
        "attention": settings.attn_implementation,
        "callbacks": [callback_identity(callback) for callback in conditions.other_callbacks],
    }
    if settings.quantization is not None:
        shared["quantization"] = settings.quantization
    if conditions.plugin is not None:
        shared["plugin"] = conditions.plugin
    if products := reduced_fp32_products():
        # Of a process that lets products of fp32 be computed in fewer bits.
        shared["products"] = products
    if model.pretrained.dropout:
        # A setting that is not followed: what was trained with it is another model.
        shared["base_dropout"] = 0.0
    if settings.lora is not None and settings.lora.dropout > 0:
        # Dropout draws its masks forward by forward, so with it the cut does matter; compiled
        # layers draw other ones.
        shared["cut"] = [data.micro_batch_size, conditions.world_size, settings.compile]
    return shared


def _oracle(
    data: StagedDataModule, shared: dict[str, Any], has_oracle: Callable[[PlannedStage], bool]
) -> str | None:
    rest = [name for name in data.path if name != data.forget]
    retrained = _trainings(data, shared, rest)
    if not retrained:
        return BASE
    return retrained[-1].key if has_oracle(retrained[-1]) else None


def _trainings(
    data: StagedDataModule, shared: dict[str, Any], names: Sequence[str]
) -> list[PlannedStage]:
    """The steps that train stages one after the other."""
    stages: list[dict[str, Any]] = []
    plan = []
    for name in names:
        recipe = data.recipe(name).key()
        stages = [*stages, {"name": name, "recipe": recipe, "data": data.fingerprint(name)}]
        plan.append(PlannedStage(name, {**shared, "stages": stages}))
    return plan


def tell_of_precision(store: StageStore, stage: PlannedStage, warn: Callable[[str], None]) -> None:
    """Say so if a stage is trained again only because it was stored in another precision.

    Args:
        store: where it may be.
        stage: the stage.
        warn: gets the sentence.
    """
    other = store.find(stage.content, ignoring=("precision",))
    if other is not None:
        stored = store.manifest(other.name)["content"]["precision"]
        warn(
            f"{stage.name}: stored in {stored} (trainer.precision), which is another model; "
            f"in {stage.content['precision']} it is trained anew, and the stored one kept."
        )
