"""Compare two workers with one, with one thread each, on a machine with two or more cores.

    python benchmarks/workers.py

Each measurement runs the whole command with configs/demo-study.yaml and an empty store.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(workers: int, arguments: list[str]) -> float:
    """Run the command; return its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_unlearn", "study", *arguments]
        command += ["--config", str(ROOT / "configs" / "demo-study.yaml")]
        command += ["--workers", str(workers)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return time.perf_counter() - began


def main() -> None:
    """Run both alternately and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=1)
    options, arguments = parser.parse_known_args()
    ratios = []
    for _ in range(options.repeats):
        one, two = run(1, arguments), run(2, arguments)
        ratios.append(one / two)
        print(f"1 worker {one:.0f} s, 2 workers {two:.0f} s: {ratios[-1]:.2f} x", flush=True)
    print(f"median {statistics.median(ratios):.2f} x")


if __name__ == "__main__":
    main()
