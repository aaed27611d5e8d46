"""What decides a run: the seed, callbacks and their state, precision, device."""

import json
import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from path_runs import PATH, fitted, run_of
from tiny_stages import Tiny, results
from torch import Tensor

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    DivergedError,
    InputError,
    LogProbs,
    LoRA,
    ModelView,
    Monitor,
    StagedDataModule,
    Unlearning,
)
from lightning_unlearn.storage.callback_identity import callback_identity
from lightning_unlearn.storage.stage_store import MANIFEST


class Draws(Monitor):
    """A monitor that uses random numbers."""

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        return {"draws": torch.rand(3)}


def test_a_trainer_that_has_fitted_finds_its_run_again(tiny: Tiny) -> None:
    """Lightning leaves things on callbacks; they are no settings."""
    trainer = tiny.trainer([NPO(), AnswerLikelihood()])
    data = tiny.datamodule(order=["safety"])
    folders = []
    for _ in range(2):
        trainer.fit(tiny.module(), data)
        folders.append(trainer.run_dir)
    assert trainer.trained == [] and folders[0] == folders[1]


class Noise(Unlearning):
    """A method that draws a direction at the start and noise at every step."""

    uses_reference = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._scale = torch.rand(())

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        return policy.sum * (self._scale + torch.rand(()))


def test_methods_that_draw_random_numbers_can_be_repeated(tiny: Tiny) -> None:
    found = []
    for name in ("whole", "watched", "resumed"):
        place = tiny.below(name)
        if name == "resumed":
            shutil.copytree(tiny.root / "whole" / "store", place.root / "store")
            for manifest in (place.root / "store").glob(f"*/{MANIFEST}"):
                if json.loads(manifest.read_text())["details"]["stage"] == "unlearn":
                    shutil.rmtree(manifest.parent)
        trainer = place.trainer([Noise(), *([Draws(1)] if name == "watched" else [])])
        trainer.fit(place.module(), place.datamodule(order=["tofu", "safety"]))
        assert "unlearn" in trainer.trained
        found.append(results(run_of(trainer))["unlearn/adapter_model.safetensors"])
    assert found == [found[0]] * 3


def test_seed_decides_the_order_of_rows_whatever_the_path(tiny: Tiny) -> None:
    def order(datamodule: StagedDataModule, seed: int) -> list[list[int]]:
        tiny.trainer([GA()]).check(tiny.module(), datamodule)
        return datamodule.begin("math", seed, 0, 1).steps

    first = order(tiny.datamodule(order=["math", "safety"]), 0)
    assert order(tiny.datamodule(order=["inst", "tofu", "safety", "math"]), 0) == first
    assert order(tiny.datamodule(order=["math", "safety"]), 1) != first


def test_one_trainer_and_one_module_do_several_runs(tiny: Tiny) -> None:
    """Nothing is carried over from run to run but what is in the store."""
    module, trainer = tiny.module(), tiny.trainer([NPO(), Draws(1)])
    data = tiny.datamodule()
    runs = []
    for path in (["tofu", "safety"], ["safety", "tofu"]):
        data.path = path
        trainer.fit(module, data)
        runs.append(results(run_of(trainer)))
    for path, run in zip((["tofu", "safety"], ["safety", "tofu"]), runs, strict=True):
        alone = tiny.below("-".join(path))
        again = alone.trainer([NPO(), Draws(1)])
        again.fit(alone.module(), alone.datamodule(order=path))
        assert results(run_of(again)) == run


class Hidden(GA):
    """Keeps its parameter where others would not look."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = beta


class Zero(Callback):
    """Changes training although it is neither method nor monitor."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                if parameter.requires_grad:
                    parameter.zero_()


def test_private_parameters_and_other_callbacks_are_told_apart(tiny: Tiny) -> None:
    assert callback_identity(Hidden(1.0)) != callback_identity(Hidden(2.0))
    assert callback_identity(Hidden(1.0)) == callback_identity(Hidden(1.0))
    plain = tiny.trainer([GA()])
    plain.fit(tiny.module(), tiny.datamodule(order=["safety"]))
    zeroed = tiny.trainer([GA(), Zero()])
    zeroed.fit(tiny.module(), tiny.datamodule(order=["safety"]))
    assert zeroed.trained == ["safety", "unlearn"]


def test_weights_that_blow_up_in_the_last_step_are_not_stored(tiny: Tiny) -> None:
    stages = tiny.stages(steps=1, lr=1e30)
    data = tiny.datamodule(order=["safety"], stages=stages)
    trainer = tiny.trainer([GA()])
    with pytest.raises(
        DivergedError, match="stage safety, step 1 of 1: after this step, the log-probabilities"
    ):
        trainer.fit(tiny.module(), data)
    assert not list(trainer.store.folder.glob("*/entry.json"))


def test_a_stored_model_can_be_measured_by_other_monitors(tiny: Tiny) -> None:
    fitted(tiny, method=GA())
    later = tiny.trainer([GA(), AnswerLikelihood(limit=1)])
    measures = later.validate(tiny.module(lora=LoRA(rank=4, alpha=8)), tiny.datamodule(order=PATH))
    assert set(measures) == {f"answers/{stage}" for stage in PATH}


def test_a_store_made_at_another_precision_is_told_of_and_kept(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"stages": tiny.stages(limit=4), "order": ["tofu"], "forget": None}
    tiny.trainer().fit(tiny.module(), tiny.datamodule(**data))
    (entry,) = (tiny.root / "store").glob(f"*/{MANIFEST}")
    before = results(entry.parent)
    half = tiny.trainer(precision="bf16-true")
    half.fit(tiny.module(), tiny.datamodule(**data))
    assert half.trained == ["tofu"]
    told = "tofu: stored in 32-true (trainer.precision), which is another model; in bf16-true it is"
    assert told in capsys.readouterr().err
    assert results(entry.parent) == before


def test_the_model_stays_on_its_device_between_stages(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []

    def cpu(self: Any) -> Any:
        moved.append(self.stage)
        return self

    monkeypatch.setattr(LightningModule, "cpu", cpu)
    model, trainer = tiny.module(), tiny.trainer([GA(), AnswerLikelihood(2)])
    trainer.fit(model, tiny.datamodule(order=["tofu", "safety"]))
    assert trainer.trained == ["tofu", "safety", "unlearn"]
    assert moved == ["unlearn"]
    trainer.validate(model, tiny.datamodule(order=["tofu", "safety"]), "tofu")
    assert moved == ["unlearn", "tofu"]


def test_strategies_that_share_out_batches_in_other_ways_are_refused(tiny: Tiny) -> None:
    trainer = tiny.trainer([GA()], strategy=ModelParallelStrategy(), devices=2, accelerator="auto")
    with pytest.raises(InputError, match=r"trainer.strategy: found ModelParallelStrategy, expect"):
        trainer.fit(tiny.module(), tiny.datamodule())
    assert not (tiny.root / "store").exists()
