"""Methods with retain rows or alternates: whole runs against plain loops over single rows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interrupts import Interrupts
from process_runs import run_script
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
    InputError,
    Recipe,
    SimNPO,
    StagedDataModule,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.data.batches import Batch
from lightning_unlearn.data.examples import Example
from lightning_unlearn.data.paired_batches import PairedPlan
from lightning_unlearn.data.recipes import RowSource
from lightning_unlearn.model.adapters import LEARN, UNLEARN, switched_off
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.storage.records import read_table

LR = 0.05
RECIPE: dict[str, Any] = {"lr": LR, "schedule": "constant", "optimizer": "sgd"}
ALTERNATES = ["I do not know.", "That is not known to me at all.", "No."]


def with_alternates(tiny: Tiny) -> str:
    """Return a copy of the forget rows with one to three alternates each."""
    file = tiny.root / "safety.jsonl"
    lines = (tiny.data / "safety.jsonl").read_text().splitlines()
    rows = [
        {**json.loads(line), "other": ALTERNATES[: number % 3 + 1]}
        for number, line in enumerate(lines)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def datamodule(tiny: Tiny, epochs: int = 2, **changes: Any) -> StagedDataModule:
    """A path of the forget stage alone, with retain rows and alternates."""
    stages = tiny.stages(batch_size=8)
    # One row is left over at the end of an epoch, so that a second process has none.
    stages["safety"] = replace(stages["safety"], source=with_alternates(tiny), limit=9)
    given: dict[str, Any] = {
        "stages": stages,
        "order": ["safety"],
        "unlearn": Recipe(epochs=epochs, batch_size=8, **RECIPE),
        "retain": ["tofu", "math"],
        "alternates": "other",
    }
    return tiny.datamodule(**{**given, **changes})


def fitted(
    tiny: Tiny, *callbacks: Any, trainer: dict[str, Any] | None = None, **changes: Any
) -> StagedTrainer:
    """A run in float64."""
    made = tiny.trainer([*callbacks], precision="64-true", **(trainer or {}))
    made.fit(tiny.module(), datamodule(tiny, **changes))
    return made


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


class Joint(Unlearning):
    """A method whose loss of a forget row depends on its retain row."""

    uses_reference = False
    uses_retain = True

    def objective(self, network: LogProbModel, batch: Batch) -> Tensor:
        assert batch.retain is not None
        kept, own = network.log_probs(batch.retain).mean, network.log_probs(batch).mean
        return F.softplus(own - kept)


def joint(model: CausalLM, rows: Sequence[int], plan: PairedPlan, step: int) -> Tensor:
    assert plan.retain is not None
    partners, values = plan.partners(step), []
    for row in rows:
        kept = of_answer(model, plan.retain.examples[partners[row]]).mean()
        values.append(F.softplus(of_answer(model, plan.examples[row]).mean() - kept))
    return torch.stack(values).mean()


CASES: dict[str, tuple[Callable[[], Unlearning], Term]] = {
    "GradDiff": (lambda: GradDiff(gamma=0.5, retain_weight=2.0), grad_diff),
    "KL minimization": (lambda: GA(retain_weight=3.0, retain_loss="kl"), kl_minimization),
    "DPO": (lambda: DPO(beta=0.3), dpo),
    "Joint": (Joint, joint),
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


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
import test_further_rows
from tiny_stages import Tiny

if __name__ == "__main__":
    tiny = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    test_further_rows.several(tiny, sys.argv[2])
"""


def several(tiny: Tiny, strategy: str) -> None:
    """Run in each of two processes."""
    run_dirs = {}
    for name, (method, _) in CASES.items():
        own = tiny.below(f"{strategy} {name}")
        own.root.mkdir(exist_ok=True)
        settings = {"devices": 2, "strategy": strategy}
        trainer = fitted(own, method(), trainer=settings, micro_batch_size=2)
        run_dirs[name] = str(trainer.run_dir)
    (tiny.root / f"{strategy}-{trainer.global_rank}.json").write_text(json.dumps(run_dirs))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_equal_one(tiny: Tiny, strategy: str) -> None:
    script = tiny.root / "several.py"
    root = Path(__file__).parents[2]
    folders = [root, root / "tests", root / "tests" / "helpers", root / "tests" / "unlearning"]
    script.write_text(SCRIPT.format(tests=[str(folder) for folder in folders]))
    run_script(script, tiny.settings(), strategy)
    found = json.loads((tiny.root / f"{strategy}-0.json").read_text())
    for name, (method, _) in CASES.items():
        own = tiny.below(f"one {name}")
        own.root.mkdir()
        expected = unlearned(fitted(own, method()))
        folder = Path(found[name])
        table = read_table(folder / "training.parquet")
        losses = table[table["stage"] == "unlearn"]["loss"].tolist()
        same((load_file(folder / UNLEARN / "adapter_model.safetensors"), losses), expected)


