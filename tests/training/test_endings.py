"""Stages that end before their last step: finished by a rule in their key, or to be resumed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import Interrupts
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer
from tiny_stages import Tiny, results

from lightning_unlearn import (
    GA,
    AnswerLikelihood,
    LabelLikelihood,
    Monitor,
    Recipe,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.cli.main import main
from lightning_unlearn.errors import Unfinished
from lightning_unlearn.storage.entry_status import read_status
from lightning_unlearn.storage.records import read_table

SIX = {"lr": 2e-3, "epochs": 2, "batch_size": 4}


def fit(tiny: Tiny, *callbacks: Callback, extra: list[Callback] | None = None) -> StagedTrainer:
    """Run one stage and unlearning, of six steps each."""
    trainer = tiny.trainer(list(callbacks))
    trainer.callbacks.extend(extra or [])  # type: ignore[attr-defined]
    stages = tiny.stages(**SIX)
    data = tiny.datamodule(stages=stages, order=["safety"], unlearn=Recipe(**SIX))
    trainer.fit(tiny.module(), data)
    return trainer


def run_of(trainer: StagedTrainer) -> Path:
    assert trainer.run_dir is not None
    return trainer.run_dir


def entries(tiny: Tiny) -> dict[str, dict[str, Any]]:
    found = {}
    for file in (tiny.root / "store").glob("*/entry.json"):
        details = json.loads(file.read_text())["details"]
        found[details["stage"]] = details
    return found


class Stops(Callback):
    """A callback that sets should_stop after a step of a stage, without giving a reason."""

    changes_training = False

    def __init__(self, stage: str, step: int) -> None:
        self.at = (stage, step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if (pl_module.stage, pl_module.step) == self.at:
            trainer.should_stop = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.on_train_batch_end(trainer, pl_module)


@pytest.mark.parametrize(("stage", "step"), [("safety", 1), ("unlearn", 4)])
def test_a_bare_should_stop_leaves_a_stage_unfinished(tiny: Tiny, stage: str, step: int) -> None:
    whole = fit(tiny.below("whole"), GA())
    said = rf"stopped in stage {stage} at step {step} of 6, because a callback set trainer\.should_"
    stored = rf"a checkpoint of step {step} is stored\. Stored .* again to resume"
    with pytest.raises(Unfinished, match=rf"{said}.*; {stored}"):
        fit(tiny, GA(), Stops(stage, step))
    assert stage not in entries(tiny)
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    key, _, number = kept.name.rpartition("-")
    assert number == str(step)
    note = read_status(tiny.root / "store", key)
    assert note is not None and note.state == "stopped"
    resumed = fit(tiny, GA())
    assert resumed.trained_stages[0] == stage
    assert results(run_of(resumed)) == results(run_of(whole))


def test_a_stop_before_the_first_step_stores_nothing(tiny: Tiny) -> None:
    with pytest.raises(Unfinished, match=r"in stage safety at step 0 of 6, because .*are lost"):
        fit(tiny, GA(), Stops("safety", 0))
    assert entries(tiny) == {}


def test_a_timer_leaves_a_stage_to_be_resumed(tiny: Tiny) -> None:
    """The stages equal those of a run without a timer to the bit, after any number of commands."""
    whole = fit(tiny.below("whole"), GA())
    for step in (1, 2):
        said = rf"in stage safety at step {step} of 6, because the duration of the Timer is over; a"
        with pytest.raises(Unfinished, match=said):
            fit(tiny, GA(), Timer({"milliseconds": 1}))
    last = fit(tiny, GA())
    assert last.trained_stages == ["safety", "unlearn"]
    assert results(run_of(last)) == results(run_of(whole))


class StopsEarly(EarlyStopping):
    """An EarlyStopping that runs after every step of unlearning, or of any stage."""

    def __init__(self, monitor: str, threshold: float, stage: str) -> None:
        super().__init__(monitor, stopping_threshold=threshold, mode="min")
        self.stage = stage

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.stage == self.stage and pl_module.step == 4:
            self.stopping_threshold = 1e9
        if pl_module.stage == self.stage:
            self._run_early_stopping_check(trainer)


@pytest.mark.parametrize("stage", ["safety", "unlearn"])
def test_early_stopping_finishes_a_stage(tiny: Tiny, stage: str) -> None:
    early = lambda: StopsEarly("loss", -1e9, stage)  # noqa: E731
    first = fit(tiny, GA(), early(), AnswerLikelihood())
    found = entries(tiny)[stage]
    assert (found["steps"], found["of"]) == (4, 6)
    assert found["ended"].startswith("EarlyStopping: Stopping threshold reached: loss = ")
    other = entries(tiny)[{"safety": "unlearn", "unlearn": "safety"}[stage]]
    assert (other["steps"], other["of"], other["ended"]) == (6, 6, None)
    history = read_table(run_of(first) / "training.parquet")
    assert (history["stage"] == stage).sum() == 4
    again = fit(tiny, GA(), early(), AnswerLikelihood())
    assert again.trained_stages == [] and results(run_of(again)) == results(run_of(first))
    # A signal in the last step waits until the stage is stored; one before changes nothing.
    for step in (2, 4):
        place = tiny.below(f"halted{step}")
        with pytest.raises(KeyboardInterrupt):
            fit(place, GA(), early(), AnswerLikelihood(), extra=[Interrupts(stage, step)])
        assert (stage in entries(place)) == (step == 4)
        resumed = fit(place, GA(), early(), AnswerLikelihood())
        assert results(run_of(resumed)) == results(run_of(first))


class StopsAtOnce(EarlyStopping):
    """An EarlyStopping that is satisfied at the start of training."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.stage == "unlearn":
            trainer.callback_metrics["found"] = torch.tensor(1.0)
            self._run_early_stopping_check(trainer)


