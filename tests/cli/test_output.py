"""Output that is closed, full, narrow, or in ASCII causes no traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Workplace, make_workplace
from rich.console import Console

from lightning_unlearn.cli.main import main
from lightning_unlearn.cli.output import lasting_output
from lightning_unlearn.report import terminal
from lightning_unlearn.version import __version__


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)


def shell(script: str) -> subprocess.CompletedProcess[str]:
    command = f'{sys.executable} -m lightning_unlearn "$@"'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; lu() {{ {command}; }}; {script}"],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("script", "code", "err"),
    [
        ("lu --help | head -n 1 > /dev/null", 0, ""),
        ("lu fit --help | true", 0, ""),
        ("lu --version >&-", 0, ""),
        ("lu --version >&- 2>&-", 0, ""),
        ("lu fti 2>&-", 2, ""),
        ("lu fti 2> /dev/full", 2, ""),
        ("lu status nowhere >&- | cat", 2, "error: status: found neither study.json nor"),
    ],
)
def test_closed_output(script: str, code: int, err: str) -> None:
    done = shell(script)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(err) and (err or not done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_output_on_a_full_disk() -> None:
    done = shell("lu --help > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: the output cannot be written: No space left on device.\n"


def test_a_closed_pipe_does_not_stop_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = sys.stdout
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        sys.stdout = stream
        try:
            with lasting_output() as (out, _):
                print("nobody reads this", flush=True)
                print("nor this", flush=True)
                reached = True
        finally:
            sys.stdout = before
    assert reached and out.failure is None


@pytest.mark.parametrize("columns", ["1", "100"])
def test_narrow_output_in_ascii(
    place: Workplace, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    raw = io.BytesIO()
    before = sys.stdout
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    sys.stdout = stream
    try:
        assert main(["study", "--config", "study.yaml", "--dry-run"]) == 0
        with lasting_output():
            print("✓ naïve \u00d7 2 → Ω")
    finally:
        sys.stdout = before
    printed = raw.getvalue().decode("ascii")
    stream.close()
    tree = "`-- math\n    `-- safety\n        `-- -> GA, NPO\n"
    assert columns == "1" or tree in printed
    assert printed.endswith("+ na?ve x 2 -> ?\n")


@pytest.mark.parametrize("width", range(1, 40, 2))
def test_curves_fit_into_any_width(width: int) -> None:
    steps, values = np.arange(3.0), np.array([0.5, 1.25, -10.0])
    path = "a-path-of-many-stages"
    block = terminal.Block("NPO", {path: steps}, {path: values})
    chart = terminal.Chart("title", [block], [])
    console = Console(file=io.StringIO(), width=width)
    console.print(chart)
    assert all(len(line) <= width for line in console.file.getvalue().splitlines())


def test_the_current_directory_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in ("fit", "validate", "study", "plan", "report", "status"):
        assert main([command, "--config", "config.yaml"]) == 2
        text = capsys.readouterr().err
        assert text == (
            "error: the current directory was deleted or cannot be entered. Change to another "
            "directory.\n"
        )
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lightning-unlearn {__version__}\n"
    assert main(["fit", "--help"]) == 0
