"""The steps of a walk over a path, each named by everything that decides its weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.identity import callback_identity
from lightning_unlearn.module import CausalLM
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.store import content_key
from lightning_unlearn.unlearning.base import Unlearning


@dataclass
class PlannedStage:
    """One step of the walk.

    Attributes:
        name: stage, "unlearn", or "oracle" for a look at the model that unlearning should give.
        content: all that decides the weights after it.
        key: its name in the stage store.
    """

    name: str
    content: dict[str, Any]
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = content_key(self.content)


def plan_walk(
    model: CausalLM,
    data: StagedDataModule,
    method: Unlearning | None,
    monitors: Sequence[Monitor],
    others: Sequence[Callback],
    world_size: int,
    precision: str,
    seed: int,
) -> list[PlannedStage]:
    """The steps of a walk: one per trained stage, and "unlearn" or "oracle".

    Args:
        model: the module.
        data: prepared stages and path.
        method: what unlearns; None for a walk without unlearning.
        monitors: what looks on; their records are stored with the unlearned adapter, or as what is
            to be seen of the oracle.
        others: all other callbacks: they may change what training does.
        world_size: number of processes.
        precision: the Trainer's.
        seed: of the run.

    Returns:
        The steps in order.
    """
    assert data.format is not None, "prepare() comes first"
    shared: dict[str, Any] = {
        "base": model.identity(),
        "template": data.format.fingerprint,
        "lora": model.lora.key() if model.lora is not None else None,
        "precision": precision,
        "seed": seed,
        "callbacks": [callback_identity(callback) for callback in others],
    }
    if model.lora is not None and model.lora.dropout > 0:
        # Dropout draws its masks forward by forward, so with it the cut does matter.
        shared["cut"] = [data.micro_batch_size, world_size]
    stages: list[dict[str, Any]] = []
    plan = []
    for name in data.trained:
        recipe = data.recipe(name).key()
        stages = [*stages, {"name": name, "recipe": recipe, "data": data.fingerprint(name)}]
        plan.append(PlannedStage(name, {**shared, "stages": stages}))
    looks = {
        "monitors": [callback_identity(monitor) for monitor in monitors],
        "measured": {
            stage: data.measured_fingerprint(stage) for stage in data.path if stage != data.forget
        },
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
        plan.append(PlannedStage(UNLEARN, content))
    return plan
