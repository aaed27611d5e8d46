"""How much of the demo's study is spent on measuring: looks of monitors against wall time.

Everything from an empty folder, in this process: planning, training, looks, tables and figures.
Imports, which cost the same whatever is measured, count for neither.
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
    """Run the study and print the share."""
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
        # Monitors of one step share forwards; whoever asks first pays.
        print(f"{name}: {seconds:.1f} s")
    print(f"looks: {sum(spent.values()):.1f} of {whole:.1f} s, {sum(spent.values()) / whole:.2f}")


if __name__ == "__main__":
    main()
