"""Commands as a user runs them, in a separate process where this matters."""

from pathlib import Path

import pytest
from cli_runs import CONFIG, STUDY, Workplace, make_workplace, run, snapshot

from lightning_unlearn.cli.main import main

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


@pytest.mark.long
@pytest.mark.slow
def test_fit_with_a_method_of_the_current_directory_then_validate(place: Workplace) -> None:
    place.write("mine.py", MINE)
    fit = ["--config", "config.yaml", "--trainer.callbacks+=mine.Mine"]
    fit += ["--trainer.callbacks.strength", "2"]
    done = run("fit", *fit)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.strip()]
    assert steps[0] == "Path: math → safety → unlearn safety (Mine)"
    assert steps[1:3] == [
        "To train: math, safety, unlearn.",
        "Loading the weights of demo:tiny-llama ...",
    ]
    assert len(steps) == 6 and all(line.startswith("✓ ") for line in steps[3:]), done.stderr
    assert "answers/math" in done.stdout and "Written to runs/Mine/" in done.stdout
    (config,) = Path("runs").glob("Mine/*/config.yaml")
    assert "class_path: mine.Mine" in config.read_text()
    assert "NPO" not in config.read_text()
    assert main(["validate", *fit]) == 0
    again = place.capsys.readouterr()
    assert again.err == "" and "answers/math" in again.out
    assert main(["validate", "--config", "config.yaml", "--stage", "base"]) == 0
    printed = place.capsys.readouterr()
    assert "answers/math" in printed.out
    assert printed.out != again.out


@pytest.mark.slow
def test_printing_the_configuration_prints_nothing_else(place: Workplace) -> None:
    done = run("fit", "--config", "config.yaml", "--print_config")
    assert (done.returncode, done.stderr) == (0, "")
    place.write("config.yaml", done.stdout)
    assert main(["fit", "--config", "config.yaml", "--print_config"]) == 0
    assert place.capsys.readouterr().out == done.stdout
    assert not Path("runs").exists()


TREE = """\
study: 4 stage trainings, 4 unlearnings
├── safety
│   └── math
│       └── → GA, NPO
└── math
    └── safety
        └── → GA, NPO
4 trials; 0 of 8 tasks are in the store.
"""


@pytest.mark.parametrize("more", [[], pytest.param(["--workers", "2"], marks=pytest.mark.slow)])
def test_a_dry_run_prints_the_tree_and_writes_nothing(place: Workplace, more: list[str]) -> None:
    before = snapshot()
    assert main(["study", "--config", "study.yaml", *more, "--dry-run"]) == 0
    printed = place.capsys.readouterr()
    assert (printed.out, printed.err) == (TREE, "")
    assert snapshot() == before


def test_a_study_file_may_contain_its_fit_configuration(place: Workplace) -> None:
    inside = "".join(f"  {line}\n" for line in CONFIG.splitlines())
    place.write("study.yaml", f"fit:\n{inside}{STUDY.partition(chr(10))[2]}")
    Path("config.yaml").unlink()
    assert main(["study", "--config", "study.yaml", "--dry-run"]) == 0
    assert place.capsys.readouterr().out == TREE


def test_a_study_of_oracles_alone(place: Workplace) -> None:
    place.write("study.yaml", "fit: config.yaml\noracle: true\nmethods: {}\nname: mine\n")
    assert main(["study", "--config", "study.yaml", "--dry-run"]) == 0
    assert place.capsys.readouterr().out == (
        "mine: 1 stage training, 1 oracle\n"
        "└── math\n"
        "    └── → oracle\n"
        "2 trials; 0 of 2 tasks are in the store.\n"
    )


def test_only_selected_trials_of_a_study_run(place: Workplace) -> None:
    part = ["study", "--config", "study.yaml", "--only", "path=2,method=GA", "--folder", "out"]
    assert main(part) == 0
    printed = place.capsys.readouterr()
    assert "study: 4 stage trainings, 4 unlearnings" in printed.err
    assert "[3/3] GA/p2_math-safety_s0 (" in printed.err
    assert "Written to out: records.parquet, examples.parquet, report/" in printed.out
    assert "3 of 4 runs are missing." in Path("out/report/table.md").read_text()
    before = snapshot()
    assert main([*part, "--dry-run"]) == 0
    assert place.capsys.readouterr().out == (
        "study: 4 stage trainings, 4 unlearnings\n"
        "└── math ✓\n"
        "    └── safety ✓\n"
        "        └── → GA ✓\n"
        "1 of 4 trials; 3 of 3 tasks are in the store.\n"
    )
    assert main(["status", "out"]) == 0
    said = place.capsys.readouterr().out
    assert "8 tasks: 3 done, 5 left" in said and "1 of 4 runs are finished, in out." in said
    assert snapshot() == before
    assert main(["status", "out/GA/p2_math-safety_s0"]) == 0
    assert place.capsys.readouterr().out.startswith("GA math-safety seed 0: finished\n")
