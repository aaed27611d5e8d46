"""Results do not depend on micro-batches or on processes (two real ones with gloo)."""

import json
from pathlib import Path

import pytest
from process_runs import assert_same, fitted, run_script
from tiny_stages import Tiny, results

from lightning_unlearn import (
    GA,
    NPO,
    Unlearning,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "sizes", "precision", "tolerance"),
    # In fp32 the difference depends on the processor.
    [(NPO, (8, 2, 1), "64-true", 1e-9), (GA, (4, None), "32-true", 1e-3)],
)
def test_micro_batches_change_nothing(
    tiny: Tiny,
    method: type[Unlearning],
    sizes: tuple[int | None, ...],
    precision: str,
    tolerance: float,
) -> None:
    runs = []
    for micro in sizes:
        trainer = fitted(tiny.below(str(micro)), method(), micro, batch=8, precision=precision)
        assert trainer.trained_stages == ["safety", "unlearn"] and trainer.run_dir is not None
        runs.append(trainer.run_dir)
    for run in runs[1:]:
        assert_same(runs[0], run, tolerance)


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {tests!r}
from tiny_stages import Tiny, results
from lightning_unlearn import CausalLM, GA, NPO, AnswerLikelihood
from process_runs import fitted

if __name__ == "__main__":
    root = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    for strategy in {strategies}:
        tiny, told = root.below(strategy), []
        for method in (NPO(), GA(), NPO()) if strategy == "ddp" else (NPO(), NPO()):
            trainer = fitted(tiny, method, strategy=strategy)
            assert trainer.world_size == 2
            told.append((trainer.trained_stages, str(trainer.run_dir), trainer.results.steps))
            if len(told) == 1:
                before = results(Path(told[0][1]))
        assert results(Path(told[-1][1])) == before
        # The data of `fitted`, available after it has run.
        measures = trainer.validate(tiny.module(), trainer.results.data)
        file = tiny.root / f"told-{{trainer.global_rank}}.json"
        file.write_text(json.dumps([told, measures]))
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "strategies", [["ddp", "fsdp2"], ["tensor parallel"]], ids=["data", "tensor"]
)
def test_two_processes_equal_one(tiny: Tiny, strategies: list[str]) -> None:
    """Losses and metrics of two processes equal those of one; both processes have all of them."""
    script = tiny.root / "script.py"
    tests = [str(Path(__file__).parents[1] / name) for name in ("distributed", "helpers", "")]
    script.write_text(SCRIPT.format(tests=tests, strategies=strategies))
    # The processes are started once for all strategies.
    run_script(script, tiny.settings(), seconds=600)
    methods = (NPO(), GA()) if "ddp" in strategies else (NPO(),)
    one = [fitted(tiny.below("one"), method).run_dir for method in methods]
    for strategy in strategies:
        files = [tiny.root / strategy / f"told-{rank}.json" for rank in (0, 1)]
        told = [json.loads(file.read_text()) for file in files]
        assert told[0] == told[1]
        runs, measures = told[0]
        trained = [["safety", "unlearn"], ["unlearn"], []]
        assert [run[0] for run in runs] == (trained if strategy == "ddp" else trained[::2])
        # The base model is measured at step 0 only, and `validate` evaluates the last step.
        last = {name: value for _, name, value in runs[-1][2] if name != "forget/base"}
        assert last == measures
        for alone, (_, run, _) in zip(one, runs[:-1], strict=strategy == "ddp"):
            assert alone is not None
            assert_same(alone, Path(run), 1e-9)
            assert set(results(alone)) == set(results(Path(run)))
