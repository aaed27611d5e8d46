"""The walk: what is trained, what is taken from the store, and what survives."""

import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Start, Tiny, dies_at, results, told_changes
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    DivergedError,
    InputError,
    LabelLikelihood,
    LogProbs,
    LoRA,
    MathAccuracy,
    ModelView,
    Monitor,
    StagedDataModule,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.cli.main import main
from lightning_unlearn.model.causal_lm import supervised
from lightning_unlearn.storage.callback_identity import callback_identity
from lightning_unlearn.storage.records import read_table
from lightning_unlearn.storage.stage_store import MANIFEST, StageStore
from lightning_unlearn.training.path_plan import PlannedStage

PATH = ["tofu", "math", "safety"]


def monitors() -> list[Monitor]:
    """One of each kind, sampled answers included."""
    return [
        LabelLikelihood(every_n_steps=1, limit=3),
        AnswerLikelihood(every_n_steps=2),
        MathAccuracy(num_samples=2, max_new_tokens=3),
    ]


def fitted(
    tiny: Tiny,
    method: Unlearning | None = None,
    order: list[str] = PATH,
    watched: bool = True,
    dropout: float = 0.0,
    **changes: Any,
) -> StagedTrainer:
    """A whole walk with a module and a data module of its own."""
    callbacks = [method or NPO(), *(monitors() if watched else [])]
    trainer = tiny.trainer(callbacks, **changes)
    lora = LoRA(rank=4, alpha=8, dropout=dropout)
    trainer.fit(tiny.module(lora=lora), tiny.datamodule(order=order))
    return trainer


def run_of(trainer: StagedTrainer) -> Path:
    assert trainer.run_dir is not None
    return trainer.run_dir


def walk(tiny: Tiny, dropout: float = 0.0, order: list[str] = PATH) -> None:
    """For child processes."""
    fitted(tiny, dropout=dropout, order=order)


def test_a_second_run_trains_nothing_and_ends_the_same(tiny: Tiny) -> None:
    first = fitted(tiny)
    assert first.trained == [*PATH, "unlearn"]
    before = results(run_of(first))
    about = (run_of(first) / "run.json").read_bytes()
    assert {"records.parquet", "examples.parquet", "training.parquet"} < set(before)
    second = fitted(tiny)
    assert second.trained == []
    assert run_of(second) == run_of(first)
    assert results(run_of(second)) == before
    assert (run_of(second) / "run.json").read_bytes() == about
    assert json.loads(about)["finished"] is True
    assert first.observations is not None and second.observations is not None
    assert second.observations.steps == first.observations.steps
    assert second.observations.examples == first.observations.examples


