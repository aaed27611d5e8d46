"""The GPU benchmark runs on a CPU with a tiny shape, and its formula is correct."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.plugins import Precision

from lightning_unlearn import CausalLM, Recipe
from lightning_unlearn.planning.model_shapes import config_folder
from lightning_unlearn.planning.simulation import Simulation

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import gpu

    monkeypatch.setitem(gpu.CONFIGS, "tiny", gpu.TINY)
    yield gpu
    for name in set(sys.modules) - before:
        if name.startswith("gpu"):
            del sys.modules[name]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu(
    gpu: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise the loss is the logarithm of the vocabulary size for any weights and batch.
    monkeypatch.setattr(sys.modules["gpu_sides"], "SPREAD", 0.3)
    sizes = "--length 16 --micro-batch 2 --steps 1 --rounds 1"
    gpu.main(f"--device cpu --precision bf16-true --shape tiny {sizes}".split())
    printed = capsys.readouterr().out
    losses = [line.rpartition("first loss ")[2] for line in printed.splitlines() if "loss" in line]
    assert len(losses) == 3
    # Both sides use the same weights and the same batch.
    assert float(losses[0]) == pytest.approx(float(losses[2]), rel=1e-3)
    assert "ours against Hugging Face: " in printed and "1 rounds" in printed
    assert printed.count("all tokens labels: planned ") == 2


@pytest.mark.parametrize(("checkpointing", "length"), [(False, 16), (True, 64)])
def test_the_formula_of_the_work_agrees_with_the_simulation(
    gpu: Any, checkpointing: bool, length: int
) -> None:
    with config_folder("tiny") as folder:
        module = CausalLM(folder, gpu.LORA, gradient_checkpointing=checkpointing)
        simulation = Simulation(module.settings, "bf16-true", Precision(), 1, False)
        simulated = simulation.train("learning", Recipe(lr=1e-5), None, 4, length, False).flops
        simulation.close()
        formula = gpu.flops(
            module.pretrained.config, gpu.LORA, 4, length, length - 1, checkpointing
        )
    config = module.pretrained.config
    attention = config.num_hidden_layers * 4 * 4 * length**2 * config.hidden_size
    # The simulation counts all pairs instead of the visible half, and the scores that are computed
    # again in the backward pass. In the first layer, base and A matrices need no input gradient.
    all_pairs = (1 + 2.5 + checkpointing) * attention
    seen = (3 + checkpointing) * attention / 2
    assert formula - seen == pytest.approx(simulated - all_pairs, rel=0.12)


def test_the_benchmark_of_negation_runs_on_a_small_shape(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--shape", "demo:tiny-llama", "--lora-rank", "4", "--rank", "4"]
    monkeypatch.setattr(sys, "argv", ["negation.py", *sizes])
    runpy.run_path(str(BENCHMARKS / "negation.py"), run_name="__main__")
    assert "x their size in memory (less than 6), relative error 0." in capsys.readouterr().out
