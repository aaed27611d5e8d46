"""The GPU check: checks that hang, crash or fail, and the parts of the script."""

import json
import math
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from lightning_unlearn import monitors
from lightning_unlearn.cli.fit import run as run_cli
from lightning_unlearn.settings.compose import load_configs
from lightning_unlearn.settings.strict_yaml import read_yaml
from lightning_unlearn.storage import records

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Code of the checks in these tests, by name.
CHECKS = """
import os, signal, sys, time
from gpu_table import Row, Skipped, at_most, judged

def fine(bench):
    print("said")
    (bench.work / "about.json").write_text('{"device": "none"}')
    yield judged("", bench.device, "cpu", True)

def wrong(bench):
    yield at_most("gap", float("nan"), 0.1, "of nothing")

def crashes(bench):
    yield judged("first", "1", "1", True)
    raise RuntimeError("no such thing")

def dies(bench):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield

def hangs(bench):
    yield judged("first", "1", "1", True)
    time.sleep(60)

def skipped(bench):
    raise Skipped("nothing to check")
    yield

def nothing(bench):
    return iter(())
"""


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import gpu_checks

    yield gpu_checks
    for name in set(sys.modules) - before:
        if name.startswith("gpu"):
            del sys.modules[name]


@pytest.fixture
def own(checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Replace the checks by those of these tests, also in child processes."""
    (tmp_path / "own_checks.py").write_text(CHECKS)
    names = ["fine", "wrong", "crashes", "dies", "hangs", "skipped", "nothing"]
    own = {name: checks.Check(f"own_checks:{name}", 20, "") for name in names}
    own["hangs"] = replace(own["hangs"], seconds=1)
    own["after"] = checks.Check("own_checks:fine", 20, "", ("crashes",))
    own["last"] = checks.Check("own_checks:fine", 20, "", ("fine",), alone=True)
    start = (
        f"import sys; sys.path[:0] = [{str(BENCHMARKS)!r}, {str(tmp_path)!r}]; import gpu_checks; "
        f"C = gpu_checks.Check; gpu_checks.CHECKS.update({own!r}.items()); "
        "sys.exit(gpu_checks.main(sys.argv[2:]))"
    ).replace("Check(", "C(")
    popen = checks.subprocess.Popen

    def with_own(command: list[str], **options: Any) -> Any:
        return popen([command[0], "-c", start, *command[1:]], **options)

    monkeypatch.setattr(checks, "CHECKS", own)
    monkeypatch.setattr(checks, "SLOWER", 1)
    monkeypatch.setattr(checks.subprocess, "Popen", with_own)
    module: ModuleType = checks
    return module


def test_a_check_that_hangs_or_crashes_does_not_stop_the_others(own: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    runner = own.Runner("cpu", tmp_path / "out", work, 60, jobs=4)
    assert not runner.run(list(own.CHECKS))
    found = {row.check: row for rows in runner.rows.values() for row in rows}
    results = {name: row.result for name, row in found.items()}
    assert results == {
        "fine": "ok",
        "wrong: gap": "FAILED",
        "crashes: first": "ok",
        "crashes": "FAILED",
        "dies": "FAILED",
        "hangs: first": "ok",
        "hangs": "FAILED",
        "skipped": "skipped",
        "nothing": "FAILED",
        "after": "skipped",
        "last": "ok",
    }
    assert found["crashes"].value == "exit code 1: RuntimeError: no such thing"
    assert found["dies"].value.startswith("killed by SIGSEGV")
    assert found["hangs"].value == "not finished after 1 s, its time limit"
    assert found["after"].value == "it needs crashes, which did not finish"
    table = (tmp_path / "out" / "checks.md").read_text()
    assert table.startswith("device: none") and "| dies | killed by SIGSEGV" in table
    written = json.loads((tmp_path / "out" / "checks.json").read_text())
    assert [row["check"] for row in written["rows"]] == list(results)
    assert "=== fine\nsaid" in (tmp_path / "out" / "log.txt").read_text()


def test_checks_after_the_time_limit_are_skipped_and_the_results_kept(
    own: Any, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    runner = own.Runner("cpu", tmp_path / "out", work, own.LEAST - 1)
    assert runner.run(["fine", "last"])
    assert [row.value for rows in runner.rows.values() for row in rows] == [
        f"the time limit of {(own.LEAST - 1) / 60:g} minutes"
    ] * 2
    assert "the time limit" in (tmp_path / "out" / "checks.md").read_text()


def test_needed_checks_run_first(checks: Any) -> None:
    assert checks.with_needs(["resume"], "cpu") == ["cpu", "fp32", "resume"]
    assert checks.with_needs(["resume"], "cuda") == ["environment", "cpu", "fp32", "resume"]
    assert checks.with_needs(list(checks.CHECKS), "cuda") == list(checks.CHECKS)
    for name, check in checks.CHECKS.items():
        module, _, function = check.function.partition(":")
        source = (BENCHMARKS / f"{module}.py").read_text()
        assert f"\ndef {function}(bench: Bench) -> Iterator[Row]:" in source, name


def test_the_checks_can_be_listed(checks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(checks.CHECKS)


def test_the_path_has_every_monitor_and_is_valid(checks: Any, tmp_path: Path) -> None:
    import gpu_paths

    file = gpu_paths.settings(tmp_path)
    names = set(monitors.__all__) - {"RowRequest", "ModelView", "Monitor"}
    assert set(gpu_paths.MONITORS) == names | {"NPO"}
    for row in (tmp_path / "asked.jsonl").read_text().splitlines():
        own = json.loads(row)
        assert own["response"] not in [own["paraphrase"], *own["alternatives"]]
    content = load_configs([str(gpu_paths.DEMO), str(file)])
    with pytest.raises(SystemExit) as stop:
        run_cli("fit", content, ["--print_config"])
    assert not stop.value.code
    assert read_yaml(file) == yaml.safe_load(file.read_text())


def test_two_runs_are_compared_number_by_number(checks: Any, tmp_path: Path) -> None:
    import gpu_compare

    def write(name: str, loss: float, likelihood: float, accuracy: float) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        training = {"stage": ["a", "unlearn"], "step": [1, 1], "loss": [1.0, loss]}
        records.write_table(folder / records.TRAINING, training)
        means = {"step": [0, 0], "metric": ["answers/safety", "accuracy/math"]}
        records.write_table(folder / records.STEPS, means | {"value": [likelihood, accuracy]})
        rows = {"step": [0] * 3, "metric": ["answers/safety"] * 3, "example": [0, 1, 2]}
        values = {"value": [-1.0, -2.0, likelihood]}
        records.write_table(folder / records.EXAMPLES, rows | values)
        return gpu_compare.read_run(folder)

    one, two = write("one", 3.0, -3.0, 0.5), write("two", 4.0, -1.5, 0.25)
    same = gpu_compare.compare(one, one)
    assert (same.losses, same.likelihoods, same.generated, same.ranks) == (0, 0, 1, 1)
    assert same.keys == "the same 2 steps, 2 means, 3 values"
    gap = gpu_compare.compare(two, one)
    assert gap.losses == pytest.approx(1 / 4) and gap.likelihoods == pytest.approx(1.5 / 4)
    assert (gap.worst, gap.generated, gap.ranks) == ("answers/safety step 0", 0, 0.5)
    broken = replace(one, losses={("a", 1): math.nan})
    assert gpu_compare.compare(broken, one).losses == math.inf and not broken.finite
    assert (
        gpu_compare.compare(broken, one).keys == "1 values in one run only, such as ('unlearn', 1)"
    )


def test_wheels_of_missing_packages_are_divided_and_installed(
    checks: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import gpu_wheels

    packages = gpu_wheels.closure("3.12", {"pandas", "bitsandbytes"})
    assert {"transformers", "peft", "jsonargparse", "typeshed-client", "rouge-score"} <= set(
        packages
    )
    left_out = {"torch", "pandas", "bitsandbytes", "tensorboard", "ray", "exceptiongroup"}
    assert not left_out & set(packages)
    assert packages["peft"]["range"].startswith(">=0.2")
    for name in ("gpu-first", "gpu-second"):
        wheel(tmp_path / "wheels", name, 600)
    wheel(tmp_path / "wheels", "pyyaml", 600)
    own = {n: {"version": "1", "range": ">=1"} for n in ("gpu-first", "gpu-second", "pyyaml")}
    monkeypatch.setattr(gpu_wheels, "MOST", 2500)
    parts = gpu_wheels.spread(tmp_path / "wheels", own)
    assert [part.name for part, _ in parts] == ["part-1", "part-2"]
    monkeypatch.setattr(gpu_wheels, "SITE", tmp_path / "site")
    monkeypatch.setattr(gpu_wheels, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    gpu_wheels.main(["--install", str(parts[0][0])])
    assert "Still missing or too old: pyyaml" not in capsys.readouterr().out
    gpu_wheels.main(["--install", str(parts[1][0])])
    assert (tmp_path / "site" / "gpu_first.py").is_file()
    # The installed package is not replaced.
    assert not (tmp_path / "site" / "pyyaml.py").exists()
    assert "missing" not in capsys.readouterr().out.splitlines()[-1]


def wheel(folder: Path, name: str, size: int) -> None:
    """Write a package of one module."""
    folder.mkdir(exist_ok=True)
    module, about = name.replace("-", "_"), f"{name.replace('-', '_')}-1.dist-info"
    with zipfile.ZipFile(folder / f"{module}-1-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}.py", "#" * size)
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_checks_are_skipped(checks: Any, tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "out"), "--minutes", "5"]
    assert checks.main([*options, "--only", "fp32", "step"]) == 1
    rows = json.loads((tmp_path / "out" / "checks.json").read_text())["rows"]
    assert "finds no GPU" in rows[0]["value"] and rows[0]["result"] == "FAILED"
    assert {row["result"] for row in rows[1:]} == {"skipped"} and len(rows) == 4


@pytest.mark.slow
@pytest.mark.exhaustive
def test_selected_checks_run_on_a_cpu(checks: Any, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--minutes", "20", "--output", str(tmp_path / "out")]
    assert checks.main([*options, "--only", "attention", "step"]) == 0
    rows = json.loads((tmp_path / "out" / "checks.json").read_text())["rows"]
    found = {row["check"]: row["result"] for row in rows}
    assert found["step: first loss, against Hugging Face's"] == "ok"
    assert found["attention: flash_attention_2 in bf16-true"] == "skipped"