def test_the_model_is_the_last_one_also_when_nothing_was_trained(tiny: Tiny) -> None:
    ids = torch.arange(3, 30)[None]
    found = []
    for _ in range(2):
        module = tiny.module()
        tiny.trainer([GA()]).fit(module, tiny.datamodule(order=["safety"]))
        module.eval()
        with torch.no_grad():
            found.append(module.lm(input_ids=ids).logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_resumed_in_a_new_process_is_the_same_run(
    tiny: Tiny, start: Start, dropout: float
) -> None:
    whole = fitted(tiny.below("whole"), dropout=dropout)
    # In the other process the last two steps of the walk are missing.
    shutil.copytree(whole.store.folder, tiny.root / "parts" / "store")
    manifests = {
        name: (file.parent, json.loads(file.read_text())["content"])
        for file in (tiny.root / "parts" / "store").glob(f"*/{MANIFEST}")
        for name in [json.loads(file.read_text())["details"]["stage"]]
    }
    assert sorted(manifests) == sorted([*PATH, "unlearn"])
    for name in (PATH[-1], "unlearn"):
        shutil.rmtree(manifests[name][0])
    torch.rand(7)
    child = start(walk, tiny.below("parts"), dropout)
    child.join(300)
    assert child.exitcode == 0, (tiny.root / "output").read_text()
    (run,) = (tiny.root / "parts" / "runs" / "NPO").iterdir()
    assert results(run) == results(run_of(whole))


def test_dropout_is_at_work(tiny: Tiny) -> None:
    with_it = results(run_of(fitted(tiny.below("one"), dropout=0.3, watched=False)))
    without = results(run_of(fitted(tiny.below("two"), dropout=0.0, watched=False)))
    weights = "unlearn/adapter_model.safetensors"
    assert with_it[weights] != without[weights]


def test_monitors_do_not_disturb_training(tiny: Tiny) -> None:
    watched = fitted(tiny.below("watched"), dropout=0.3)
    alone = fitted(tiny.below("alone"), dropout=0.3, watched=False)
    for file in ("learn", "unlearn"):
        name = f"{file}/adapter_model.safetensors"
        assert results(run_of(watched))[name] == results(run_of(alone))[name]
    assert (
        results(run_of(watched))["training.parquet"] == results(run_of(alone))["training.parquet"]
    )
    assert len(read_table(run_of(alone) / "records.parquet")) == 0


def test_paths_share_their_beginnings(tiny: Tiny) -> None:
    trained = [
        fitted(tiny, order=order, watched=False).trained
        for order in (
            ["tofu", "math", "safety"],
            ["tofu", "safety", "math"],
            ["safety", "tofu", "math"],
            ["tofu", "safety"],
        )
    ]
    assert trained == [
        ["tofu", "math", "safety", "unlearn"],
        ["safety", "math", "unlearn"],
        ["safety", "tofu", "math", "unlearn"],
        ["unlearn"],
    ]


def test_seeds_and_methods_go_to_folders_of_their_own(tiny: Tiny) -> None:
    runs = [
        run_of(fitted(tiny, order=["safety"], watched=False)),
        run_of(fitted(tiny, order=["safety"], watched=False, seed=1)),
        run_of(fitted(tiny, GA(), order=["safety"], watched=False)),
    ]
    names = [run.relative_to(tiny.root / "runs").as_posix() for run in runs]
    assert names == ["NPO/p1_safety_s0", "NPO/p1_safety_s1", "GA/p1_safety_s0"]
    assert len({results(run)["unlearn/adapter_model.safetensors"] for run in runs}) == 3


def test_other_settings_never_overwrite_a_run(tiny: Tiny) -> None:
    first = fitted(tiny, NPO(), order=["safety"], watched=False, run_name="run")
    before = results(run_of(first))
    second = fitted(tiny, NPO(beta=0.1), order=["safety"], watched=False, run_name="run")
    third = fitted(tiny, NPO(beta=0.2), order=["safety"], watched=False, run_name="run")
    assert [run_of(t).name for t in (first, second, third)] == ["run", "run_2", "run_3"]
    assert results(run_of(first)) == before
    again = fitted(tiny, NPO(beta=0.1), order=["safety"], watched=False, run_name="run")
    assert run_of(again) == run_of(second) and again.trained == []


@pytest.mark.parametrize("content", ["{", "[]", '{"key": "other"}'])
def test_a_folder_of_something_else_is_left_alone(tiny: Tiny, content: str) -> None:
    folder = tiny.root / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(content)
    trainer = fitted(tiny, order=["safety"], watched=False, run_name="run")
    assert run_of(trainer).name == "run_2"
    assert [file.name for file in folder.iterdir()] == ["run.json"]


def test_a_place_where_nothing_can_be_written(tiny: Tiny) -> None:
    (tiny.root / "file").write_text("x")
    places: dict[str, Any]
    for place in ("default_root_dir", "store"):
        places = {place: str(tiny.root / "file" / "inside")}
        with pytest.raises(InputError, match=rf"trainer\.{place}: .*can't be (made|written)"):
            fitted(tiny, order=["safety"], watched=False, **places)


def plan_of(tiny: Tiny, **changes: Any) -> list[PlannedStage]:
    """The plan under changes: of the trainer, the module, or the data."""
    trainer_changes = {k: changes.pop(k) for k in ("seed", "precision") if k in changes}
    callbacks = changes.pop("callbacks", [NPO(), LabelLikelihood()])
    module = tiny.module(**{k: changes.pop(k) for k in ("lora", "base") if k in changes})
    data = tiny.datamodule(**{"order": PATH, **changes})
    trainer = tiny.trainer(callbacks, **trainer_changes)
    trainer.check(module, data)
    return trainer.plan(module, data)


OWN = """
from lightning_unlearn import Unlearning

class Own(Unlearning):
    uses_reference = False

    def __init__(self, weight: float = 1.0, words=()):
        super().__init__()
        self.weight = weight
        self.words = words

    def loss(self, policy, reference):
        return self.weight * policy.mean
"""


def test_an_own_method_is_told_apart_by_parameters_and_source(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tiny.root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tiny.root / "own_method.py"
    file.write_text(OWN)
    own = importlib.import_module("own_method")
    first = fitted(tiny, own.Own(), order=["safety"], watched=False)
    assert fitted(tiny, own.Own(), order=["safety"], watched=False).trained == []
    assert fitted(tiny, own.Own(2.0), order=["safety"], watched=False).trained == ["unlearn"]
    file.write_text(OWN.replace("self.weight *", "2 * self.weight *"))
    importlib.reload(own)
    edited = fitted(tiny, own.Own(), order=["safety"], watched=False)
    assert edited.trained == ["unlearn"]
    assert run_of(edited) != run_of(first)
    # A set has no order of its own: it must not change the key from process to process.
    keys = [
        plan_of(tiny, callbacks=[own.Own(words=words)])[-1].key
        for words in ({"a", "b", "c", "d"}, {"d", "c", "b", "a"})
    ]
    assert keys[0] == keys[1]
    monkeypatch.delitem(sys.modules, "own_method")


class NotANumber(Unlearning):
    """Its loss breaks in the second step."""

    uses_reference = False

    def __init__(self, value: str = "nan") -> None:
        super().__init__()
        # As text: NaN among a method's numbers is refused before training.
        self.value = value
        self._calls = 0

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        self._calls += 1
        return policy.sum * (float(self.value) if self._calls == 2 else 1.0)


class Raises(NotANumber):
    """It breaks with an error of its own."""

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        if self._calls == 1:
            raise RuntimeError("own mistake")
        return super().loss(policy, reference)


class WrongShape(NotANumber):
    """It reduces what must not be reduced."""

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        return policy.sum.mean()


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (NotANumber(), DivergedError, r"stage unlearn, step 2 of 3: the loss is nan\..* is kept"),
        (NotANumber("inf"), DivergedError, r"stage unlearn, step 2 of 3: the loss is -inf"),
        (Raises(), RuntimeError, "own mistake"),
        (
            WrongShape(),
            InputError,
            r"objective returned a tensor of shape \(\), expected one value",
        ),
    ],
)
def test_a_failing_method_leaves_stages_stored_and_module_usable(
    tiny: Tiny, method: Unlearning, error: type[Exception], message: str
) -> None:
    module, data = tiny.module(), tiny.datamodule(order=["tofu", "safety"])
    trainer = tiny.trainer([method])
    with pytest.raises(error, match=f"(?s){message}"):
        trainer.fit(module, data)
    about = json.loads((run_of(trainer) / "run.json").read_text())
    assert about["finished"] is False
    assert not (run_of(trainer) / "unlearn").exists()
    # The same module goes on to another method, and nothing of the failure is left in it.
    after = tiny.trainer([NPO()])
    after.fit(module, data)
    assert after.trained == ["unlearn"]
    apart = fitted(tiny.below("apart"), order=["tofu", "safety"], watched=False)
    assert results(run_of(after)) == results(run_of(apart))


