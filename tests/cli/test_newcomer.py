"""The first command of the README in a fresh clone without an environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("inst", "tofu", "math", "safety")
# One optimizer step per stage, few rows and two monitors: the test is about the installation.
SHORT = [
    *(f"--overrides.data.stages.{stage}.steps=1" for stage in STAGES),
    *(f"--overrides.data.stages.{stage}.limit=32" for stage in STAGES),
    "--overrides.data.unlearn.steps=1",
    "--overrides.trainer.callbacks=[{class_path: LabelLikelihood, init_args: {limit: 2}}, "
    "{class_path: AnswerLikelihood, init_args: {limit: 2}}]",
]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_the_demo_of_a_fresh_clone_in_a_fresh_environment(tmp_path: Path) -> None:
    clone, home = tmp_path / "a clone", tmp_path / "home"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    home.mkdir()
    kept = ("PYTHONPATH", "VIRTUAL_ENV", "LIGHTNING_UNLEARN_VENV")
    environment = {name: value for name, value in os.environ.items() if name not in kept}
    environment |= {"HOME": str(home), "PYTHON": sys.executable}
    done = subprocess.run(
        ["scripts/demo", *SHORT], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Warning", "warning", "deprecated", "Traceback"):
        assert word not in done.stdout + done.stderr, done.stdout + done.stderr
    for name in ("report/index.html", "report/forget.png", "records.parquet"):
        assert (clone / "runs/demo" / name).stat().st_size > 100
    assert "Results:" in done.stdout
    status = subprocess.run(
        [clone / ".venv/bin/lightning-unlearn", "status", "runs/demo"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (status.returncode, status.stderr) == (0, ""), status.stderr
    assert "26 tasks: 26 done" in status.stdout, status.stdout
