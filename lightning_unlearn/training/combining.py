"""The step of a path-aware method: the sum of models of the history, between two evaluations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.combination import load_model, load_sum
from lightning_unlearn.model.stage import StageStart, Term
from lightning_unlearn.storage.path_history import Link
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.planned_stage import Part, PlannedStage
from lightning_unlearn.training.stage_trainer import StageTrainer
from lightning_unlearn.unlearning.path_aware import PathAware

# The result is one step after the model before unlearning, on every path, so that runs of
# different costs are comparable.
STEPS = 1


def weights_of_entry(stage: PlannedStage, entry: Path) -> dict[str, Path]:
    """Return the folders of the weights that the entry of a stage has, by adapter name."""
    found = {stage.adapter: entry / stage.adapter}
    if stage.result is not None and (entry / LEARN).is_dir():
        found[LEARN] = entry / LEARN
    return found


def terms_of(store: StageStore, parts: Sequence[Part], data: StagedDataModule) -> list[Term]:
    """Return the terms of a sum, with the folders of their weights in the store.

    Args:
        store: the stage store, which has the entries of the parts.
        parts: the parts of the sum.
        data: the path, whose last model "learn" has.
    """
    end = tuple(Link(name) for name in data.prefix)
    found = []
    for part in parts:
        which = UNLEARN if part.is_update else LEARN
        folder = None if part.key is None else store.folder / part.key / which
        is_end = part.chain == end
        found.append(Term(part.coefficient, folder, part.given, is_end, part.is_update))
    return found


def weights_after(store: StageStore, stages: Sequence[PlannedStage]) -> dict[str, Path]:
    """Return the folders of the weights after stages of a path, by adapter name.

    Args:
        store: the stage store, which has the entries of the stages.
        stages: the stages in order.
    """
    folders: dict[str, Path] = {}
    for stage in stages:
        if stage.name != ORACLE:
            folders |= weights_of_entry(stage, store.folder / stage.key)
    return folders


def learn_below(model: CausalLM, stage: PlannedStage) -> dict[str, Tensor] | None:
    """Return the weights of "learn" if no other entry than that of "unlearn" has them, else None.

    Every process must call it.
    """
    if stage.name != UNLEARN or model.adapters is None:
        return None
    if stage.result is not None and stage.result.is_model:
        return model.weights.state_dict(LEARN)
    given = model.pretrained.given
    # With nothing trained before, no other entry has the given adapter.
    return given.after() if given and not stage.before else None


def combine_history(
    trainer: StageTrainer,
    model: CausalLM,
    data: StagedDataModule,
    stage: PlannedStage,
    load: dict[str, Path],
) -> dict[str, Any]:
    """Evaluate the model before unlearning, compute the result of the method, and evaluate it.

    Args:
        trainer: the trainer of the run.
        model: the module; it has the result afterwards.
        data: the stages.
        stage: the planned stage "unlearn" of a path-aware method.
        load: folders of the weights before unlearning that the module does not have yet.

    Returns:
        Details for the entry of the store: the steps, and the error of an approximation.
    """
    method, result = trainer.method, stage.result
    assert isinstance(method, PathAware) and result is not None
    recipe, seed = data.recipe(UNLEARN), trainer.seed
    fresh = not stage.before
    model.start_stage(StageStart(UNLEARN, recipe, STEPS, seed, fresh, load))
    trainer.run_callbacks.reset()
    trainer.evaluate_once(model)
    terms = terms_of(trainer.store, result.parts, data)
    lost = None
    model.loaded_keys.forget([UNLEARN])
    if result.is_model:
        model.loaded_keys.forget([LEARN])
        load_model(model.weights, terms[0], seed)
    else:
        lost = load_sum(model.weights, terms, method.rank, seed)
        if model.adapters is None:
            model.loaded_keys.forget([LEARN])
        model.loaded_keys.mark(UNLEARN, stage.key)
    model.step = STEPS
    trainer.evaluate_once(model)
    details: dict[str, Any] = {"steps": STEPS, "of": STEPS}
    if lost is None:
        return details
    if trainer.is_global_zero:
        trainer.messages.info(
            f"{method.name}: rank {method.rank} approximates the update with a relative error of "
            f"{lost:.2g}."
        )
    return {**details, "rank_error": lost}
