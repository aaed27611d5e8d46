"""Measure the wall time of the demo study (4 paths x 3 methods) from an empty folder."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run the study and print its time."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lightning_unlearn", "study"]
        command += ["--config", str(ROOT / "configs" / "demo-study.yaml")]
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True)
        print(f"demo study: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
