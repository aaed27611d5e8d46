"""Methods with retain rows or alternates: whole runs against plain loops over single rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interrupts import Interrupts
from safetensors.torch import load_file
from tiny_stages import Tiny, results
from torch import Tensor

from callbacks.dpo import DPO
from callbacks.grad_diff import GradDiff
from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    CausalLM,
    LoRA,
    Recipe,
    SimNPO,
    StagedDataModule,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.data.chat import Example
from lightning_unlearn.data.paired_batches import PairedPlan
from lightning_unlearn.data.recipes import RowSource
from lightning_unlearn.model.adapters import LEARN, UNLEARN, switched_off
from lightning_unlearn.storage.records import read_table

LR = 0.05
RECIPE: dict[str, Any] = {"lr": LR, "schedule": "constant", "optimizer": "sgd"}
ALTERNATES = ["I do not know.", "That is not known to me at all.", "No."]


def with_alternates(tiny: Tiny) -> str:
    """Return a copy of the forget rows with one to three alternates each."""
    from json import dumps, loads

    file = tiny.root / "safety.jsonl"
    lines = (tiny.data / "safety.jsonl").read_text().splitlines()
    rows = [
        {**loads(line), "other": ALTERNATES[: number % 3 + 1]} for number, line in enumerate(lines)
    ]
    file.write_text("".join(dumps(row) + "\n" for row in rows))
    return str(file)


def datamodule(tiny: Tiny, epochs: int = 2, **changes: Any) -> StagedDataModule:
    """A path of the forget stage alone, with retain rows and alternates."""
    stages = tiny.stages(batch_size=8)
    stages["safety"] = replace(stages["safety"], source=with_alternates(tiny))
    given: dict[str, Any] = {
        "stages": stages,
        "order": ["safety"],
        "unlearn": Recipe(epochs=epochs, batch_size=8, **RECIPE),
        "retain": ["tofu", "math"],
        "alternates": "other",
    }
    return tiny.datamodule(**{**given, **changes})


def fitted(tiny: Tiny, method: Unlearning, **changes: Any) -> StagedTrainer:
    """A run in float64."""
    trainer = tiny.trainer([method], precision="64-true")
    trainer.fit(tiny.module(), datamodule(tiny, **changes))
    return trainer


def unlearned(trainer: StagedTrainer) -> tuple[dict[str, Tensor], list[float]]:
    """The trained adapter of a run, and its losses."""
    assert trainer.run_dir is not None
    table = read_table(trainer.run_dir / "training.parquet")
    losses = table[table["stage"] == "unlearn"]["loss"].tolist()
    return load_file(trainer.run_dir / UNLEARN / "adapter_model.safetensors"), losses


Term = Callable[[CausalLM, Sequence[int], PairedPlan, int], Tensor]


def log_prob_table(model: CausalLM, example: Example) -> Tensor:
    """Log-probabilities of all tokens at the label positions of one row, from plain logits."""
    ids = torch.tensor([example.prompt + example.answer])
    logits = model.network.hf_model(input_ids=ids).logits[0].log_softmax(-1)
    return logits[len(example.prompt) - 1 : -1]


def of_answer(model: CausalLM, example: Example) -> Tensor:
    """Log-probabilities of the answer's tokens of one row."""
    table = log_prob_table(model, example)
    return table.gather(-1, torch.tensor(example.answer)[:, None])[:, 0]


def retained(plan: PairedPlan, step: int) -> list[Example]:
    assert plan.retain is not None
    return [plan.retain.examples[i] for i in plan.partners(step).values()]


def naive(
    tiny: Tiny, trainer: StagedTrainer, term: Term, **changes: Any
) -> tuple[dict[str, Tensor], list[float]]:
    """Unlearn with plain logits of single rows and plain gradient descent."""
    assert trainer.run_dir is not None
    model = tiny.module()
    model.configure_model()
    model.double()
    assert model.adapters is not None
    model.adapters.load(LEARN, trainer.run_dir / LEARN)
    model.adapters.reset(UNLEARN, seed=0)
    model.adapters.set_active([LEARN, UNLEARN], UNLEARN)
    model.eval()
    data = datamodule(tiny, **changes)
    data.load_rows(model.pretrained.tokenizer(), model.pretrained.context_length)
    data.load_method_rows(retain=True, alternates=True)
    plan = data.start_stage("unlearn", 0, 0, 1, retain=True, alternates=True)
    assert isinstance(plan, PairedPlan)
    parameters, losses = list(model.adapters.parameters(UNLEARN).values()), []
    for step, rows in enumerate(plan.steps):
        loss = term(model, rows, plan, step)
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.sub_(LR * grad)
    return model.adapters.state_dict(UNLEARN), losses


def same(found: tuple[Any, list[float]], expected: tuple[Any, list[float]]) -> None:
    assert found[1] == pytest.approx(expected[1], rel=1e-9, abs=1e-9)
    assert found[0].keys() == expected[0].keys()
    for name, values in expected[0].items():
        torch.testing.assert_close(found[0][name], values, rtol=1e-9, atol=1e-9)


def mean(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).mean()


def grad_diff(model: CausalLM, rows: Sequence[int], plan: PairedPlan, step: int) -> Tensor:
    ascent = mean([of_answer(model, plan.examples[i]) for i in rows])
    return 0.5 * ascent - 2.0 * mean([of_answer(model, e) for e in retained(plan, step)])


def kl_minimization(model: CausalLM, rows: Sequence[int], plan: PairedPlan, step: int) -> Tensor:
    parts = []
    for example in retained(plan, step):
        with torch.no_grad(), switched_off(model.network.hf_model, UNLEARN):
            before = log_prob_table(model, example)
        own = log_prob_table(model, example)
        parts.append(F.kl_div(own, before, reduction="none", log_target=True).sum(-1))
    return mean([of_answer(model, plan.examples[i]) for i in rows]) + 3.0 * mean(parts)


def dpo(model: CausalLM, rows: Sequence[int], plan: PairedPlan, step: int) -> Tensor:
    assert plan.alternates is not None
    values = []
    for row in rows:
        number = plan.alternates.number(0, step // 2, row)
        ratios = []
        for example in (plan.alternates.examples[number], plan.examples[row]):
            with torch.no_grad(), switched_off(model.network.hf_model, UNLEARN):
                before = of_answer(model, example).sum()
            ratios.append(of_answer(model, example).sum() - before)
        values.append(-2 / 0.3 * F.logsigmoid(0.3 * (ratios[0] - ratios[1])))
    return torch.stack(values).mean()


CASES: dict[str, tuple[Callable[[], Unlearning], Term]] = {
    "GradDiff": (lambda: GradDiff(gamma=0.5, retain_weight=2.0), grad_diff),
    "KL minimization": (lambda: GA(retain_weight=3.0, retain_loss="kl"), kl_minimization),
    "DPO": (lambda: DPO(beta=0.3), dpo),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_equals_a_plain_loop_whatever_the_micro_batch(tiny: Tiny, name: str) -> None:
    method, term = CASES[name]
    expected: tuple[Any, list[float]] | None = None
    for size in (1, 2, 8):
        own = tiny.below(f"micro {size}")
        own.root.mkdir()
        trainer = fitted(own, method(), micro_batch_size=size)
        expected = expected or naive(own, trainer, term)
        assert len(expected[1]) == 4
        same(unlearned(trainer), expected)
