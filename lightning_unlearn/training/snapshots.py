"""Snapshots inside a stage: store entries of the model after some of its optimizer steps.

A snapshot is the entry of the same stage, stopped after that step. A path-aware method that uses
the model there finds it in the store, and it is not trained again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.storage.path_history import Link
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.history import TrainingHistory, write_entry
from lightning_unlearn.training.planned_stage import PlannedStage


def inside(stage: PlannedStage, step: int) -> PlannedStage:
    """Return the planned stage that stops after a step of a trained stage."""
    *earlier, last = stage.content["stages"]
    content = {**stage.content, "stages": [*earlier, {**last, "upto": step}]}
    link = stage.chain[-1]
    assert isinstance(link, Link)
    chain = (*stage.chain[:-1], replace(link, upto=step))
    return replace(stage, content=content, chain=chain, history=True)


def snapshots_of(
    stage: PlannedStage, total: int, interval: int | None, plan: Sequence[PlannedStage]
) -> dict[int, PlannedStage]:
    """Return the snapshots to take while a stage is trained, by step.

    Args:
        stage: the stage.
        total: number of its optimizer steps.
        interval: take a snapshot every n steps; None for none.
        plan: the planned stages of the run, which may use the model after a step.
    """
    if not stage.chain or stage.upto is not None:
        return {}
    steps = set(range(interval, total, interval)) if interval is not None else set()
    keys = {planned.key for planned in plan if planned.upto is not None}
    steps |= {
        planned.upto
        for planned in plan
        if planned.upto is not None and inside(stage, planned.upto).key in keys
    }
    return {step: inside(stage, step) for step in sorted(steps) if step < total}


class StageSnapshots(Callback):
    """Callback that stores the model after some optimizer steps of a stage.

    Args:
        store: the stage store.
        snapshots: what to store, by step.
        history: losses of the stage.
        machine: description of hardware and software, for the entries.
    """

    def __init__(
        self,
        store: StageStore,
        snapshots: Mapping[int, PlannedStage],
        history: TrainingHistory,
        machine: Callable[[], dict[str, Any]],
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._history = history
        self._machine = machine

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Store the model if its step has a snapshot."""
        assert isinstance(pl_module, CausalLM)
        snapshot = self._snapshots.get(pl_module.step)
        if snapshot is None:
            return
        # Every process takes part in gathering a sharded model.
        weights = pl_module.weights.state_dict(pl_module.trainable)
        if trainer.is_global_zero:
            write = partial(
                write_entry,
                model=pl_module,
                weights=weights,
                history=self._history,
                which=pl_module.trainable,
            )
            details = {
                "stage": snapshot.name,
                "steps": pl_module.step,
                "of": pl_module.total_steps,
                "machine": self._machine(),
            }
            self._store.put(snapshot.key, snapshot.content, write, details)
