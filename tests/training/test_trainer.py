"""Runs of paths: which stages are trained, which are read from the store, and what survives."""

import importlib
import json
import random
import shutil
import signal
import sys
from typing import Any

import pytest
import torch
from path_runs import PATH, check_no_half_written_run, fitted, run_of, walk
from tiny_stages import Start, Tiny, dies_at, results, told_changes
from torch import Tensor

from lightning_unlearn import (
    GA,
    NPO,
    DivergedError,
    InputError,
    LabelLikelihood,
    LogProbs,
    MathAccuracy,
    Unlearning,
)
from lightning_unlearn.model.objective import supervised
from lightning_unlearn.storage.records import read_table
from lightning_unlearn.storage.stage_store import MANIFEST
from lightning_unlearn.training.path_plan import PlannedStage


def test_a_second_run_trains_nothing_and_ends_the_same(tiny: Tiny) -> None:
    first = fitted(tiny)
    assert first.trained_stages == [*PATH, "unlearn"]
    before = results(run_of(first))
    about = (run_of(first) / "run.json").read_bytes()
    assert {"records.parquet", "examples.parquet", "training.parquet"} < set(before)
    second = fitted(tiny)
    assert second.trained_stages == []
    assert run_of(second) == run_of(first)
    assert results(run_of(second)) == before
    assert (run_of(second) / "run.json").read_bytes() == about
    assert json.loads(about)["finished"] is True
    assert first.results is not None and second.results is not None
    assert second.results.steps == first.results.steps
    assert second.results.examples == first.results.examples