def test_a_training_stage_that_diverges_is_named(tiny: Tiny) -> None:
    stages = tiny.stages()
    stages["math"].lr = 1e30
    with pytest.raises(DivergedError, match=r"stage math, step \d of 3.* \(now 1e\+30\)"):
        tiny.trainer([GA()]).fit(tiny.module(), tiny.datamodule(stages=stages, order=PATH))
    trainer = tiny.trainer([GA()])
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    assert trainer.trained == ["math", "safety", "unlearn"]


def test_the_objective_is_given_back(tiny: Tiny) -> None:
    module = tiny.module()
    method = NPO()
    trainer = tiny.trainer([method])
    trainer.fit(module, tiny.datamodule(order=["safety"]))
    assert module.objective is supervised
    assert method._reference is None
    failing = tiny.trainer([Raises()])
    with pytest.raises(RuntimeError, match="own mistake"):
        failing.fit(module, tiny.datamodule(order=["safety"]))
    assert module.objective is supervised


def nothing_written(tiny: Tiny) -> bool:
    return not (tiny.root / "runs").exists() and not (tiny.root / "store").exists()


def test_mistakes_are_found_before_anything_is_written(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"found 2 unlearning methods \(GA and NPO\), expected"):
        tiny.trainer([GA(), NPO()])
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        ([], {}, r"stage 'safety' is to be forgotten \(data\.forget\), but no callback unlearns"),
        ([GA()], {"forget": None}, r"data\.forget: found null, but GA is among trainer\.callbacks"),
        ([GA()], {"micro_batch_size": 3}, r"data\.stages\.inst\.batch_size: found 4, which can't"),
        ([GA(), MathAccuracy("history")], {}, r"MathAccuracy\.stage: found 'history'"),
        ([LabelLikelihood()], {"forget": None}, "LabelLikelihood: .* data.forget is null"),
    ]
    for callbacks, changes, message in cases:
        with pytest.raises(InputError, match=message):
            tiny.trainer(callbacks).fit(tiny.module(), tiny.datamodule(**changes))
    stages = tiny.stages()
    stages["math"].source = str(tiny.root / "missing.jsonl")
    with pytest.raises(InputError, match=r"data\.stages\.math\.source: .*found no such file"):
        tiny.trainer([GA()]).fit(tiny.module(), tiny.datamodule(stages=stages))
    assert nothing_written(tiny)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_spawned_processes_are_refused(tiny: Tiny, strategy: str) -> None:
    trainer = tiny.trainer([GA()], strategy=strategy, devices=2)
    with pytest.raises(InputError, match=r"trainer\.strategy: spawned or forked .* use ddp"):
        trainer.fit(tiny.module(), tiny.datamodule())
    assert nothing_written(tiny)


