"""Plan of the run of a path: its stages, each with all settings that determine its weights."""

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
    """One stage of the run of a path.

    Attributes:
        name: name of a trained stage; "unlearn"; or "oracle" for an evaluation of the oracle.
        content: all settings that determine the weights after the stage and the monitors' results.
        oracle: key of the oracle that monitors compare with during the stage; None for none.
        key: name of the stage's entry in the stage store.
    """

    name: str
    content: dict[str, Any]
    oracle: str | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = content_key(self.content)


@dataclass(frozen=True)
class Conditions:
    """Settings of the trainer that determine the weights of a stage.

    Attributes:
        other_callbacks: callbacks that are neither method nor monitor and may change the training.
        world_size: number of processes.
        precision: precision of the Trainer.
        seed: seed of the run.
        plugin: description of the user's own precision plugin; None for none.
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
    """Plan the run of a path: one entry per trained stage, then "unlearn" or "oracle".

    Args:
        model: the module.
        data: prepared stages and path.
        method: the unlearning method; None for a run without unlearning.
        monitors: monitors of the run. The store keeps their results with the unlearned adapter,
            or with the evaluation of the oracle.
        conditions: the trainer's settings.
        has_oracle: returns whether the oracle is available, given the last stage of its training.

    Returns:
        The planned stages in order.
    """
    shared = _shared(model, data, conditions)
    plan = _trainings(data, shared, data.training_stages)
    stages = plan[-1].content["stages"] if plan else []
    evaluation = {
        "monitors": [_monitor_identity(monitor, data) for monitor in monitors],
        "measured": data.measured_fingerprints(),
    }
    unlearned = {**shared, "stages": stages, "forget": data.forget}
    if data.oracle:
        forgotten = {"data": data.fingerprint(UNLEARN)}
        plan.append(PlannedStage(ORACLE, {**unlearned, **forgotten, **evaluation}))
    elif data.forget is not None and method is not None:
        content = {
            **unlearned,
            "unlearn": data.recipe(UNLEARN).key(),
            "data": data.fingerprint(UNLEARN),
            "method": callback_identity(method),
            **evaluation,
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
    """Find the oracle of a path.

    Args:
        model: the module.
        data: prepared stages and path, with a forget stage.
        conditions: the trainer's settings.
        has_oracle: see `plan_path`.

    Returns:
        Key of the oracle; `BASE` if the path has no stage besides the forget stage; None if the
        oracle is not available.
    """
    return _oracle(data, _shared(model, data, conditions), has_oracle)


def _shared(model: CausalLM, data: StagedDataModule, conditions: Conditions) -> dict[str, Any]:
    """Return the content that all planned stages of a run share."""
    assert data.format is not None, "call load_rows() first"
    settings = model.settings
    shared: dict[str, Any] = {
        "base": model.pretrained.fingerprint(),
        "template": data.format.fingerprint,
        "lora": settings.lora.key() if settings.lora is not None else None,
        "precision": conditions.precision,
        "seed": conditions.seed,
        # Some implementations omit parts of the model, such as the soft cap of Gemma 2.
        "attention": settings.attn_implementation,
        "callbacks": [callback_identity(callback) for callback in conditions.other_callbacks],
    }
    if settings.quantization is not None:
        shared["quantization"] = settings.quantization
    if conditions.plugin is not None:
        shared["plugin"] = conditions.plugin
    if products := reduced_fp32_products():
        # This process computes fp32 matrix products with fewer bits.
        shared["products"] = products
    if model.pretrained.dropout:
        # The base model's dropout is switched off; trained with it, it would be another model.
        shared["base_dropout"] = 0.0
    if settings.lora is not None and settings.lora.dropout > 0:
        # Dropout draws one mask per forward pass, so the split into micro-batches and processes
        # changes the result; compiled layers draw other masks.
        shared["cut"] = [data.micro_batch_size, conditions.world_size, settings.compile]
    return shared


def _monitor_identity(monitor: Monitor, data: StagedDataModule) -> dict[str, Any]:
    identity = callback_identity(monitor)
    parameters = {**identity["parameters"], **monitor.settings_from_data(data)}
    return {**identity, "parameters": parameters}


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
    """Return the planned stages that train the named stages one after the other."""
    stages: list[dict[str, Any]] = []
    plan = []
    for name in names:
        recipe = data.recipe(name).key()
        stages = [*stages, {"name": name, "recipe": recipe, "data": data.fingerprint(name)}]
        plan.append(PlannedStage(name, {**shared, "stages": stages}))
    return plan


def warn_of_precision(store: StageStore, stage: PlannedStage, warn: Callable[[str], None]) -> None:
    """Warn if a stage is trained again only because it is stored with another precision.

    Args:
        store: the stage store.
        stage: the stage that is about to be trained.
        warn: function that prints the warning.
    """
    other = store.find(stage.content, ignoring=("precision",))
    if other is not None:
        stored = store.manifest(other.name)["content"]["precision"]
        warn(
            f"{stage.name}: the stored model was trained with trainer.precision {stored}. "
            f"With {stage.content['precision']} the stage is trained again, and the store keeps "
            "both models."
        )
