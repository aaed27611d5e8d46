"""A folder with a small configuration and its data, and commands run in it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.cli.main import main
from lightning_unlearn.settings.compose import load_configs, split_config_arguments
from lightning_unlearn.training.from_config import StagedCLI

CONFIG = """\
seed_everything: 0
trainer:
  accelerator: cpu
  callbacks:
    - class_path: NPO
      init_args: {beta: 0.5}
    - class_path: AnswerLikelihood
model:
  base: demo:tiny-llama
  lora:
    rank: 4
data:
  forget: safety
  stages:
    math:
      source: math.jsonl
      lr: 1.0e-3
      batch_size: 8
    safety:
      source: safety.jsonl
      batch_size: 8
  unlearn:
    lr: 2.0e-4
    batch_size: 8
"""
STUDY = """\
fit: config.yaml
paths: positions
methods:
  GA:
    callback: GA
  NPO:
    callback: {class_path: NPO, init_args: {beta: 0.5}}
"""


def snapshot() -> dict[str, bytes]:
    """Every file below the current directory, and what is in it."""
    files = (p for p in Path().rglob("*") if "__pycache__" not in p.parts)
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in files}


@dataclass
class Workplace:
    """The current directory of a test, which holds config.yaml, study.yaml and the data."""

    capsys: pytest.CaptureFixture[str]

    def write(self, name: str, text: str | bytes) -> None:
        """Write a file."""
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def edit(self, old: str, new: str, name: str = "config.yaml") -> None:
        """Replace a text in a file; it must be there."""
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new, 1))

    def line(self, fragment: str, name: str = "config.yaml") -> str:
        """How messages name the last line of a file that has the fragment."""
        lines = Path(name).read_text().splitlines()
        return f"{name}, line {max(n for n, line in enumerate(lines, 1) if fragment in line)}"

    def parse(self, *arguments: str) -> StagedCLI:
        """Configuration and objects as `fit` makes them."""
        files, others = split_config_arguments(["--config", "config.yaml", *arguments])
        return StagedCLI(None, load_configs(files), others)

    def refused(self, *arguments: str) -> str:
        """The message with which a command ends, having written nothing."""
        before = snapshot()
        assert main(list(arguments)) == 2
        printed = self.capsys.readouterr()
        assert snapshot() == before
        assert printed.out == ""
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        for internal in ("Parser key", "Namespace", "<class", "Subtypes", "Traceback", "typing."):
            assert internal not in printed.err
        return printed.err.removeprefix("error: ").rstrip("\n")

    def fit(self, *arguments: str) -> str:
        """The message with which `fit` on config.yaml ends."""
        return self.refused("fit", "--config", "config.yaml", *arguments)

    def validate(self, *arguments: str) -> str:
        """The message with which `validate` on config.yaml ends."""
        return self.refused("validate", "--config", "config.yaml", *arguments)

    def study(self, *arguments: str) -> str:
        """The message with which `study` on study.yaml ends."""
        return self.refused("study", "--config", "study.yaml", *arguments)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of its own process in the current directory."""
    command = [sys.executable, "-m", "lightning_unlearn", *arguments]
    environment = {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=environment, **options
    )


def make_workplace(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    """Fill a folder and make it the current directory."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    place = Workplace(capsys)
    place.write("config.yaml", CONFIG)
    place.write("study.yaml", STUDY)
    for name in ("math", "safety"):
        rows = [f'{{"question": "What is {i} of {name}?", "answer": "{i}."}}\n' for i in range(8)]
        place.write(f"{name}.jsonl", "".join(rows))
    return place
