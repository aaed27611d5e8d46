"""How the work is cut changes nothing: micro-batches, and two real processes with gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Tiny, results

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    AnswerStatistics,
    LabelLikelihood,
    MathAccuracy,
    Membership,
    Memorisation,
    OracleDistance,
    Recipe,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.distributed.strategy import FSDP2
from lightning_unlearn.storage.records import read_table

# tofu leaves one row over at the end, so that the second process has none; math leaves two.
PATH = ["tofu", "math", "safety"]
STRATEGIES: dict[str, Callable[[], Any]] = {
    "ddp": lambda: "ddp",
    "fsdp2": lambda: "fsdp2",
    "tensor parallel": lambda: FSDP2(tensor_parallel_size=2),
}


def fitted(
    tiny: Tiny,
    method: Unlearning,
    micro: int | None = None,
    batch: int = 4,
    strategy: str | None = None,
    precision: str = "64-true",
) -> StagedTrainer:
    def trainer_of(*callbacks: Any) -> StagedTrainer:
        if strategy is None:
            return tiny.trainer([*callbacks], precision=precision)
        several = {"accelerator": "cpu", "devices": 2, "strategy": STRATEGIES[strategy]()}
        return tiny.trainer([*callbacks], precision=precision, **several)

    stages = tiny.stages(batch_size=batch, gradient_clip=1.0)
    stages["tofu"].limit = 2 * batch + 1
    data = tiny.datamodule(
        stages=stages,
        order=PATH,
        unlearn=Recipe(lr=2e-3, epochs=2, batch_size=batch),
        micro_batch_size=micro,
        measure_batch_size=3,
    )
    monitors = [
        LabelLikelihood(2),
        AnswerLikelihood(2),
        OracleDistance(2),
        AnswerStatistics(every=2),
        Membership("math:heldout", limit=3),
        Memorisation("math", max_new_tokens=3, limit=3),
        MathAccuracy(attempts=2, max_new_tokens=3),
    ]
    oracle = tiny.datamodule(
        stages=stages, order=PATH, oracle=True, micro_batch_size=micro, measure_batch_size=3
    )
    trainer_of().fit(tiny.module(), oracle)
    trainer = trainer_of(method, *monitors)
    trainer.fit(tiny.module(), data)
    return trainer


def seen(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    training = read_table(run / "training.parquet").set_index(["stage", "step"])
    examples = read_table(run / "examples.parquet").set_index(["step", "measure", "example"])
    return training, examples["value"]


def assert_same(run: Path, other: Path, tolerance: float) -> None:
    """Equal losses and measures, but for the last digits."""
    (training, values), (training_, values_) = seen(run), seen(other)
    assert training.index.equals(training_.index) and values.index.equals(values_.index)
    assert training["lr"].equals(training_["lr"])
    torch.testing.assert_close(
        torch.tensor(training["loss"].to_numpy()),
        torch.tensor(training_["loss"].to_numpy()),
        rtol=tolerance,
        atol=tolerance,
    )
    torch.testing.assert_close(
        torch.tensor(values.to_numpy()), torch.tensor(values_.to_numpy()), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize(
    ("method", "sizes", "precision", "tolerance"),
    # In fp32 it depends on the processor how far they are apart.
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
        assert trainer.trained == ["safety", "unlearn"] and trainer.run_dir is not None
        runs.append(trainer.run_dir)
    for run in runs[1:]:
        assert_same(runs[0], run, tolerance)


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from conftest import Tiny, results
from lightning_unlearn import CausalLM, GA, NPO, AnswerLikelihood
from test_processes import fitted

if __name__ == "__main__":
    root = Tiny(**{{name: Path(value) for name, value in json.loads(sys.argv[1]).items()}})
    for strategy in {strategies}:
        tiny, told = root.below(strategy), []
        for method in (NPO(), GA(), NPO()) if strategy == "ddp" else (NPO(), NPO()):
            trainer = fitted(tiny, method, strategy=strategy)
            assert trainer.world_size == 2
            told.append((trainer.trained, str(trainer.run_dir), trainer.observations.steps))
            if len(told) == 1:
                before = results(Path(told[0][1]))
        assert results(Path(told[-1][1])) == before
        # The data of `fitted`, at hand once it has run.
        measures = trainer.validate(tiny.module(), trainer.observations.data)
        file = tiny.root / f"told-{{trainer.global_rank}}.json"
        file.write_text(json.dumps([told, measures]))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def run_script(script: Path, *arguments: str, seconds: float = 600) -> str:
    """Run a script that Lightning starts once more, and leave none of its processes behind."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "LOCAL_"))}
    environment |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "NODE_RANK": "0"}
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, output
    return output


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "strategies", [["ddp", "fsdp2"], ["tensor parallel"]], ids=["data", "tensor"]
)
def test_two_processes_are_one(tiny: Tiny, strategies: list[str]) -> None:
    """Losses and measures of two processes are those of one, and both know all of them."""
    script = tiny.root / "script.py"
    tests = str(Path(__file__).parent)
    script.write_text(SCRIPT.format(tests=tests, strategies=strategies))
    # Started once for all strategies.
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
        assert {name: value for _, name, value in runs[-1][2]} == measures
        for alone, (_, run, _) in zip(one, runs[:-1], strict=strategy == "ddp"):
            assert alone is not None
            assert_same(alone, Path(run), 1e-9)
            assert set(results(alone)) == set(results(Path(run)))
