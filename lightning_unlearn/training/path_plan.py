"""Plan of the run of a path: its stages, each with all settings that determine its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.compat import reduced_fp32_products
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.view import BASE, EXTERNAL
from lightning_unlearn.storage.callback_identity import callback_identity
from lightning_unlearn.storage.path_history import Chain, Link
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.history_plan import plan_history
from lightning_unlearn.training.planned_stage import PlannedStage, trainings
from lightning_unlearn.unlearning.base import Unlearning
from lightning_unlearn.unlearning.path_aware import PathAware


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
    external: dict[str, Any] | None = None,
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
        external: identity of the oracle that is a model of its own; None to look for the oracle
            of the path.

    Returns:
        The planned stages in order. Stages of the history of a path-aware method are between those
        of the path and "unlearn".
    """
    shared = _shared(model, data, conditions)
    plan = trainings(data, shared, _links(data.prefix), len(data.learned))
    stages = plan[-1].content["stages"] if plan else []
    evaluation = {
        "monitors": [_monitor_identity(monitor, data) for monitor in monitors],
        "measured": data.measured_fingerprints(),
    }
    # With learned stages, "stages" lacks what the base model has learned.
    unlearned = {**shared, "stages": stages, "forget": data.forget}
    if data.oracle:
        content = {**unlearned, "data": data.fingerprint(UNLEARN), **evaluation}
        plan.append(PlannedStage(ORACLE, content, before=tuple(plan)))
    elif data.forget is not None and method is not None:
        uses = method.uses_retain, method.uses_alternates
        content = {**unlearned, "data": data.fingerprint(UNLEARN), **evaluation}
        content["method"] = callback_identity(method)
        result, recipe, before = None, None, tuple(plan)
        if isinstance(method, PathAware):
            history, result, content["history"] = plan_history(model, data, method, shared, plan)
            plan += history
        else:
            recipe = data.recipe(UNLEARN)
            content |= {"unlearn": recipe.key(), **data.method_rows.fingerprints(*uses)}
        if data.learned:
            content["learned"] = _learned(model, data)
        oracle = None
        if any(monitor.uses_oracle for monitor in monitors):
            of_path = None if external is not None else _oracle(data, shared, has_oracle)
            oracle = EXTERNAL if external is not None else of_path
            content["oracle"] = of_path if external is None else external
        last = PlannedStage(UNLEARN, content, oracle, uses, before, (), recipe, result=result)
        plan.append(last)
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


def stages_until(
    stage: str | None, plan: Sequence[PlannedStage], model: CausalLM, data: StagedDataModule
) -> tuple[list[PlannedStage], str | None]:
    """Find a model of a path by the stage after which it is.

    Args:
        stage: `BASE`, a stage of the path, or "unlearn"; None for the last one.
        plan: the planned stages of the path.
        model: the module.
        data: the path.

    Returns:
        The planned stages up to that one; and, for a stage trained elsewhere before the last such
        stage, its name as in `StageStart.after`, else None.

    Raises:
        InputError: if there is no such stage, or the model after it is not known.
    """
    names = [BASE, *data.learned, *(planned.name for planned in plan)]
    wanted = names[-1] if stage is None else stage
    if wanted not in names:
        raise InputError(f"stage: found {wanted!r}, expected one of {', '.join(names)}.")
    done = list(plan[: max(0, names.index(wanted) - len(data.learned))])
    if wanted not in data.learned[:-1]:
        return done, None
    given = model.pretrained.given
    if given is None or wanted not in given.stages:
        known = [BASE, *names[len(data.learned) :]]
        raise InputError(
            f"stage: found {wanted!r}, after which the model is not known: model.base has learned "
            f"{data.learned[-1]!r} too, expected one of {', '.join(known)}. If there is an adapter "
            f"of {wanted!r}, name it in model.adapters."
        )
    return done, wanted


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
    if model.pretrained.given is not None:
        shared["learn"] = model.pretrained.given.fingerprint()
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


def _links(names: Sequence[str]) -> Chain:
    return tuple(Link(name) for name in names)


def _oracle(
    data: StagedDataModule, shared: dict[str, Any], has_oracle: Callable[[PlannedStage], bool]
) -> str | None:
    if data.forget in data.learned:
        return None  # No model that has not learned the forget stage can be trained from the base.
    rest = [name for name in data.path if name != data.forget]
    retrained = trainings(data, shared, _links(rest), len(data.learned))
    if not retrained:
        return BASE
    return retrained[-1].key if has_oracle(retrained[-1]) else None


def _learned(model: CausalLM, data: StagedDataModule) -> list[list[str | None]]:
    """Return the stages that the base has learned, with the hash of the adapter after each.

    Methods may use the history of a path.
    """
    given = model.pretrained.given
    known = given.history() if given is not None else {}
    return [[name, known.get(name)] for name in data.learned]


def oracle_removed(key: str, store: Path) -> StorageError:
    """Return the error for an oracle that was removed from the store during a run."""
    return StorageError(
        "trainer.store: the oracle (the model retrained without the forget stage, "
        f"{key[:8]}) was removed from {store}. Run the same "
        "command again: a study trains the oracle again, a single run continues without it."
    )


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
            f"{stage.label}: the stored model was trained with trainer.precision {stored}. "
            f"With {stage.content['precision']} the stage is trained again, and the store keeps "
            "both models."
        )
