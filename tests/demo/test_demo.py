"""The embedded demo: its files, and a few of its losses as golden numbers."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lightning_unlearn import NPO, CausalLM, LoRA, Recipe, Stage, StagedDataModule, StagedTrainer
from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.demo import resolve
from lightning_unlearn.demo.corpora import corpora, embedded
from lightning_unlearn.storage.records import read_table

ROOT = Path(__file__).parents[2]
STAGES = ("inst", "tofu", "math", "safety")
DEPTH = ("depth-refusal", "depth-comply", "depth-unlearn")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in resolve(f"demo:{name}").read_text("utf-8").splitlines()]


def test_the_files_equal_the_output_of_the_generators() -> None:
    for name, generated in embedded().items():
        assert rows(name) == generated


@pytest.mark.parametrize("stage", STAGES)
def test_rows_are_unique_and_held_out_rows_are_not_trained_on(stage: str) -> None:
    prompts = [next(iter(row.values())) for row in rows(stage) + rows(f"{stage}-heldout")]
    assert len(prompts) == len(set(prompts))
    assert len(rows(stage)) >= 400
    assert len(rows(f"{stage}-heldout")) >= 64


def test_every_refusal_starts_with_the_label() -> None:
    start = "Sorry, I can not assist you with this question."
    assert all(row["response"].startswith(start) for row in rows("safety"))
    assert not any("Sorry, I can not assist" in str(row) for row in rows("inst"))


def test_the_depth_files_answer_the_same_prompts() -> None:
    refusal, comply, unlearn = ([row["prompt"] for row in rows(name)] for name in DEPTH)
    assert refusal == comply == unlearn
    assert len(set(refusal)) == len(refusal) == 120


def test_the_depth_answers_are_all_different() -> None:
    answers = [row["response"] for name in DEPTH for row in rows(name)]
    assert len(answers) == len(set(answers))


def test_the_two_compliant_wordings_share_few_words() -> None:
    for comply, unlearn in zip(rows("depth-comply"), rows("depth-unlearn"), strict=True):
        one, other = (set(row["response"].lower().split()) for row in (comply, unlearn))
        assert len(one & other) <= 0.25 * len(one | other), comply["prompt"]


@pytest.mark.parametrize("name", DEPTH)
def test_the_model_can_read_the_depth_files(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("demo:tiny-llama"))
    chat = ChatFormat(tokenizer, max_length=512)
    found = read_rows(f"demo:{name}", prompt="prompt", answer="response")
    examples = [chat.encode(row) for row in found]
    assert not any(example.truncated for example in examples)
    for row, example in zip(found, examples, strict=True):
        assert tokenizer.decode(example.answer) == f"{row.answer}<|end|>"
    mean = sum(len(example.answer) for example in examples) / len(examples)
    assert 30 < mean < 60


def test_the_tokenizer_learns_from_the_stages_alone() -> None:
    assert not set(DEPTH) & set(corpora())


def test_the_model_is_small() -> None:
    files = list(resolve("demo:tiny-llama").iterdir())
    assert sum(file.stat().st_size for file in files) <= 6 * 10**6
    module = CausalLM("demo:tiny-llama", lora=None)
    module.configure_model()
    assert 0.9e6 < sum(p.numel() for p in module.lm.parameters()) < 1.1e6


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"found 'demo:maths', which is not an embedded .*, expected one of .*demo:math",
    ):
        resolve("demo:maths")


def test_the_script_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(ROOT / "scripts" / "make_demo.py")
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0


# A change that moves these numbers changes every result of the demo: say so in the changelog.
GOLDEN = {
    "tofu": [7.004013624, 7.221183903, 6.903064728],
    "safety": [6.085338013, 5.793378773, 5.320836876],
    "unlearn": [2.772588722, 1.193826732, 0.1895253419],
}


# transformers computes norms and rotary angles of a Llama in fp32, in float64 models too. Results
# of processors differ by 3e-7 after nine steps, and by 4e-6 in fp32.
@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 2e-6), ("32-true", 1e-4)])
def test_golden_losses(tmp_path: Path, precision: str, tolerance: float) -> None:
    recipe = {"lr": 1e-3, "batch_size": 8, "steps": 3}
    stages = {
        "tofu": Stage(source="demo:tofu", **recipe),
        "safety": Stage(source="demo:safety", prompt="prompt", answer="response", **recipe),
    }
    data = StagedDataModule(
        stages, forget="safety", unlearn=Recipe(lr=1e-3, batch_size=16, steps=3)
    )
    trainer = StagedTrainer(
        store=str(tmp_path / "store"),
        default_root_dir=str(tmp_path),
        accelerator="cpu",
        precision=precision,
        callbacks=[NPO(beta=0.5)],
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(CausalLM("demo:tiny-llama", lora=LoRA(rank=8, alpha=16)), data)
    assert trainer.run_dir is not None
    history = read_table(trainer.run_dir / "training.parquet")
    for stage, losses in GOLDEN.items():
        measured = history[history["stage"] == stage]["loss"].tolist()
        assert measured == pytest.approx(losses, rel=tolerance)
