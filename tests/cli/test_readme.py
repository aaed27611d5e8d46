"""Every command and every Python block of the README runs, in a short form."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.interpolation import Interpolation
from callbacks.wga import WGA
from lightning_unlearn import LogProbs, PathHistory
from lightning_unlearn.cli.main import main
from lightning_unlearn.demo import resolve

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
STAGES = ("inst", "tofu", "math", "safety")
pytestmark = pytest.mark.long


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line.partition("   #")[0] for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("lightning-unlearn ")]


def short(command: list[str]) -> list[str]:
    """Return the command with one optimizer step per stage and few rows."""
    if command[0] in ("status", "report"):
        return command
    prefix = "overrides." if command[0] == "study" else ""
    monitors = [
        {"class_path": "LabelLikelihood", "init_args": {"limit": 2}},
        {"class_path": "AnswerLikelihood", "init_args": {"limit": 2}},
    ]
    keys = {f"{prefix}data.stages.{stage}.steps": "1" for stage in STAGES}
    # The reference is computed for every row of the forget stage.
    keys |= {f"{prefix}data.stages.{stage}.limit": "32" for stage in STAGES}
    keys[f"{prefix}data.unlearn.steps"] = "1"
    keys[f"{prefix}trainer.enable_progress_bar"] = "false"
    if prefix:
        keys[f"{prefix}trainer.callbacks"] = str(monitors)
    return [*command, *(f"--{key}={value}" for key, value in keys.items())]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder that looks like a fresh clone to the commands."""
    for name in ("configs", "callbacks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
# After one step per stage the refusals are not learned yet, and SimNPO warns about it.
@pytest.mark.filterwarnings("ignore:SimNPO's gradient has vanished")
def test_commands_run_in_order(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands()
    kinds = ["fit", "fit", "fit", "validate", "study", "study", "status", "report"]
    kinds += ["fit", "fit"]
    assert [command[0] for command in found] == kinds
    for command in found:
        assert main(short(command)) == 0, command
    said = capsys.readouterr().out
    assert "accuracy/math" in said
    (tree,) = [block for block in blocks("text") if "└──" in block]
    # Skip the models that are in the store already.
    assert tree in said.replace(" ✓", "")
    runs = clone / "runs" / "demo"
    reported = ("report/index.html", "report/table.md", "report/table.csv", "report/forget.png")
    for name in (*reported, "records.parquet"):
        assert (runs / name).stat().st_size > 100
    assert {"GA", "NPO", "SimNPO", "StageNegation", "WGA"} <= {path.name for path in runs.iterdir()}
    (read,) = [block for block in blocks("python") if "pivot_table" in block]
    names: dict[str, Any] = {}
    exec(read.replace("\nrecords[", "\ntable = records["), names)
    assert names["table"].shape == (2, 12) and names["table"].notna().all().all()


def test_the_study_file_is_valid(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks("yaml") if "sweep:" in block]
    (clone / "mine.yaml").write_text(block.replace("demo.yaml", "configs/demo.yaml"))
    assert main(["study", "--config", "mine.yaml", "--dry-run"]) == 0
    assert "52 stage trainings instead of 76, 64 unlearnings, 4 oracles" in capsys.readouterr().out


def test_the_method_of_the_readme_is_the_example_file() -> None:
    (block,) = [b for b in blocks("python") if "class WGA" in b]
    names: dict[str, Any] = {}
    exec(block, names)
    values = -torch.rand(3, 5)
    policy = LogProbs(values, torch.ones(3, 5, dtype=torch.bool))
    shown = names["WGA"](beta=2.0).loss(policy, policy)
    assert torch.equal(shown, WGA(beta=2.0).loss(policy, policy))


def test_the_path_aware_method_of_the_readme_is_the_example_file() -> None:
    (block,) = [b for b in blocks("python") if "class Interpolation" in b]
    names: dict[str, Any] = {}
    exec(block, names)
    history = PathHistory(["a", "b", "c"], "b", {"a": 1, "b": 1, "c": 1})
    shown = names["Interpolation"](0.25).unlearned(history)
    assert shown == Interpolation(0.25).unlearned(history)


@pytest.mark.slow
def test_python_blocks_run(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (train,) = [b for b in blocks("python") if "trainer.fit" in b]
    assert '"epochs": 2' in train
    names: dict[str, Any] = {}
    exec(train.replace('"epochs": 2', '"steps": 1').replace("limit=32", "limit=2"), names)
    assert "forget/label" in capsys.readouterr().out
    (load,) = [b for b in blocks("python") if "PeftModel" in b]
    base = str(resolve("demo:tiny-llama"))
    names["run"] = names["trainer"].run_dir
    exec(load.replace("path/of/the/base/model", base), names)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours = names["trainer"].lightning_module.network.hf_model.eval()(ids).logits
        assert torch.allclose(names["model"].eval()(ids).logits, ours, atol=1e-4)
