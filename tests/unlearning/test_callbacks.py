"""The example callbacks: from Python, and by class_path from the current directory."""

import math
from pathlib import Path

import pytest
import torch

from callbacks.dpo import DPO
from callbacks.wga import WGA
from lightning_unlearn import InputError, LogProbs
from lightning_unlearn.cli.main import main
from lightning_unlearn.storage.records import read_table

ROOT = Path(__file__).parents[2]


def table(values: list[list[float]]) -> LogProbs:
    per_token = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return LogProbs(per_token, torch.ones(per_token.shape, dtype=torch.bool))


def test_wga_is_weighted_log_probability_with_a_constant_weight() -> None:
    policy = table([[-0.5, -2.0], [-0.1, -3.0]])
    loss = WGA(beta=2.0).loss(policy, policy)
    p = policy.per_token.detach().exp()
    assert torch.allclose(loss, p**2 * policy.per_token, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), policy.per_token)
    assert torch.allclose(gradient, p**2, rtol=1e-12, atol=0)


def test_wga_without_weight_is_gradient_ascent() -> None:
    policy = table([[-0.5, -2.0]])
    assert torch.equal(WGA(beta=0.0).loss(policy, policy), policy.per_token)


def test_wga_refuses_a_negative_beta() -> None:
    with pytest.raises(InputError, match=r"WGA\.beta: found -1, expected 0 or more"):
        WGA(beta=-1)


def test_dpo_refuses_a_beta_that_is_not_positive() -> None:
    with pytest.raises(InputError, match=r"DPO\.beta: found 0, expected a positive number"):
        DPO(beta=0)


def test_both_run_by_class_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = [
        "fit",
        "--config=configs/demo.yaml",
        f"--trainer.default_root_dir={tmp_path}",
        f"--trainer.store={tmp_path / 'store'}",
        "--trainer.enable_progress_bar=false",
        "--trainer.precision=64-true",
        "--trainer.callbacks=[{class_path: callbacks.wga.WGA}, "
        "{class_path: callbacks.answer_probability.AnswerProbability, "
        "init_args: {stage: tofu, limit: 8, every_n_steps: 1}}, "
        "{class_path: AnswerLikelihood, init_args: {limit: 8, every_n_steps: 1}}]",
        "--data.order=[tofu, safety]",
        "--data.unlearn.steps=2",
    ]
    arguments += [f"--data.stages.{stage}.steps=2" for stage in ("tofu", "safety")]
    assert main(arguments) == 0
    records = read_table(tmp_path / "WGA" / "p2_tofu-safety_s1" / "examples.parquet")
    seen = records.pivot_table(index=["step", "example"], columns="metric", values="value")
    assert sorted(seen.index.get_level_values("step").unique()) == [0, 1, 2]
    expected = seen["answers/tofu"].map(math.exp)
    assert (seen["probability/tofu"] - expected).abs().max() < 1e-9