def test_a_rule_may_end_unlearning_before_its_first_step(tiny: Tiny) -> None:
    early = lambda: StopsAtOnce("found", stopping_threshold=2.0, check_on_train_epoch_end=False)  # noqa: E731
    trainer = fit(tiny, GA(), early(), AnswerLikelihood())
    found = entries(tiny)["unlearn"]
    assert (found["steps"], found["of"]) == (0, 6) and found["ended"].startswith("EarlyStopping: ")
    assert set(read_table(run_of(trainer) / "records.parquet")["step"]) == {0}
    assert fit(tiny, GA(), early(), AnswerLikelihood()).trained_stages == []


class Enough(GA):
    """A method with its own rule that ends unlearning."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def stop(self, module: Any) -> str | None:
        return f"{self.steps} steps are enough" if module.step >= self.steps else None


def test_a_rule_of_the_method_finishes_unlearning(tiny: Tiny) -> None:
    watched: list[Monitor] = [LabelLikelihood(every_n_steps=2), AnswerLikelihood()]
    trainer = fit(tiny, Enough(3), *watched)
    found = entries(tiny)
    assert (found["safety"]["steps"], found["unlearn"]["steps"]) == (6, 3)
    assert found["unlearn"]["ended"] == "Enough: 3 steps are enough"
    table = read_table(run_of(trainer) / "records.parquet")
    steps = {name: sorted(set(rows["step"])) for name, rows in table.groupby("metric")}
    # The last step is evaluated exactly once, whether or not a monitor was due there.
    assert steps == {
        **{f"forget/{n}": [0, 2, 3] for n in ("label", "paraphrases", "mean")},
        "forget/base": [0],
        "answers/safety": [0, 3],
    }
    assert not table.duplicated(["step", "metric"]).any()
    assert fit(tiny, Enough(3), *watched).trained_stages == []
    assert fit(tiny, Enough(4), *watched).trained_stages == ["unlearn"]
    assert not list((tiny.root / "store").glob("checkpoints/*"))


def test_a_rule_also_applies_to_a_resumed_run(tiny: Tiny) -> None:
    whole = fit(tiny.below("whole"), Enough(3))
    with pytest.raises(KeyboardInterrupt, match="at step 2 of 6"):
        fit(tiny, Enough(3), extra=[Interrupts("unlearn", 2, signal.SIGTERM)])
    resumed = fit(tiny, Enough(3))
    assert results(run_of(resumed)) == results(run_of(whole))
    assert entries(tiny)["unlearn"]["steps"] == 3


def test_the_base_class_has_no_rule() -> None:
    assert not GA().may_stop and Enough(1).may_stop
    assert Unlearning.stop(GA(), None) is None  # type: ignore[arg-type]


def test_the_command_line_reports_an_unfinished_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(*_: Any) -> None:
        raise Unfinished("stopped in stage safety at step 1 of 3")

    monkeypatch.setattr("lightning_unlearn.cli.main._lightning", cut)
    assert main(["fit", "--config", "some.yaml"]) == 1
    assert capsys.readouterr().err == "error: stopped in stage safety at step 1 of 3\n"
