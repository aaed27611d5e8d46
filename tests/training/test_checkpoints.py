"""Checkpoints inside a stage: a stopped stage resumes and ends as if it had not been stopped."""

import random
import signal
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import Interrupts
from lightning.pytorch import Callback
from tiny_stages import Start, Tiny, dies_at, results, told_changes
from torch import Tensor

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    InputError,
    LabelLikelihood,
    LogProbs,
    LoRA,
    ModelView,
    Monitor,
    Recipe,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.errors import HungUp, Terminated
from lightning_unlearn.signals import ENDS, sigterm_as_interrupt


class Rising(Unlearning):
    """A method whose state changes at each step: a factor, and a tensor drawn at the start."""

    def __init__(self) -> None:
        super().__init__()
        self._factor = 1.0
        self._seen: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._seen = torch.zeros(3)

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        assert self._seen is not None
        self._factor *= 1.25
        self._seen = self._seen + torch.rand(3)
        return self._factor * (policy.sum - reference.sum) * self._seen.mean()


def trainer_of(tiny: Tiny, method: Unlearning, *others: Callback, **changes: Any) -> StagedTrainer:
    monitors = [LabelLikelihood(2, limit=4), AnswerLikelihood(3)]
    trainer = tiny.trainer([method, *monitors], **changes)
    # This callback only observes; it is not part of the stage's key.
    trainer.callbacks.extend(others)  # type: ignore[attr-defined]
    return trainer


def datamodule(tiny: Tiny, **recipe: Any) -> Any:
    settings = {"lr": 2e-3, "epochs": 2, "batch_size": 4, **recipe}
    stages = tiny.stages(**settings)
    return tiny.datamodule(stages=stages, order=["tofu", "safety"], unlearn=Recipe(**settings))


SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "schedule": "cosine"},
}


DROPOUT = LoRA(rank=4, dropout=0.1)


