"""Commands as a user runs them, each in a process of its own."""

from pathlib import Path

import pytest
from commands import Workplace, make_workplace, run

from lightning_unlearn.cli import main

MINE = """\
from torch import Tensor

from lightning_unlearn import LogProbs, Unlearning


class Mine(Unlearning):
    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        return self.strength * policy.mean
"""


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)


def test_fit_with_a_method_of_the_current_directory_then_validate(place: Workplace) -> None:
    place.write("mine.py", MINE)
    fit = ["--config", "config.yaml", "--trainer.callbacks+=mine.Mine"]
    fit += ["--trainer.callbacks.strength", "2"]
    done = run("fit", *fit)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(steps) == 3 and all(line.startswith("✓ ") for line in steps), done.stderr
    assert "answers/math" in done.stdout and "Written to runs/Mine/" in done.stdout
    (config,) = Path("runs").glob("Mine/*/config.yaml")
    assert "class_path: mine.Mine" in config.read_text()
    assert "NPO" not in config.read_text()
    again = run("validate", *fit)
    assert (again.returncode, again.stderr) == (0, "")
    assert "answers/math" in again.stdout
    assert main(["validate", "--config", "config.yaml", "--stage", "base"]) == 0
    printed = place.capsys.readouterr()
    assert "answers/math" in printed.out
    assert printed.out != again.stdout


def test_printing_the_configuration_prints_nothing_else(place: Workplace) -> None:
    done = run("fit", "--config", "config.yaml", "--print_config")
    assert (done.returncode, done.stderr) == (0, "")
    place.write("config.yaml", done.stdout)
    assert main(["fit", "--config", "config.yaml", "--print_config"]) == 0
    assert place.capsys.readouterr().out == done.stdout
    assert not Path("runs").exists()
