"""What is in the keys of the store: every argument is classified, and changed to prove it.

An argument is in the key of the stages that it can change (`CHANGES`), or it changes no number
beyond rounding and where things go (`LEAVES`). A new argument fails here until it is classified.
"""

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from key_plans import PATH, Plans
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from tiny_stages import Tiny
from trained_elsewhere import random_adapter

import lightning_unlearn.data.stage_rows as stage_rows
from lightning_unlearn import (
    GA,
    NPO,
    CausalLM,
    EvalSet,
    InputError,
    LabelLikelihood,
    LoRA,
    Oracle,
    Recipe,
    RowSource,
    Stage,
    StagedDataModule,
    StagedTrainer,
)
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.model.checks import ModelChecks

# Stages of the plan (three stages and unlearning) whose keys change.
ALL, LATER, UNLEARNING = (0, 1, 2, 3), (1, 2, 3), (3,)


@pytest.fixture(autouse=True)
def flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the settings that trainers change for the process; pretend there is a compiler."""
    monkeypatch.setattr(ModelChecks, "device", lambda *_: None)
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark, matmul = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul
    products = matmul.fp32_precision
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    matmul.fp32_precision = products


@pytest.fixture
def plans(tiny: Tiny) -> Plans:
    return Plans(tiny)


def other_base(plans: Plans) -> str:
    """The same model with one number of its configuration changed."""
    folder = Path(shutil.copytree(plans.tiny.base, plans.tiny.root / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.01}))
    return str(folder)


def other_template(plans: Plans) -> str:
    folder = Path(shutil.copytree(plans.tiny.base, plans.tiny.root / "template"))
    for file in folder.glob("*template*"):
        file.write_text("{{ 'Go.' }}" + file.read_text())
    return str(folder)


def copied(plans: Plans) -> str:
    return str(shutil.copytree(plans.tiny.base, plans.tiny.root / "copy"))


def unordered(plans: Plans, **place: int) -> dict[str, Any]:
    """The three stages of the path, in another order of definition."""
    stages = {name: stage for name, stage in plans.tiny.stages().items() if name in PATH}
    return {"data": {"stages": stages, "order": None, **place}}


def adapters(plans: Plans, **seeds: int) -> dict[str, Any]:
    """Adapters of random weights, by stage and seed."""
    base, root = plans.tiny.base, plans.tiny.root / "adapters"
    found = {
        name: random_adapter(base, root / f"{name}{seed}", seed) for name, seed in seeds.items()
    }
    return {"adapters": found}


class Halved(Precision):
    """A class of a user."""


Change = Callable[[Plans], dict[str, Any]]

# Argument -> stages whose key it changes, and a changed value.
CHANGES: dict[type, dict[str, list[tuple[tuple[int, ...], Change]]]] = {
    CausalLM: {
        "base": [(ALL, lambda p: {"model": {"base": other_base(p)}})],
        "lora": [
            (ALL, lambda p: {"model": {"lora": LoRA(rank=4, alpha=9)}}),
            (ALL, lambda p: {"model": {"lora": None}}),
        ],
        "attn_implementation": [(ALL, lambda p: {"model": {"attn_implementation": "eager"}})],
        "adapters": [
            (ALL, lambda p: {"model": adapters(p, inst=0), "data": {"learned": ["inst"]}})
        ],
    },
    StagedDataModule: {
        # "inst" is not on the path; methods may use what was learned before.
        "learned": [(UNLEARNING, lambda p: {"data": {"learned": ["inst"]}})],
        "stages": [(ALL, lambda p: {"data": {"stages": p.tiny.stages(lr=1e-3)}})],
        "forget": [(UNLEARNING, lambda p: {"data": {"forget": "math"}})],
        "order": [(ALL, lambda p: {"data": {"order": ["math", "safety", "tofu"]}})],
        "position": [(ALL, lambda p: unordered(p, position=1))],
        "permutation": [(ALL, lambda p: unordered(p, permutation=6))],
        "unlearn": [(UNLEARNING, lambda p: {"data": {"unlearn": Recipe(lr=1e-3, batch_size=4)}})],
        "eval_sets": [
            (
                UNLEARNING,
                lambda p: {"data": {"eval_sets": {"p": EvalSet(str(p.tiny.data / "inst.jsonl"))}}},
            )
        ],
        "max_length": [(ALL, lambda p: {"data": {"max_length": 55}})],
        "chat_template_from": [
            (ALL, lambda p: {"data": {"chat_template_from": other_template(p)}})
        ],
    },
    StagedTrainer: {
        "seed": [(ALL, lambda p: {"trainer": {"seed": 1}})],
        "precision": [(ALL, lambda p: {"trainer": {"precision": "bf16-true"}})],
        "plugins": [
            (ALL, lambda p: {"trainer": {"precision": None, "plugins": Halved()}}),
            (
                ALL,
                lambda p: {
                    "trainer": {
                        "precision": None,
                        "plugins": [MixedPrecision("bf16-mixed", "cpu")],
                    }
                },
            ),
        ],
        "callbacks": [
            (UNLEARNING, lambda p: {"trainer": {"callbacks": [GA(), LabelLikelihood()]}}),
            (UNLEARNING, lambda p: {"trainer": {"callbacks": [NPO(beta=0.4), LabelLikelihood()]}}),
            (UNLEARNING, lambda p: {"trainer": {"callbacks": [NPO()]}}),
            (
                UNLEARNING,
                lambda p: {"trainer": {"callbacks": [NPO(), LabelLikelihood(every_n_steps=3)]}},
            ),
            (
                UNLEARNING,
                lambda p: {"trainer": {"callbacks": [NPO(), LabelLikelihood(phrases=["No"])]}},
            ),
        ],
    },
    Recipe: {
        "lr": [(LATER, lambda p: p.with_stage(lr=1e-4))],
        "epochs": [(LATER, lambda p: p.with_stage(epochs=2))],
        "steps": [(LATER, lambda p: p.with_stage(steps=1))],
        "batch_size": [(LATER, lambda p: p.with_stage(batch_size=2))],
        "schedule": [(LATER, lambda p: p.with_stage(schedule="cosine"))],
        "warmup": [(LATER, lambda p: p.with_stage(warmup=0.5))],
        "decay": [(LATER, lambda p: p.with_stage(decay=0.5))],
        "optimizer": [(LATER, lambda p: p.with_stage(optimizer="sgd"))],
        "betas": [(LATER, lambda p: p.with_stage(betas=(0.9, 0.99)))],
        "momentum": [(LATER, lambda p: p.with_stage(optimizer="sgd", momentum=0.5))],
        "weight_decay": [(LATER, lambda p: p.with_stage(weight_decay=0.1))],
        "gradient_clip": [(LATER, lambda p: p.with_stage(gradient_clip=1.0))],
    },
    Stage: {
        "source": [
            (
                LATER,
                lambda p: p.with_stage(
                    source=p.file("math.jsonl", lambda row: {**row, "answer": "1"})
                ),
            )
        ],
        "heldout": [(UNLEARNING, lambda p: p.with_stage(heldout=None))],
        "prompt": [(LATER, lambda p: p.with_stage(prompt="answer"))],
        "answer": [(LATER, lambda p: p.with_stage(answer="question"))],
        "prompt_template": [(LATER, lambda p: p.with_stage(prompt_template="Q: {question}"))],
        "system": [(LATER, lambda p: p.with_stage(system="answer"))],
        "text": [(LATER, lambda p: p.with_stage(text="answer"))],
        "limit": [(LATER, lambda p: p.with_stage(limit=5))],
        "heldout_limit": [(UNLEARNING, lambda p: p.with_stage(heldout_limit=2))],
    },
    LoRA: {
        name: [(ALL, lambda p, v=value, n=name: {"model": {"lora": LoRA(**{**LORA, n: v})}})]
        for name, value in {
            "rank": 2,
            "alpha": 9,
            "dropout": 0.1,
            "target_modules": ["q_proj"],
        }.items()
    },
    EvalSet: {},
    RowSource: {},
    FSDP2: {},
}
LORA = {"rank": 4, "alpha": 8}
# Argument -> changed values that change no key. With dropout, micro-batches do; see below.
LEAVES: dict[type, dict[str, list[Change]]] = {
    CausalLM: {
        "base": [lambda p: {"model": {"base": copied(p)}}],
        "lora": [lambda p: {"model": {"lora": LoRA(rank=4, alpha=8.0)}}],
        "gradient_checkpointing": [lambda p: {"model": {"gradient_checkpointing": True}}],
        "save_merged": [lambda p: {"model": {"save_merged": True}}],
        "compile": [lambda p: {"model": {"compile": True}}],
        "trust_remote_code": [lambda p: {"model": {"trust_remote_code": True}}],
    },
    StagedDataModule: {
        "stages": [
            lambda p: {"data": {"stages": dict(reversed(p.tiny.stages().items()))}},
            # Stages that are not on the path.
            lambda p: p.with_stage("inst", source="nowhere.jsonl", lr=1.0),
        ],
        "order": [lambda p: {"data": {"order": tuple(PATH)}}],
        "max_length": [lambda p: {"data": {"max_length": 120}}],
        "chat_template_from": [lambda p: {"data": {"chat_template_from": copied(p)}}],
        # Methods that use them are tested in test_keys_of_rows.
        "retain": [lambda p: {"data": {"retain": ["tofu"]}}],
        "alternates": [lambda p: {"data": {"alternates": "answer"}}],
        "micro_batch_size": [lambda p: {"data": {"micro_batch_size": 1}}],
        "eval_batch_size": [lambda p: {"data": {"eval_batch_size": 1}}],
    },
    StagedTrainer: {
        "store": [lambda p: {"trainer": {"store": str(p.tiny.root / "other")}}],
        "run_name": [lambda p: {"trainer": {"run_name": "other"}}],
        "default_root_dir": [lambda p: {"trainer": {"default_root_dir": str(p.tiny.root / "x")}}],
        "accelerator": [lambda p: {"trainer": {"accelerator": "auto"}}],
        "strategy": [
            lambda p: {"trainer": {"strategy": "ddp"}},
            lambda p: {"trainer": {"strategy": "fsdp2"}},
        ],
        "devices": [lambda p: {"trainer": {"devices": 2, "strategy": "ddp"}}],
        # No monitor compares with it; see test_oracle_key.py.
        "oracle": [lambda p: {"trainer": {"oracle": Oracle(copied(p))}}],
        "num_nodes": [lambda p: {"trainer": {"num_nodes": 2, "strategy": "ddp"}}],
        "logger": [lambda p: {"trainer": {"logger": CSVLogger(p.tiny.root)}}],
        "checkpoint_steps": [lambda p: {"trainer": {"checkpoint_steps": 1}}],
        "checkpoint_minutes": [lambda p: {"trainer": {"checkpoint_minutes": None}}],
        "snapshot_steps": [lambda p: {"trainer": {"snapshot_steps": 1}}],
        "enable_progress_bar": [lambda p: {"trainer": {"enable_progress_bar": True}}],
        "deterministic": [lambda p: {"trainer": {"deterministic": True}}],
        "benchmark": [lambda p: {"trainer": {"benchmark": True}}],
        "profiler": [lambda p: {"trainer": {"profiler": "simple"}}],
        "plugins": [lambda p: {"trainer": {"plugins": []}}],
        "detect_anomaly": [lambda p: {"trainer": {"detect_anomaly": True}}],
    },
    Recipe: {
        # Ignored if other arguments are set.
        "momentum": [lambda p: p.with_stage(momentum=0.5)],
        "lr": [lambda p: p.with_stage(lr=0.005)],
    },
    Stage: {
        # Only their rows are in the keys.
        "source": [
            lambda p: p.with_stage(source=p.file("math.jsonl", lambda row: {**row, "id": 1}))
        ],
        "prompt": [lambda p: renamed(p, "prompt")],
        "answer": [lambda p: renamed(p, "answer")],
        "limit": [lambda p: p.with_stage(limit=100)],
        # The label is the paper's; see below for own answers.
        "paraphrase": [lambda p: p.with_stage("safety", paraphrase="question")],
    },
    LoRA: {
        "target_modules": [
            lambda p: {"model": {"lora": LoRA(**LORA, target_modules="all-linear")}}
        ],
    },
    EvalSet: {},
    RowSource: {},
    FSDP2: {
        name: [lambda p, v=value, n=name: {"trainer": {"strategy": FSDP2(**{n: v})}}]
        for name, value in {
            "data_parallel_size": 1,
            "tensor_parallel_size": None,
            "cpu_offload": True,
            "layer_classes": ["LlamaDecoderLayer"],
        }.items()
    },
}
# Separate tests cover these, below and in test_keys_of_rows.
APART = {
    CausalLM: {"quantization", "stacked"},
    StagedDataModule: {"oracle"},
    Stage: {"messages", "subset", "split", "heldout_split", "stride", "packing"},
    EvalSet: {field.name for field in fields(EvalSet)},
    RowSource: {field.name for field in fields(RowSource)},
}


def renamed(plans: Plans, column: str) -> dict[str, Any]:
    """Return the same rows with another column name, in both files."""
    old = {"prompt": "question", "answer": "answer"}[column]

    def edit(row: dict[str, Any]) -> dict[str, Any]:
        return {("other" if key == old else key): value for key, value in row.items()}

    files = [plans.file(name, edit) for name in ("math.jsonl", "math-heldout.jsonl")]
    return plans.with_stage(**{column: "other"}, source=files[0], heldout=files[1])


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_every_argument_is_classified(kind: type) -> None:
    arguments = set(inspect.signature(kind).parameters)
    if kind is Stage:
        arguments -= {field.name for field in fields(Recipe)}
    classified = {*CHANGES[kind], *LEAVES[kind], *APART.get(kind, ())}
    assert arguments == classified


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_arguments_that_change_numbers_change_later_keys(plans: Plans, kind: type) -> None:
    for name, cases in CHANGES[kind].items():
        for steps, change in cases:
            assert plans.changed(**change(plans)) == steps, name


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_arguments_that_change_no_number_change_no_key(plans: Plans, kind: type) -> None:
    for name, cases in LEAVES[kind].items():
        for number, change in enumerate(cases):
            inner = Plans(plans.tiny.below(f"{name}{number}"))
            inner.tiny.root.mkdir(exist_ok=True)
            assert inner.changed(**change(inner)) == (), name


def test_with_dropout_the_micro_batch_size_changes_the_key(plans: Plans) -> None:
    """Each forward pass draws its own dropout mask."""
    dropout = {"model": {"lora": LoRA(rank=4, alpha=8, dropout=0.1)}}
    plain = plans.keys(**dropout)
    for change in (
        {**dropout, "data": {"micro_batch_size": 1}},
        {**dropout, "trainer": {"devices": 2, "strategy": "ddp"}},
        {"model": {**dropout["model"], "compile": True}},
    ):
        assert not set(plans.keys(**change)) & set(plain), change
    assert plans.keys(**dropout, trainer={"strategy": "ddp"}) == plain


def test_a_quantized_base_has_another_key(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelChecks, "quantization", lambda self, trainer: None)
    assert plans.changed(model={"quantization": "nf4"}) == ALL


def test_adapters_of_earlier_stages_change_the_key_of_unlearning_alone(plans: Plans) -> None:
    """Training starts from the last one; a method may use the others."""
    data = {"learned": ["inst", "math"], "order": ["safety"]}

    def keys(inst: int, math: int, **more: Any) -> list[str]:
        return plans.keys({**adapters(plans, inst=inst, math=math), **more}, data)

    plain = keys(0, 1)
    assert keys(0, 1) == plain
    for changed, equal in ((keys(2, 1), (True, False)), (keys(0, 2), (False, False))):
        assert tuple(a == b for a, b in zip(plain, changed, strict=True)) == equal
    stacked = keys(0, 1, stacked=True)
    assert not set(stacked) & {*plain, *keys(2, 1, stacked=True)}


def test_an_oracle_is_trained_without_the_forget_stage(plans: Plans) -> None:
    plain = plans.keys()
    oracle = plans.keys(data={"oracle": True})
    assert oracle[:2] == plain[:2] and len(oracle) == 3 and oracle[2] not in plain


def test_matmul_precision_changes_the_key(plans: Plans) -> None:
    plain = plans.keys()
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert not set(plans.keys()) & set(plain)


def test_hub_arguments_change_the_key_only_through_the_rows(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader receives each argument, and the rows it returns are hashed."""
    real = stage_rows.read_rows

    def read(source: str, *, split: str, subset: str | None, key: str, **rest: Any) -> Any:
        rows = real(source, key=key, **rest)
        if split == "train" and subset is None:
            return rows
        return [replace(row, answer=f"{split} {subset}") for row in rows]

    monkeypatch.setattr(stage_rows, "read_rows", read)
    assert plans.changed(**plans.with_stage(split="test")) == LATER
    assert plans.changed(**plans.with_stage(subset="main")) == LATER
    assert plans.changed(**plans.with_stage(heldout_split="test")) == UNLEARNING