@pytest.mark.parametrize("name", ["KL minimization", "DPO"])
def test_a_resumed_run_is_bit_identical(tiny: Tiny, name: str) -> None:
    whole, halted = tiny.below("whole"), tiny.below("halted")
    for own in (whole, halted):
        own.root.mkdir()
    method = CASES[name][0]
    undisturbed = fitted(whole, method(), AnswerLikelihood(2))
    stopped = halted.trainer([method(), AnswerLikelihood(2)], precision="64-true")
    stopped.callbacks.append(Interrupts("unlearn", 3))  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt, match="in stage unlearn at step 3 of 4; a checkpoint of"):
        stopped.fit(halted.module(), datamodule(halted))
    resumed = fitted(halted, method(), AnswerLikelihood(2))
    assert resumed.trained_stages == ["unlearn"]
    assert undisturbed.run_dir is not None and resumed.run_dir is not None
    assert results(resumed.run_dir) == results(undisturbed.run_dir)


def test_without_use_further_rows_change_nothing(tiny: Tiny) -> None:
    for name, changes in {"plain": {"retain": None, "alternates": None}, "given": {}}.items():
        own = tiny.below(name)
        own.root.mkdir()
        fitted(own, NPO(), **changes)
    runs = [next((tiny.root / name / "runs" / "NPO").iterdir()) for name in ("plain", "given")]
    assert results(runs[0]) == results(runs[1])
    stores = [sorted(p.name for p in (run.parents[2] / "store").glob("*/")) for run in runs]
    assert stores[0] == stores[1]


@pytest.mark.parametrize(
    ("method", "changes", "model", "message"),
    [
        (
            lambda: NPO(retain_weight=0.5),
            {"retain": None},
            {},
            r"^data\.retain: found null, but NPO uses retain rows \(retain_weight 0\.5\), expected "
            r"their rows; set data\.retain to \[inst, tofu, math\], or retain_weight of the method "
            r"to 0\.$",
        ),
        (
            lambda: DPO(),
            {"alternates": None},
            {},
            r"^data\.alternates: found null, but DPO prefers alternates to the forget answers, ",
        ),
        (
            lambda: SimNPO(retain_weight=1, retain_loss="kl"),
            {},
            {"lora": None},
            r"^SimNPO\.retain_loss: found kl with model\.lora null, expected nll: ",
        ),
        (
            lambda: GradDiff(),
            {"retain": RowSource(source="nowhere.jsonl")},
            {},
            r"^data\.retain\.source: nowhere\.jsonl: found no such file",
        ),
    ],
)
def test_missing_rows_are_refused_before_training(
    tiny: Tiny,
    method: Callable[[], Unlearning],
    changes: dict[str, Any],
    model: dict[str, Any],
    message: str,
) -> None:
    trainer = tiny.trainer([method()], precision="64-true")
    with pytest.raises(InputError, match=message):
        trainer.fit(tiny.module(**model), datamodule(tiny, **changes))
    assert not (tiny.root / "store").exists() and not (tiny.root / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retain_weight": -1}, r"GA\.retain_weight: found -1, expected a number, 0 or more\.$"),
        ({"retain_weight": float("nan")}, r"GA\.retain_weight: found nan, expected a number"),
        ({"retain_loss": "mse"}, r"GA\.retain_loss: found 'mse', expected one of nll, kl\.$"),
    ],
)
def test_wrong_retain_terms_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GA(**options)


def test_a_loss_with_alternates_of_another_signature_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^Odd\.loss_with_alternates: found the parameters \(self, "
    ):
        type("Odd", (Unlearning,), {"loss_with_alternates": lambda self, policy: policy})


def test_notes_name_rows_that_a_method_does_not_use(tiny: Tiny) -> None:
    trainer = tiny.trainer([GA()])
    model, data = tiny.module(), datamodule(tiny)
    trainer.check(model, data)
    notes = " ".join(trainer.data_notes(model, data))
    assert "data.retain: GA has no retain term, so these rows are not used; set its" in notes
    assert "data.alternates: GA uses no alternates, so they are not read; remove" in notes
    assert data.method_rows.retain == () and data.method_rows.alternates is None
