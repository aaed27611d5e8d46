"""Task of a study from a planned stage of a trial."""

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.monitors.view import BASE, EXTERNAL
from lightning_unlearn.study.plan import Task
from lightning_unlearn.training.planned_stage import PlannedStage


def task_of(stage: PlannedStage, data: StagedDataModule, trial: int, number: int) -> Task:
    """Return the task of a planned stage, which is the ``number``-th of a trial."""
    parent = stage.before[-1].key if stage.before else None
    others = tuple(key for key in stage.needs if key != parent)
    # Parts of stages are named by their steps in the tree.
    name = str(stage.chain[-1]) if stage.history else stage.name
    tokens = _tokens(data, stage)
    return Task(stage.key, name, parent, trial, number, tokens, _key(stage.oracle), others)


def _tokens(data: StagedDataModule, stage: PlannedStage) -> int:
    """Return the number of tokens that training processes in a planned stage."""
    recipe = stage.recipe
    if recipe is None:
        return 0
    examples = data.training_examples(stage.name)
    of_epoch = sum(map(len, examples))
    if recipe.steps is None and stage.upto is None:
        return recipe.epochs * of_epoch
    steps = recipe.steps if stage.upto is None else stage.upto
    assert steps is not None
    return steps * recipe.batch_size * of_epoch // len(examples)


def _key(oracle: str | None) -> str | None:
    """Return the store key of an oracle; None for a model that has none."""
    return None if oracle in (BASE, EXTERNAL) else oracle
