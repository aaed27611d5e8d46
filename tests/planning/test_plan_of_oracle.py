"""The plan counts an oracle that is a model of its own, and what is kept of it."""

from dataclasses import replace
from typing import Any

import pytest
from simulated import TINY
from transformers import AutoConfig

from lightning_unlearn import (
    NPO,
    CausalLM,
    LoRA,
    Oracle,
    OracleDistance,
    Recipe,
    Stage,
    StagedDataModule,
    StagedTrainer,
)
from lightning_unlearn.demo import resolve
from lightning_unlearn.planning.estimate import OracleNeeds, _oracle, estimate
from lightning_unlearn.planning.render import text
from lightning_unlearn.planning.settings import Machine, Sharing


def run_of(oracle: Oracle | None, **options: Any) -> tuple[StagedTrainer, CausalLM, Any]:
    """A run of two sequences of 16 tokens."""
    trainer = StagedTrainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        callbacks=[NPO(), OracleDistance(**options)],
        oracle=oracle,
    )
    stages = {"one": Stage(source="demo:safety", batch_size=1)}
    unlearn = Recipe(batch_size=1)
    data = StagedDataModule(stages, "one", max_length=16, eval_batch_size=2, unlearn=unlearn)
    return trainer, CausalLM(TINY, LoRA(rank=4)), data


def test_an_oracle_is_counted() -> None:
    config = AutoConfig.from_pretrained(resolve(TINY))
    machine = Machine(1, 2**33, None, {"one": 8})
    plan = estimate(*run_of(Oracle(TINY)), machine, Sharing("one GPU"))
    head = config.vocab_size * config.hidden_size * 4
    assert plan.oracle is not None
    assert (plan.oracle.head, plan.oracle.states) == (head, config.hidden_size * 4)
    # Alone in memory, and without the optimizer.
    whole = plan.steps["evaluation"].measured
    alone = whole.peak - whole.memory["optimizer"] - whole.memory["other"]
    assert plan.oracle.peak == pytest.approx(alone, rel=0.05)
    # The projection stays, and no weights of the model are set aside for a stored oracle.
    for step in plan.steps.values():
        assert step.measured.memory["other"] == pytest.approx(head, rel=1e-3)
    said = text(plan, TINY, "./retrained")
    assert "Oracle ./retrained, evaluated before training and then removed: " in said
    assert f"Kept for the KL: {head / 2**20:.1f} MiB of output projection (above, among" in said
    plan.oracle = OracleNeeds(2**40, 0, 0)
    assert "Does not fit: oracle." in (said := text(replace(plan), TINY, "./retrained"))
    assert "--oracle.quantization nf4" in said and "Kept for the KL" not in said


def test_without_a_kl_nothing_is_kept() -> None:
    trainer, model, data = run_of(Oracle(TINY), kl=False)
    how = str(trainer.precision), trainer.strategy.precision_plugin, 1, False, None
    needs = _oracle(trainer, model, data, 16, how)
    assert needs.peak > 0 and (needs.head, needs.states) == (0, 0)