# Each two of stage, weights and optimizer together.
@pytest.mark.parametrize(
    ("stage", "step", "lora", "optimizer"),
    [
        ("tofu", 1, DROPOUT, "adamw"),
        ("tofu", 1, None, "sgd"),
        ("safety", 3, DROPOUT, "sgd"),
        ("safety", 3, None, "adamw"),
        ("unlearn", 4, DROPOUT, "adamw"),
        ("unlearn", 4, None, "sgd"),
    ],
)
def test_an_interrupted_stage_ends_as_if_it_had_not_been(
    tiny: Tiny, stage: str, step: int, lora: LoRA | None, optimizer: str
) -> None:
    recipe = SETTINGS[optimizer]
    whole = tiny.below("whole")
    undisturbed = trainer_of(whole, Rising())
    undisturbed.fit(whole.module(lora=lora), datamodule(whole, **recipe))

    halted = tiny.below("halted")
    with pytest.raises(
        KeyboardInterrupt, match=f"in stage {stage} at step {step} of 6; a checkpoint of"
    ):
        trainer_of(halted, Rising(), Interrupts(stage, step)).fit(
            halted.module(lora=lora), datamodule(halted, **recipe)
        )
    (kept,) = (halted.root / "store" / "checkpoints").iterdir()
    assert kept.name.endswith(f"-{step}")
    resumed = trainer_of(halted, Rising())
    resumed.fit(halted.module(lora=lora), datamodule(halted, **recipe))
    assert undisturbed.run_dir is not None and resumed.run_dir is not None
    assert results(resumed.run_dir) == results(undisturbed.run_dir)
    assert not list((halted.root / "store" / "checkpoints").iterdir())
    assert resumed.trained_stages[0] == stage


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGHUP, HungUp)]
)
def test_other_signals_write_a_checkpoint_too_and_keep_their_exception(
    tiny: Tiny, number: int, kind: type[BaseException]
) -> None:
    trainer = trainer_of(tiny, NPO(), Interrupts("safety", 2, number))
    before = [signal.getsignal(number) for number in ENDS]
    with pytest.raises(KeyboardInterrupt, match=r"of step 2 is stored\. Stored .*: tofu") as stop:
        trainer.fit(tiny.module(), datamodule(tiny))
    assert type(stop.value) is kind
    assert [signal.getsignal(number) for number in ENDS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stays_ignored_where_it_was(tiny: Tiny, number: int) -> None:
    """A shell may ignore Ctrl-C for background commands, and nohup ignores SIGHUP."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        trainer = trainer_of(tiny, NPO(), Interrupts("tofu", 2, number))
        with sigterm_as_interrupt():
            trainer.fit(tiny.module(), datamodule(tiny))
            signal.raise_signal(number)
        assert trainer.trained_stages == ["tofu", "safety", "unlearn"]
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_signal_in_the_last_step_waits_until_the_stage_is_stored(tiny: Tiny) -> None:
    trainer = trainer_of(tiny, NPO(), Interrupts("tofu", 6))
    with pytest.raises(KeyboardInterrupt, match="stopped after storing stage tofu"):
        trainer.fit(tiny.module(), datamodule(tiny))
    assert len(list((tiny.root / "store").glob("*/entry.json"))) == 1


def kept_steps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[int]:
    """Run two stages and unlearning, 6 steps each; return the steps with checkpoints."""
    from lightning_unlearn.storage.stage_store import StageStore

    steps = []
    put = StageStore.put_checkpoint

    def noting(self: StageStore, key: str, step: int, *rest: Any) -> Path:
        steps.append(step)
        return put(self, key, step, *rest)

    monkeypatch.setattr(StageStore, "put_checkpoint", noting)
    trainer_of(tiny, NPO(), **changes).fit(tiny.module(), datamodule(tiny))
    return steps


def test_the_interval_of_checkpoints_is_set_in_steps_or_minutes(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_steps(tiny.below("default"), monkeypatch) == []
    assert kept_steps(tiny.below("steps"), monkeypatch, checkpoint_steps=2) == [2, 4] * 3
    every = [1, 2, 3, 4, 5] * 3
    assert kept_steps(tiny.below("minutes"), monkeypatch, checkpoint_minutes=0) == every
    never = {"checkpoint_steps": None, "checkpoint_minutes": None}
    assert kept_steps(tiny.below("never"), monkeypatch, **never) == []
    for wrong in ({"checkpoint_steps": 0}, {"checkpoint_minutes": -1.0}):
        (name,) = wrong
        with pytest.raises(InputError, match=f"trainer.{name}: found"):
            tiny.trainer([NPO()], **wrong)


def test_a_damaged_checkpoint_is_set_aside(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tiny.below("whole")
    trainer_of(whole, NPO()).fit(whole.module(), datamodule(whole))
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tiny, NPO(), Interrupts("safety", 3)).fit(tiny.module(), datamodule(tiny))
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    (kept / "state.safetensors").write_bytes(b"no tensors")
    resumed = trainer_of(tiny, NPO())
    resumed.fit(tiny.module(), datamodule(tiny))
    said = capsys.readouterr().err
    assert "is damaged (state.safetensors has 10 bytes, expected " in said
    (run,), (other,) = ((t.root / "runs" / "NPO").iterdir() for t in (tiny, whole))
    assert results(run) == results(other)


class Odd(Callback):
    """A callback whose state cannot be written."""

    def state_dict(self) -> dict[str, Any]:
        return {"file": object()}


def test_a_state_that_cannot_be_written_is_reported_and_stops_nothing(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny.trainer([NPO(), Odd()], checkpoint_steps=2)
    trainer.fit(tiny.module(), datamodule(tiny))
    said = capsys.readouterr().err
    assert (
        said.count("No checkpoint of this stage can be written: state.callbacks.0 Odd.file is of")
        == 3
    )
    assert not list((tiny.root / "store").glob("drafts/*"))


class Queues(Unlearning):
    """A method that keeps its state in an object that no checkpoint contains."""

    uses_reference = False

    def __init__(self) -> None:
        super().__init__()
        self._last: deque[float] = deque([1.0], maxlen=3)

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        self._last.append(self._last[-1] * 1.5)
        return policy.sum * sum(self._last)


def test_a_method_whose_state_cannot_be_stored_starts_its_stage_again(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny.below("whole")
    trainer_of(whole, Queues()).fit(whole.module(), datamodule(whole))
    with pytest.raises(KeyboardInterrupt, match="at step 3 of 6; the steps of this stage are lost"):
        trainer_of(tiny, Queues(), Interrupts("unlearn", 3)).fit(tiny.module(), datamodule(tiny))
    assert "state.callbacks.0 Queues._last is of type deque" in capsys.readouterr().err
    trainer_of(tiny, Queues()).fit(tiny.module(), datamodule(tiny))
    (run,), (other,) = ((t.root / "runs" / "Queues").iterdir() for t in (tiny, whole))
    assert results(run) == results(other)


def test_a_run_with_another_method_may_resume_an_ordinary_stage(tiny: Tiny) -> None:
    """The checkpoint of an ordinary stage depends neither on the method nor on the monitors."""
    whole = tiny.below("whole")
    for place in (tiny, whole):
        if place is tiny:
            with pytest.raises(KeyboardInterrupt):
                trainer_of(tiny, NPO(beta=0.5), Interrupts("tofu", 3)).fit(
                    tiny.module(), datamodule(tiny)
                )
        trainer = place.trainer([NPO(beta=0.05), AnswerLikelihood(2)])
        trainer.fit(place.module(), datamodule(place))
        assert trainer.method is not None and vars(trainer.method)["beta"] == 0.05
    (run,), (other,) = ((t.root / "runs" / "NPO").iterdir() for t in (tiny, whole))
    assert results(run) == results(other)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(whole, NPO(), Interrupts("tofu", 3)).fit(
            whole.module(), datamodule(whole, lr=1e-3)
        )
    trainer_of(whole, Rising()).fit(whole.module(), datamodule(whole, lr=1e-3))


class Slow(Monitor):
    """A monitor that sends a signal to its process while it evaluates."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        signal.raise_signal(self.number)
        return {}


@pytest.mark.parametrize("oracle", [False, True])
@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGHUP, HungUp)]
)
def test_a_signal_during_an_evaluation_keeps_its_exception_too(
    tiny: Tiny, oracle: bool, number: int, kind: type[BaseException]
) -> None:
    trainer = tiny.trainer([NPO(), Slow(number)])
    data = tiny.datamodule(order=["tofu", "safety"], oracle=oracle)
    with sigterm_as_interrupt(), pytest.raises(KeyboardInterrupt) as stop:
        trainer.fit(tiny.module(), data)
    assert type(stop.value) is kind
    assert len(list((tiny.root / "store").glob("*/entry.json"))) == (1 if oracle else 2)