def test_chats_are_hashed_by_their_messages(plans: Plans) -> None:
    def chat(row: dict[str, Any]) -> dict[str, Any]:
        turns = (("user", row["question"]), ("assistant", row["answer"]))
        return {"chat": [{"role": role, "content": text} for role, text in turns]}

    files = [plans.file(name, chat) for name in ("math.jsonl", "math-heldout.jsonl")]
    same = plans.with_stage(messages="chat", source=files[0], heldout=files[1])
    assert plans.changed(**same) == ()


def test_the_label_that_is_evaluated_is_in_the_key(plans: Plans) -> None:
    """Equal labels have equal keys, whether they were asked for or taken."""

    def labeled(*given: str, **data: Any) -> list[str]:
        callbacks = [NPO(), LabelLikelihood(label=given[0] if given else "auto")]
        return plans.keys(trainer={"callbacks": callbacks}, **data)

    rows = plans.file("safety.jsonl", lambda row: {**row, "answer": "It is " + row["answer"]})
    other = plans.with_stage("safety", source=rows)
    assert labeled() == labeled("paper") != labeled("own")
    assert labeled(**other) == labeled("own", **other) != labeled("paper", **other)
    paraphrased = plans.with_stage("safety", paraphrase="question")
    plain, found = labeled("own"), labeled("own", **paraphrased)
    assert plain[:-1] == found[:-1] and plain[-1] != found[-1]
    assert labeled("paper", **paraphrased) == labeled("paper")


