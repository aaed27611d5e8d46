"""A path run by one process or by several."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tiny_stages import Tiny

from lightning_unlearn import (
    AnswerLikelihood,
    AnswerStatistics,
    LabelLikelihood,
    MathAccuracy,
    Membership,
    Memorization,
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
        eval_batch_size=3,
    )
    monitors = [
        LabelLikelihood(2),
        AnswerLikelihood(2),
        OracleDistance(2),
        AnswerStatistics(every_n_steps=2),
        Membership("math:heldout", limit=3),
        Memorization("math", max_new_tokens=3, limit=3),
        MathAccuracy(num_samples=2, max_new_tokens=3),
    ]
    oracle = tiny.datamodule(
        stages=stages, order=PATH, oracle=True, micro_batch_size=micro, eval_batch_size=3
    )
    trainer_of().fit(tiny.module(), oracle)
    trainer = trainer_of(method, *monitors)
    trainer.fit(tiny.module(), data)
    return trainer


def seen(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    training = read_table(run / "training.parquet").set_index(["stage", "step"])
    examples = read_table(run / "examples.parquet").set_index(["step", "metric", "example"])
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
