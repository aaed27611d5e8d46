"""A model trained elsewhere with transformers and PEFT is unlearned and measured."""

import json
from typing import Any

import pytest
from tiny_stages import Tiny
from trained_elsewhere import mean_log_prob, train_elsewhere
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn import GA, AnswerLikelihood, LabelLikelihood


def rows_of(tiny: Tiny, name: str) -> list[dict[str, str]]:
    lines = (tiny.data / f"{name}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{"prompt": row["question"], "answer": row["answer"]} for row in rows]


@pytest.fixture(scope="module")
def made(shared_tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The rows of safety, learned by the whole model, by a merged adapter and by an adapter."""
    folder, rows = tmp_path_factory.mktemp("elsewhere"), rows_of(shared_tiny, "safety")
    forms: Any = ("merged", "adapter", "full")
    return {
        form: train_elsewhere(shared_tiny.base, rows, folder / form, form, epochs=8)
        for form in forms
    }


MONITORS = {"every_n_steps": 2}


def learned(tiny: Tiny, **changes: Any) -> Any:
    return tiny.datamodule(**{"learned": ["safety"], "order": [], **changes})


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_model_trained_elsewhere_is_unlearned_at_once(
    tiny: Tiny, made: dict[str, str], form: str
) -> None:
    trainer = tiny.trainer([GA(), AnswerLikelihood(**MONITORS), LabelLikelihood(**MONITORS)])
    module, data = tiny.module(base=made[form]), learned(tiny)
    trainer.fit(module, data)
    assert trainer.trained_stages == ["unlearn"]
    ends = trainer.results.first_and_last()
    before, after = ends["answers/safety"]
    # What transformers measures of the merged model; the untrained one knows nothing.
    lm, tokenizer = (
        k.from_pretrained(made["merged"]) for k in (AutoModelForCausalLM, AutoTokenizer)
    )
    print(ends, mean_log_prob(lm, tokenizer, rows_of(tiny, "safety")))
    print(trainer.run_dir, (trainer.run_dir / "run.json").read_text())
    print(sorted(p.relative_to(trainer.run_dir) for p in trainer.run_dir.rglob("*")))