def test_windows_of_plain_text_are_in_the_key(plans: Plans) -> None:
    found = []
    for cut in ({}, {"packing": True}, {"packing": True, "stride": 9}):
        change = plans.with_stage(text="question", **cut)
        found.append(plans.keys(data={**change["data"], "max_length": 64}))
    assert len({keys[-1] for keys in found}) == len(found)


PROBE = {"question": "a", "answer": "b", "other": "c", "words": "d", "wrong": ["e"], "more": "f"}


def test_arguments_of_an_eval_set_change_the_key_only_through_its_rows(plans: Plans) -> None:
    file = plans.tiny.root / "probe.jsonl"
    more = {"chat": [{"role": "user", "content": "g"}, {"role": "assistant", "content": "h"}]}
    file.write_text(json.dumps({**PROBE, **more}) + "\n" + json.dumps({**PROBE, **more}) + "\n")
    again = plans.tiny.root / "again.jsonl"
    again.write_text(json.dumps({**PROBE, "answer": "i"}) + "\n")
    changes: dict[str, dict[str, Any]] = {
        "source": {"source": str(again)},
        "prompt": {"prompt": "other"},
        "answer": {"answer": "other"},
        "prompt_template": {"prompt_template": "{question} {other}"},
        "system": {"system": "more"},
        "messages": {"messages": "chat"},
        "text": {"text": "words"},
        "paraphrase": {"paraphrase": "words"},
        "alternatives": {"alternatives": "wrong"},
        "limit": {"limit": 1},
    }
    found = [plans.keys(data={"eval_sets": {"p": EvalSet(str(file))}})]
    for change in changes.values():
        probe = EvalSet(**{"source": str(file), **change})
        found.append(plans.keys(data={"eval_sets": {"p": probe}}))
    assert len({keys[-1] for keys in found}) == len(changes) + 1
    assert {tuple(keys[:-1]) for keys in found} == {tuple(plans.keys()[:-1])}
    # Hub data sets of evaluation sets are read like those of stages.
    assert set(changes) | {"subset", "split"} == {field.name for field in fields(EvalSet)}


@pytest.mark.parametrize("name", ["optimizer", "schedule"])
@pytest.mark.parametrize("value", [None, "adam", ""])
def test_an_optimizer_that_is_not_the_default_is_refused(tiny: Tiny, name: str, value: Any) -> None:
    """Otherwise it would train AdamW under another key."""
    with pytest.raises(InputError, match=rf"^data\.unlearn\.{name}: found .*, expected one of "):
        tiny.datamodule(unlearn=Recipe(batch_size=4, **{name: value}))
    stages = tiny.stages()
    setattr(stages["math"], name, value)
    with pytest.raises(InputError, match=rf"^data\.stages\.math\.{name}: found "):
        tiny.datamodule(stages=stages)
