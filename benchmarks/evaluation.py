"""Measure the fraction of the demo study's wall time that monitors take.

The study starts from an empty folder and runs in this process: planning, training, evaluation,
tables and figures. Imports are counted for neither, because they take the same time without
monitors.
"""

import os
import tempfile
import time
from pathlib import Path

from lightning_unlearn.cli.main import main as command
from lightning_unlearn.monitors import Monitor

ROOT = Path(__file__).parent.parent
STUDY = str(ROOT / "configs" / "demo-study.yaml")


def main() -> None:
    """Run the study and print the fraction."""
    spent: dict[str, float] = {}
    evaluate = Monitor.evaluate

    def timed(self: Monitor, *given: object) -> None:
        began = time.perf_counter()
        evaluate(self, *given)  # type: ignore[arg-type]
        name = type(self).__name__
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    Monitor.evaluate = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        began = time.perf_counter()
        command(["study", "--config", STUDY])
        whole = time.perf_counter() - began
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        # Monitors of one step share forward passes; the first one gets their time.
        print(f"{name}: {seconds:.1f} s")
    total = sum(spent.values())
    print(f"monitors: {total:.1f} of {whole:.1f} s, {total / whole:.2f}")


if __name__ == "__main__":
    main()
