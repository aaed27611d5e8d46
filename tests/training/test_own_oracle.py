"""A model trained elsewhere is unlearned and compared with one retrained elsewhere, by YAML."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_runs import make_workplace
from tiny_stages import Tiny
from trained_elsewhere import encode, train_elsewhere
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn.cli.main import main
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table

CONFIG = """
trainer:
  accelerator: cpu
  precision: 64-true
  logger: false
  callbacks:
    - NPO
    - class_path: OracleDistance
      init_args: {every_n_steps: 2, groups: {forget: [secrets], kept: [kept]}}
    - {class_path: Membership, init_args: {members: kept, nonmembers: new, scores: [loss, min_k]}}
    - {class_path: TOFU, init_args: {forget: asked, retain: kept, max_new_tokens: 2}}
model: {base: ./model, lora: {rank: 4, alpha: 8}}
oracle: {base: ./retrained}
data:
  forget: secrets
  learned: [secrets]
  order: []
  stages: {secrets: {source: secrets.jsonl}}
  eval_sets:
    kept: {source: kept.jsonl, paraphrase: paraphrase, alternatives: wrong}
    new: {source: new.jsonl}
    asked: {source: secrets.jsonl, paraphrase: paraphrase, alternatives: wrong}
  unlearn: {lr: 1.0e-2, epochs: 2, batch_size: 4}
"""


def write_rows(tiny: Tiny) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write rows to forget, to keep, and new ones into the current folder; return the first two."""
    found = []
    for name, stage in (("secrets", "safety"), ("kept", "tofu"), ("new", "math")):
        lines = (tiny.data / f"{stage}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines[:6]]
        wrong = ["In the town of Port pencil.", "No."]
        rows = [{**row, "paraphrase": f"Well: {row['answer']}", "wrong": wrong} for row in rows]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append([{"prompt": row["question"], "answer": row["answer"]} for row in rows])
    return found[0], found[1]


def log_probs(folder: str, base: Path, rows: list[dict[str, str]]) -> list[float]:
    """The mean log-probability of each answer by transformers alone, in float64."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    batch = encode(AutoTokenizer.from_pretrained(base), rows)
    with torch.no_grad():
        logits = lm(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    table = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    mask = labels != -100
    found: list[float] = ((table * mask).sum(-1) / mask.sum(-1)).tolist()
    return found


def test_a_model_trained_elsewhere_is_compared_with_a_retrained_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_workplace(tiny.root, monkeypatch, capsys)
    secrets, kept = write_rows(tiny)
    # Both learn the kept rows; only one of them the secrets.
    learned = train_elsewhere(tiny.base, kept, Path("learned"), "adapter", epochs=10)
    options: dict[str, Any] = {"adapter": learned, "epochs": 10}
    train_elsewhere(tiny.base, secrets + kept, Path("model"), "merged", **options)
    train_elsewhere(tiny.base, kept, Path("retrained"), "merged", **options)
    train_elsewhere(tiny.base, kept, Path("adapter"), "adapter", **options)
    Path("run.yaml").write_text(CONFIG)
    assert main(["fit", "--config", "run.yaml"]) == 0
    told = capsys.readouterr().err
    told = " ".join(told.split())
    assert "Compared with the oracle ./retrained, which is measured first." in told
    assert "oracle: measured ./retrained, which is in memory no more." in told
    (run,) = Path("runs/NPO").iterdir()
    steps = read_table(run / STEPS).set_index(["metric", "step"])["value"]
    last = steps.index.get_level_values("step").max()
    metrics = {metric for metric, _ in steps.index}
    assert {"tofu/forget_quality", "privleak/loss", "kl/forget", "overshoot/kept"} <= metrics
    # Before, the model knows the secrets and the oracle does not; unlearning brings it closer.
    assert steps["distance/forget", last] < steps["distance/forget", 0] - 0.1
    examples = read_table(run / EXAMPLES).set_index(["metric", "step", "example"])["value"]
    own, aim = (log_probs(name, tiny.base, secrets) for name in ("./model", "./retrained"))
    for number, (mine, target) in enumerate(zip(own, aim, strict=True)):
        gap = examples["distance/forget", 0, number]
        assert gap == pytest.approx((mine - target) ** 2, abs=1e-6)
    # The adapter of the retrained model on its base is the same oracle.
    command = ["fit", "--config", "run.yaml", "--oracle.base", "./adapter"]
    assert main([*command, "--trainer.run_name", "other"]) == 0
    other = read_table(Path("runs/other") / STEPS).set_index(["metric", "step"])["value"]
    assert other["kl/kept", 2] == pytest.approx(steps["kl/kept", 2], abs=1e-6)
    assert yaml.safe_load((run / "config.yaml").read_text())["oracle"]["base"] == "./retrained"