def test_the_model_is_the_last_one_also_when_nothing_was_trained(tiny: Tiny) -> None:
    ids = torch.arange(3, 30)[None]
    found = []
    for _ in range(2):
        module = tiny.module()
        tiny.trainer([GA()]).fit(module, tiny.datamodule(order=["safety"]))
        module.eval()
        with torch.no_grad():
            found.append(module.network.hf_model(input_ids=ids).logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_resumed_in_a_new_process_is_the_same_run(
    tiny: Tiny, start: Start, dropout: float
) -> None:
    whole = fitted(tiny.below("whole"), dropout=dropout)
    # The other process still has to make the last two planned stages.
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


def test_dropout_is_applied(tiny: Tiny) -> None:
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


def test_paths_share_their_prefixes(tiny: Tiny) -> None:
    trained = [
        fitted(tiny, order=order, watched=False).trained_stages
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


def test_seeds_and_methods_have_their_own_folders(tiny: Tiny) -> None:
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
    assert run_of(again) == run_of(second) and again.trained_stages == []


@pytest.mark.parametrize("content", ["{", "[]", '{"key": "other"}'])
def test_a_folder_of_something_else_is_not_used(tiny: Tiny, content: str) -> None:
    folder = tiny.root / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(content)
    trainer = fitted(tiny, order=["safety"], watched=False, run_name="run")
    assert run_of(trainer).name == "run_2"
    assert [file.name for file in folder.iterdir()] == ["run.json"]


def test_a_folder_that_cannot_be_written(tiny: Tiny) -> None:
    (tiny.root / "file").write_text("x")
    places: dict[str, Any]
    for place in ("default_root_dir", "store"):
        places = {place: str(tiny.root / "file" / "inside")}
        with pytest.raises(
            InputError, match=rf"trainer\.{place}: .*can(not|'t) be (created|written|made)"
        ):
            fitted(tiny, order=["safety"], watched=False, **places)


def plan_of(tiny: Tiny, **changes: Any) -> list[PlannedStage]:
    """Return the plan after changes of the trainer, the module, or the data."""
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


def test_the_key_of_the_users_method_contains_parameters_and_source(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tiny.root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tiny.root / "own_method.py"
    file.write_text(OWN)
    own = importlib.import_module("own_method")
    first = fitted(tiny, own.Own(), order=["safety"], watched=False)
    assert fitted(tiny, own.Own(), order=["safety"], watched=False).trained_stages == []
    assert fitted(tiny, own.Own(2.0), order=["safety"], watched=False).trained_stages == ["unlearn"]
    file.write_text(OWN.replace("self.weight *", "2 * self.weight *"))
    importlib.reload(own)
    edited = fitted(tiny, own.Own(), order=["safety"], watched=False)
    assert edited.trained_stages == ["unlearn"]
    assert run_of(edited) != run_of(first)
    # A set is unordered: it must not change the key from process to process.
    keys = [
        plan_of(tiny, callbacks=[own.Own(words=words)])[-1].key
        for words in ({"a", "b", "c", "d"}, {"d", "c", "b", "a"})
    ]
    assert keys[0] == keys[1]
    monkeypatch.delitem(sys.modules, "own_method")


class NotANumber(Unlearning):
    """A method whose loss is NaN in the second step."""

    uses_reference = False

    def __init__(self, value: str = "nan") -> None:
        super().__init__()
        # Keep it as text: NaN among a method's numbers is refused before training.
        self.value = value
        self._calls = 0

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        self._calls += 1
        return policy.sum * (float(self.value) if self._calls == 2 else 1.0)


class Raises(NotANumber):
    """A method that raises its own error."""

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        if self._calls == 1:
            raise RuntimeError("own mistake")
        return super().loss(policy, reference)


class WrongShape(NotANumber):
    """A method whose loss has the wrong shape: it reduces over the batch."""

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        return policy.sum.mean()


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (NotANumber(), DivergedError, r"stage unlearn, step 2 of 3: the loss is nan\..* are kept"),
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
    # The same module is used with another method, and the failure has no effect on it.
    after = tiny.trainer([NPO()])
    after.fit(module, data)
    assert after.trained_stages == ["unlearn"]
    apart = fitted(tiny.below("apart"), order=["tofu", "safety"], watched=False)
    assert results(run_of(after)) == results(run_of(apart))


def test_a_training_stage_that_diverges_is_named(tiny: Tiny) -> None:
    stages = tiny.stages()
    stages["math"].lr = 1e30
    with pytest.raises(DivergedError, match=r"stage math, step \d of 3.* \(now 1e\+30\)"):
        tiny.trainer([GA()]).fit(tiny.module(), tiny.datamodule(stages=stages, order=PATH))
    trainer = tiny.trainer([GA()])
    trainer.fit(tiny.module(), tiny.datamodule(order=PATH))
    assert trainer.trained_stages == ["math", "safety", "unlearn"]


def test_the_objective_is_restored(tiny: Tiny) -> None:
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
        (
            [],
            {},
            r"found no unlearning method, expected one for the forget stage 'safety' \(data\.",
        ),
        ([GA()], {"forget": None}, r"data\.forget: found null, but GA is among trainer\.callbacks"),
        ([GA()], {"micro_batch_size": 3}, r"data\.stages\.inst\.batch_size: found 4, which is not"),
        ([GA(), MathAccuracy("history")], {}, r"MathAccuracy\.stage: found 'history'"),
        ([LabelLikelihood()], {"forget": None}, "LabelLikelihood: found data.forget null"),
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
    with pytest.raises(InputError, match=r"trainer\.strategy: found .* spawns .* to ddp"):
        trainer.fit(tiny.module(), tiny.datamodule())
    assert nothing_written(tiny)


def test_training_without_unlearning(tiny: Tiny) -> None:
    trainer = tiny.trainer([])
    trainer.fit(tiny.module(), tiny.datamodule(forget=None, order=["math", "tofu"]))
    assert trainer.trained_stages == ["math", "tofu"]
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
    assert second.trained_stages == ["math"]  # the entries after it are valid
    assert results(run_of(second)) == before
    assert "is damaged" in capsys.readouterr().err
    shutil.rmtree(first.store.folder / plan[0]["key"])
    third = fitted(tiny, watched=False)
    assert third.trained_stages == [plan[0]["name"]]
    assert results(run_of(third)) == before


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
