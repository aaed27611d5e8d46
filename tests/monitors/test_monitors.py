"""Monitors: their steps, their numbers, and their cost."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_stages import Tiny
from torch import Tensor

from lightning_unlearn import (
    GA,
    AnswerLikelihood,
    CausalLM,
    InputError,
    LabelLikelihood,
    MathAccuracy,
    ModelView,
    Monitor,
    Recipe,
    StagedDataModule,
    StagedTrainer,
)
from lightning_unlearn.data.columns import Row
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.generation import generate_answers
from lightning_unlearn.monitors import math_accuracy
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table

PATH = ["math", "safety"]


def fitted(
    tiny: Tiny, monitors: list[Monitor], **changes: Any
) -> tuple[StagedTrainer, CausalLM, StagedDataModule]:
    """Run 7 steps of unlearning, or as `changes` set it."""
    given: dict[str, Any] = {"order": PATH, "unlearn": Recipe(lr=2e-3, steps=7, batch_size=4)}
    trainer, module = tiny.trainer([GA(), *monitors], precision="64-true"), tiny.module()
    data = tiny.datamodule(**{**given, **changes})
    trainer.fit(module, data)
    return trainer, module, data


def table(trainer: StagedTrainer, file: str) -> pd.DataFrame:
    assert trainer.run_dir is not None
    return read_table(trainer.run_dir / file)


class Constant(Monitor):
    """Monitor that returns the number of the step and a value per example."""

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        return {"mine/step": torch.tensor(view.module.step), "mine/rows": torch.arange(3)}


@pytest.mark.parametrize(
    ("every", "steps"),
    [(0, [0, 7]), (1, list(range(8))), (3, [0, 3, 6, 7]), (7, [0, 7]), (100, [0, 7])],
)
def test_monitors_evaluate_at_0_k_2k_and_the_last_step(
    tiny: Tiny, every: int, steps: list[int]
) -> None:
    trainer, _, _ = fitted(tiny, [Constant(every)], order=["safety"])
    records = table(trainer, STEPS)
    assert list(records[records["metric"] == "mine/step"]["step"]) == steps
    assert list(records[records["metric"] == "mine/step"]["value"]) == steps
    assert set(records["stage"]) == {"unlearn"} and set(records["method"]) == {"GA"}
    assert set(records["path"]) == {"safety"} and set(records["position"]) == {1}


def test_examples_and_records_agree(tiny: Tiny) -> None:
    monitors = [Constant(3), AnswerLikelihood(3), LabelLikelihood(3, limit=4)]
    trainer, _, data = fitted(tiny, monitors)
    records, examples = table(trainer, STEPS), table(trainer, EXAMPLES)
    assert not records.duplicated(["step", "metric"]).any()
    assert not examples.duplicated(["step", "metric", "example"]).any()
    means = examples.groupby(["step", "metric"])["value"].mean()
    for row in records.itertuples():
        if row.metric != "mine/step":
            assert means[row.step, row.metric] == pytest.approx(row.value, abs=1e-12)
    counts = examples.groupby("metric")["example"].nunique().to_dict()
    assert counts == {
        "mine/rows": 3,
        "answers/math": len(data.heldout_examples["math"]),
        "answers/safety": len(data.examples["safety"]),
        "forget/label": 4,
        "forget/paraphrases": 4,
        "forget/mean": 4,
        "forget/base": 4,
    }
    assert trainer.results is not None
    assert trainer.results.first_and_last()["mine/step"] == (0.0, 7.0)


def naive(module: CausalLM, ids: tuple[int, ...], start: int) -> float:
    """Compute the mean log-probability of the tokens from `start`, with a full softmax."""
    with torch.no_grad():
        logits = (
            module.network.hf_model(input_ids=torch.tensor([ids]), use_cache=False)
            .logits[0]
            .double()
        )
    found = logits.log_softmax(-1)[range(start - 1, len(ids) - 1), ids[start:]]
    return float(found.mean())


def naive_answer(module: CausalLM, data: StagedDataModule, row: Row) -> float:
    assert data.format is not None
    tokenizer = data.format.tokenizer
    prompt = tokenizer.apply_chat_template(
        list(row.messages), tokenize=False, add_generation_prompt=True
    )
    turns = [*row.messages, {"role": "assistant", "content": row.answer}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    ids, prompt_ids = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (whole, prompt))
    return naive(module, tuple(ids), len(prompt_ids))


def test_values_equal_a_naive_computation(tiny: Tiny) -> None:
    monitors = [LabelLikelihood(0), AnswerLikelihood(0)]
    trainer, module, data = fitted(tiny, monitors)
    assert data.format is not None
    module.eval()
    examples = table(trainer, EXAMPLES)
    for step, active in ((0, [LEARN]), (7, [LEARN, UNLEARN])):
        module.adapters.set_active(active, None)
        seen = examples[examples["step"] == step].set_index(["metric", "example"])["value"]
        for stage, rows in (("math", data.heldout_rows["math"]), ("safety", data.rows["safety"])):
            for number, row in enumerate(rows):
                expected = naive_answer(module, data, row)
                assert seen[f"answers/{stage}", number] == pytest.approx(expected, abs=1e-9)
        for number, row in enumerate(data.rows["safety"][:3]):
            prompt = data.format.prompt_ids(row)
            scores = [
                naive(module, prompt + data.format.phrase_ids(row, phrase), len(prompt))
                for phrase in (LABEL, *PARAPHRASES)
            ]
            assert seen["forget/label", number] == pytest.approx(scores[0], abs=1e-9)
            rest = sum(scores[1:]) / len(PARAPHRASES)
            assert seen["forget/paraphrases", number] == pytest.approx(rest, abs=1e-9)
            mean = sum(scores) / len(scores)
            assert seen["forget/mean", number] == pytest.approx(mean, abs=1e-9)


def test_values_do_not_depend_on_the_batch_size(tiny: Tiny) -> None:
    found = []
    for size in (1, 3, 32):
        place = tiny.below(str(size))
        trainer, _, _ = fitted(
            place, [LabelLikelihood(0), AnswerLikelihood(0)], eval_batch_size=size
        )
        found.append(torch.tensor(table(trainer, EXAMPLES)["value"].to_numpy()))
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-9)
    assert torch.allclose(found[0], found[2], rtol=0, atol=1e-9)


class Again(AnswerLikelihood):
    """Monitor with the same requests as AnswerLikelihood, under other names."""

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        return {f"again/{k}": v for k, v in super().measure(view).items()}


def test_monitors_with_equal_requests_cost_one_forward(tiny: Tiny) -> None:
    counts = []
    seen = {}
    for monitors in ([AnswerLikelihood(0)], [AnswerLikelihood(0), Again(0)]):
        module, data = tiny.module(), tiny.datamodule(order=PATH)
        module.configure_model()
        calls: list[int] = []
        module.network.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        trainer = tiny.below(str(len(monitors))).trainer([GA(), *monitors])
        trainer.fit(module, data)
        counts.append(len(calls))
        assert trainer.results is not None
        seen = {(step, name): value for step, name, value in trainer.results.steps}
    assert counts[0] == counts[1]
    assert all(seen[step, f"again/{n}"] == v for (step, n), v in seen.items() if "again" not in n)


def test_validate_equals_the_last_evaluation_of_fit(tiny: Tiny) -> None:
    monitors = [
        LabelLikelihood(2),
        AnswerLikelihood(3),
        MathAccuracy(num_samples=2, max_new_tokens=4),
    ]
    trainer, _, _ = fitted(tiny, monitors)
    records = table(trainer, STEPS)
    last = records[records["step"] == 7].set_index("metric")["value"].to_dict()
    first = records[records["step"] == 0].set_index("metric")["value"].to_dict()
    of_base = first.pop("forget/base")
    fresh = tiny.trainer([GA(), *monitors], precision="64-true")
    module = tiny.module()
    data = tiny.datamodule(order=PATH, unlearn=Recipe(lr=2e-3, steps=7, batch_size=4))
    assert fresh.validate(module, data) == last
    assert fresh.validate(module, data, stage="unlearn") == last
    assert fresh.validate(module, data, stage="safety") == first
    base = fresh.validate(module, data, stage="base")
    assert base != first and set(base) == set(first)
    assert base["forget/label"] == of_base
    assert fresh.validate(module, data) == last, "the base was only looked at"
    assert trainer.validate(tiny.module(), data) == last


def test_validate_without_a_stored_model(tiny: Tiny) -> None:
    trainer = tiny.trainer([GA(), AnswerLikelihood()])
    data = tiny.datamodule(order=PATH)
    with pytest.raises(
        InputError, match=r"found unlearn, but .* has no model of this path after that stage"
    ):
        trainer.validate(tiny.module(), data)
    with pytest.raises(InputError, match=r"stage: found 'tofu', expected one of base, math, safe"):
        trainer.validate(tiny.module(), data, stage="tofu")
    with pytest.raises(InputError, match="found no monitor, expected at least one"):
        tiny.trainer([GA()]).validate(tiny.module(), data)
    trainer.validate(tiny.module(), data, stage="base")


def test_validate_of_a_trained_path_without_unlearning(tiny: Tiny) -> None:
    data = tiny.datamodule(order=["math"], forget=None)
    tiny.trainer([]).fit(tiny.module(), data)
    seen = tiny.trainer([AnswerLikelihood()]).validate(tiny.module(), data)
    assert list(seen) == ["answers/math"]


def check(tiny: Tiny, monitor: Monitor, **changes: Any) -> None:
    tiny.trainer([GA(), monitor]).check(tiny.module(), tiny.datamodule(**changes))


def test_math_accuracy_refuses_answers_without_a_number(tiny: Tiny) -> None:
    check(tiny, MathAccuracy())
    with pytest.raises(InputError, match=r"MathAccuracy\.stage: found 'history', expected a stage"):
        check(tiny, MathAccuracy("history"))
    with pytest.raises(
        InputError, match=r"found 'math', expected a stage of the path tofu, safety"
    ):
        check(tiny, MathAccuracy(), order=["tofu", "safety"])
    with pytest.raises(
        InputError, match=r"tofu\.jsonl, row 1, line 1: .* an answer without a number after ####"
    ):
        check(tiny, MathAccuracy("tofu"))
    for settings in ({"num_samples": 0}, {"max_new_tokens": 0}, {"limit": 0}, {"temperature": 0.0}):
        with pytest.raises(InputError, match=rf"MathAccuracy\.{next(iter(settings))}: found 0"):
            MathAccuracy(**settings)


def test_math_accuracy_checks_the_rows_it_uses(tiny: Tiny) -> None:
    """For the forget stage, these are the training rows, not the held-out rows."""
    stages = tiny.stages()
    stages["math"].heldout = str(tiny.data / "tofu.jsonl")
    check(tiny, MathAccuracy(), stages=stages, forget="math")
    with pytest.raises(InputError, match="an answer without a number after ####"):
        check(tiny, MathAccuracy(), stages=stages)


def test_settings_of_monitors_are_checked() -> None:
    with pytest.raises(InputError, match=r"AnswerLikelihood\.every_n_steps: found -1"):
        AnswerLikelihood(every_n_steps=-1)
    with pytest.raises(InputError, match=r"LabelLikelihood\.limit: found 0"):
        LabelLikelihood(limit=0)
    with pytest.raises(InputError, match="found an empty phrase"):
        LabelLikelihood(phrases=["No", " "])
    with pytest.raises(TypeError, match="found a monitor without measure"):
        type("Idle", (Monitor,), {})


def even(text: str, row: Row) -> bool:
    return (sum(map(ord, text)) + sum(map(ord, row.answer))) % 2 == 0


@pytest.mark.parametrize(("num_samples", "greedy"), [(4, False), (1, False), (4, True)])
def test_math_accuracy_scores_generated_answers(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, num_samples: int, greedy: bool
) -> None:
    """Half of all texts count as correct, so that accuracies are neither 0 nor 1."""
    monkeypatch.setattr(math_accuracy, "right_number", even)
    monitor = MathAccuracy(num_samples=num_samples, greedy=greedy, max_new_tokens=7)
    trainer, module, data = fitted(tiny, [monitor], eval_batch_size=2)
    seen = table(trainer, EXAMPLES)
    last = seen[seen["step"] == 7].groupby("metric")["value"].apply(list).to_dict()
    assert sorted(last) == ["accuracy/math", "truncated/math"]
    shares, capped = last["accuracy/math"], last["truncated/math"]
    parts = 1 if greedy else num_samples
    assert len(shares) == len(capped) == 5
    assert {*shares, *capped} <= {n / parts for n in range(parts + 1)} and len(set(shares)) > 1
    assert data.format is not None
    rows = data.heldout_rows["math"]
    ends = data.format.end_ids(rows[0])
    prompts = [data.format.prompt_ids(row) for row in rows]
    options: dict[str, Any] = {"num_samples": num_samples, "greedy": greedy, "max_new_tokens": 7}
    answers = generate_answers(module.evaluator, data.format.tokenizer, prompts, ends, **options)
    for i, row in enumerate(rows):
        texts = [answer.text for answer in answers[i]]
        assert shares[i] == sum(even(text, row) for text in texts) / parts
        assert capped[i] == sum(not answer.ended for answer in answers[i]) / parts


def test_math_accuracy_compares_numbers_not_texts() -> None:
    row = Row(({"role": "user", "content": "?"},), "So it is 1,250.\n#### 1,250", "rows, row 1")
    assert math_accuracy.right_number("#### $1250.00", row)
    assert not math_accuracy.right_number("1250", row) and not math_accuracy.right_number(
        "#### 125", row
    )


def test_monitors_are_not_in_the_keys_of_training_stages(tiny: Tiny) -> None:
    """With other monitors, unlearning runs again, but no training stage does."""
    trainer, _, _ = fitted(tiny, [AnswerLikelihood(0)])
    again, _, _ = fitted(tiny, [AnswerLikelihood(3)])
    assert trainer.trained_stages == [*PATH, "unlearn"] and again.trained_stages == ["unlearn"]
    assert trainer.run_dir is not None and again.run_dir is not None
    file = Path(UNLEARN) / "adapter_model.safetensors"
    assert (trainer.run_dir / file).read_bytes() == (again.run_dir / file).read_bytes()


def test_public_monitors_document_their_arguments() -> None:
    for monitor in (LabelLikelihood, AnswerLikelihood, MathAccuracy):
        for name in list(inspect.signature(monitor.__init__).parameters)[1:]:
            assert f"{name}:" in (monitor.__doc__ or ""), f"{monitor.__name__}.{name}"
