"""Descriptions of a run: for run.json, and for the user before the run starts."""

from typing import Any

from rich.markup import escape

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.errors import visible
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.view import EXTERNAL
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.planned_stage import PlannedStage, of_path
from lightning_unlearn.training.stage_trainer import StageTrainer


def describe_run(
    trainer: StageTrainer, data: StagedDataModule, plan: list[PlannedStage]
) -> dict[str, Any]:
    """Return the description of a run for `RunFolder`.

    Args:
        trainer: the trainer of the run.
        data: prepared stages and path.
        plan: the planned stages.
    """
    about: dict[str, Any] = {
        "path": "-".join(data.prefix),
        "position": data.position,
        "forget": data.forget,
        "method": trainer.label(data),
        "seed": trainer.seed,
        "key": plan[-1].key,
        "store": str(trainer.store.folder.absolute()),
        "stages": [{"name": stage.name, "key": stage.key} for stage in of_path(plan)],
    }
    if history := [stage for stage in plan if stage.history]:
        about["history"] = [{"name": stage.label, "key": stage.key} for stage in history]
    if data.learned:
        about["learned"] = list(data.learned)
    return about


def announce(
    trainer: StageTrainer, model: CausalLM, data: StagedDataModule, plan: list[PlannedStage]
) -> list[str]:
    """Return the lines that tell the user what a run is going to do.

    Args:
        trainer: the trainer of the run.
        model: the module.
        data: prepared stages and path.
        plan: the planned stages.

    Returns:
        The path; what is learned already, stored, and to be trained; an oracle of its own; and
        whether the model is going to be loaded. Rich markup in names is escaped.
    """
    steps = list(data.prefix)
    if plan[-1].name == UNLEARN:
        steps.append(f"unlearn {data.forget} ({trainer.label(data)})")
    elif plan[-1].name == ORACLE:
        steps.append(f"evaluate the oracle without {data.forget}")
    is_stored = {stage.key: _is_stored(trainer.store, stage) for stage in plan}
    left = [stage for stage in of_path(plan) if not is_stored[stage.key]]
    history = [stage for stage in plan if stage.history]
    parts = {
        "learned by the base model": list(data.learned),
        "stored": [stage.name for stage in of_path(plan) if is_stored[stage.key]],
        "to train": [s.name for s in left if s.name != ORACLE and s.result is None],
        "stored of the history": [s.label for s in history if is_stored[s.key]],
        "to train for the history": [s.label for s in history if not is_stored[s.key]],
        "to compute": [s.name for s in left if s.result is not None],
        "to evaluate": [s.name for s in left if s.name == ORACLE],
    }
    found = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    text = "; ".join(found)
    lines = [f"Path: {' → '.join(steps)}", f"{text[:1].upper()}{text[1:]}."]
    measures = plan[-1].oracle == EXTERNAL and not is_stored[plan[-1].key]
    if measures and trainer.oracle is not None:
        lines.append(f"Compared with the oracle {trainer.oracle.base}, which is measured first.")
    if not model.is_open:
        lines.append(f"Loading the weights of {describe_model(model)} ...")
    return [escape(visible(line)) for line in lines]


def describe_model(model: CausalLM) -> str:
    """Return the name of a model, with that of the adapter on it."""
    given = model.pretrained.given
    name = model.pretrained.name
    return name if given is None else f"{name} with the adapter {given.last.name}"


def _is_stored(store: StageStore, stage: PlannedStage) -> bool:
    # The checksums are read when the stage is needed.
    return (store.folder / stage.key).is_dir()