def test_training_without_unlearning(tiny: Tiny) -> None:
    trainer = tiny.trainer([])
    trainer.fit(tiny.module(), tiny.datamodule(forget=None, order=["math", "tofu"]))
    assert trainer.trained == ["math", "tofu"]
    assert run_of(trainer).relative_to(tiny.root).as_posix() == "runs/trained/math-tofu_s0"
    names = {file.name for file in run_of(trainer).iterdir()}
    assert names == {"learn", "run.json", "training.parquet"}
    history = read_table(run_of(trainer) / "training.parquet")
    assert list(history["stage"]) == ["math"] * 3 + ["tofu"] * 3
    assert list(history["step"]) == [1, 2, 3] * 2
    assert (history["lr"] > 0).all() and history["loss"].notna().all()


def test_a_damaged_entry_is_trained_again_to_the_same_bytes(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fitted(tiny, watched=False)
    before = results(run_of(first))
    plan = json.loads((run_of(first) / "run.json").read_text())["stages"]
    weights = first.store.folder / plan[1]["key"] / "learn" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    second = fitted(tiny, watched=False)
    assert second.trained == ["math"]  # the entries after it are whole and still its own
    assert results(run_of(second)) == before
    assert "is damaged" in capsys.readouterr().err
    shutil.rmtree(first.store.folder / plan[0]["key"])
    third = fitted(tiny, watched=False)
    assert third.trained == [plan[0]["name"]]
    assert results(run_of(third)) == before


def check_no_half_written_run(tiny: Tiny) -> None:
    """A run that calls itself finished is whole; every entry of the store is whole."""
    for about in (tiny.root / "runs").glob("*/*/run.json"):
        if json.loads(about.read_text())["finished"]:
            assert "unlearn/adapter_model.safetensors" in results(about.parent)
    damage: list[str] = []
    store = StageStore(tiny.root / "store", report=damage.append)
    for entry in store.folder.glob(f"*/{MANIFEST}"):
        assert store.get(entry.parent.name) is not None
    assert damage == []


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tiny: Tiny, start: Start) -> None:
    told, whole = tiny.root / "changes", tiny.below("undisturbed")
    child = start(told_changes, told, whole.root, walk, whole)
    child.join(300)
    assert child.exitcode == 0, (tiny.root / "output").read_text()
    (undisturbed,) = (tiny.root / "undisturbed" / "runs" / "NPO").iterdir()
    changes, moments = int(told.read_text()), random.Random(1)
    killed = tiny.below("killed")
    died = 0
    for _ in range(4):
        child = start(dies_at, moments.randint(1, changes // 2), killed.root, walk, killed)
        child.join(300)
        assert child.exitcode in (0, -signal.SIGKILL), (tiny.root / "output").read_text()
        died += child.exitcode != 0
        check_no_half_written_run(killed)
    assert died >= 2
    child = start(walk, killed)
    child.join(300)
    assert child.exitcode == 0, (tiny.root / "output").read_text()
    (run,) = (killed.root / "runs" / "NPO").iterdir()
    assert results(run) == results(undisturbed)
    assert not list((killed.root / "store").glob("drafts/*"))


def test_two_processes_do_the_same_run_at_once(tiny: Tiny, start: Start) -> None:
    both = [start(walk, tiny) for _ in range(2)]
    for child in both:
        child.join(300)
    output = (tiny.root / "output").read_text()
    assert [child.exitcode for child in both] == [0, 0], output
    (run,) = (tiny.root / "runs" / "NPO").iterdir()
    apart = fitted(tiny.below("apart"))
    assert results(run) == results(run_of(apart))
    check_no_half_written_run(tiny)


class Tells(Callback):
    """Makes a file at the fifth step of the second stage."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.stage == "safety" and pl_module.step == 5:
            Path(self.file).touch()


def command(config: str) -> None:
    """For a child process: the command line."""
    sys.stderr.flush()
    os._exit(main(["fit", "--config", config]))


def in_terminal(terminal: str, config: str) -> None:
    """For a child process: the command line, in a terminal of its own."""
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)  # becomes the terminal of the session
    for descriptor in (0, 1, 2):
        os.dup2(handle, descriptor)
    os.close(handle)
    command(config)


def long_stage(tiny: Tiny) -> str:
    """A configuration whose second stage is at work when the file "on" appears."""
    stage = {"batch_size": 4, "lr": 1e-3}
    sources = {name: str(tiny.data / f"{name}.jsonl") for name in ("tofu", "safety")}
    config = {
        "trainer": {
            "default_root_dir": str(tiny.root / "runs"),
            "store": str(tiny.root / "store"),
            "accelerator": "cpu",
            "callbacks": [
                {"class_path": "GA"},
                {"class_path": "test_trainer.Tells", "init_args": {"file": str(tiny.root / "on")}},
            ],
        },
        "model": {"base": str(tiny.base), "lora": {"rank": 4}},
        "data": {
            "forget": "safety",
            "stages": {
                "tofu": {"source": sources["tofu"], "steps": 2, **stage},
                "safety": {"source": sources["safety"], "steps": 100000, **stage},
            },
            "unlearn": stage,
        },
    }
    file = tiny.root / "run.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(file)


def wait_until_on(tiny: Tiny, child: BaseProcess) -> None:
    end = time.monotonic() + 300
    while not (tiny.root / "on").exists():
        assert time.monotonic() < end and child.is_alive(), (tiny.root / "output").read_text()
        time.sleep(0.02)


def test_a_closed_terminal_keeps_the_step(tiny: Tiny, start: Start) -> None:
    """Progress is drawn into that terminal, where every write fails from then on."""
    own, terminal = os.openpty()
    child = start(in_terminal, os.ttyname(terminal), long_stage(tiny))
    shown = []
    while not (tiny.root / "on").exists():
        # What nobody reads fills the terminal, and who writes into a full one waits.
        if select.select([own], [], [], 0.02)[0]:
            shown.append(os.read(own, 4096))
        assert child.is_alive(), (tiny.root / "output").read_text()
    assert b"safety" in b"".join(shown)
    os.close(own)
    os.close(terminal)
    child.join(300)
    assert child.exitcode == 129, (tiny.root / "output").read_text()
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    assert int(kept.name.rpartition("-")[2]) >= 5
    check_no_half_written_run(tiny)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_interrupting_says_how_to_go_on(tiny: Tiny, start: Start, number: int, code: int) -> None:
    child = start(command, long_stage(tiny))
    wait_until_on(tiny, child)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(300)
    output = (tiny.root / "output").read_text()
    assert child.exitcode == code, output
    said = " ".join(output.split())
    assert "stopped in stage safety at step" in said
    step = re.search(r"at step (\d+) of 100000; step (\d+) is kept", said)
    assert step is not None and step[1] == step[2], said
    assert "Stored stages of this path: tofu. The same command goes on from there." in said
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    assert kept.name.endswith(f"-{step[1]}")
    assert "Traceback" not in output
    check_no_half_written_run(tiny)


def test_interrupting_between_stages_says_so_too(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_unlearn.cli.main._lightning", interrupted)
    assert main(["fit", "--config", "some.yaml"]) == 130
    assert "stopped; the same command goes on from here." in capsys.readouterr().err


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
        DivergedError, match="stage safety, step 1 of 1: after it the log-probabilities"
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