def long_walk(tiny: Tiny) -> None:
    trainer_of(tiny, Rising(), checkpoint_steps=1).fit(tiny.module(), datamodule(tiny))


@pytest.mark.slow
def test_kills_inside_stages_lose_nothing(tiny: Tiny, start: Start) -> None:
    """With a checkpoint at every step, most kills happen while a checkpoint is being written."""
    whole, killed = tiny.below("whole"), tiny.below("killed")
    told = tiny.root / "changes"
    child = start(told_changes, told, whole.root, long_walk, whole)
    child.join(300)
    assert child.exitcode == 0, (tiny.root / "output").read_text()
    changes, moments = int(told.read_text()), random.Random(2)
    died = 0
    for _ in range(6):
        at = moments.randint(changes // 20, changes // 4)
        child = start(dies_at, at, killed.root, long_walk, killed)
        child.join(300)
        assert child.exitcode in (0, -signal.SIGKILL), (tiny.root / "output").read_text()
        died += child.exitcode != 0
    assert died >= 4
    child = start(long_walk, killed)
    child.join(300)
    assert child.exitcode == 0, (tiny.root / "output").read_text()
    (run,), (other,) = ((t.root / "runs" / "Rising").iterdir() for t in (killed, whole))
    assert results(run) == results(other)
    assert not list((killed.root / "store" / "checkpoints").iterdir())
