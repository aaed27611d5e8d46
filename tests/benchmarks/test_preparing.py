"""The benchmark of preparing rows runs, and both sides make the same tokens."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "preparing.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory is read from /proc")
@pytest.mark.exhaustive
def test_the_benchmark_of_preparing_runs() -> None:
    command = [sys.executable, str(SCRIPT), "--rows", "200", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("200 rows, ")
    for text in ("time, ours / theirs: median of 1", "token arrays: ", "reads the cache: "):
        assert text in done.stdout
    assert "tokens differ" not in done.stdout
