"""Runs of a path by one trainer."""

import json
from pathlib import Path
from typing import Any

from tiny_stages import Tiny, results

from lightning_unlearn import (
    NPO,
    AnswerLikelihood,
    CausalLM,
    LabelLikelihood,
    LoRA,
    MathAccuracy,
    Monitor,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.storage.stage_store import MANIFEST, StageStore

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


def unlearned_and_oracle(tiny: Tiny, trainer: StagedTrainer) -> tuple[CausalLM, CausalLM]:
    """The unlearned model and the oracle, each opened by itself."""
    assert trainer.run_dir is not None
    own, oracle = tiny.module(), tiny.module()
    for model in (own, oracle):
        model.configure_model()
        model.double()
    own.weights.load(LEARN, trainer.run_dir / LEARN)
    own.weights.load(UNLEARN, trainer.run_dir / UNLEARN)
    own.adapters.peft_model.base_model.set_adapter([LEARN, UNLEARN])
    (run,) = (tiny.root / "runs" / "oracle").iterdir()
    oracle.weights.load(LEARN, run / LEARN)
    return own, oracle
