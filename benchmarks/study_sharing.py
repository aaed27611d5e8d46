"""A study against its paths run apart: stage trainings, and wall time.

    OMP_NUM_THREADS=1 python benchmarks/study_sharing.py             # four positions
    OMP_NUM_THREADS=1 python benchmarks/study_sharing.py --orders    # all 24 orders

Every stage has equally many steps, and one method unlearns for as many. Apart means a store for
each path, as one would train path by path without a stage store. All in one process, in turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_unlearn.settings.compose import load_configs, merge
from lightning_unlearn.study.runner import Study
from lightning_unlearn.study.spec import StudySpec

ROOT = Path(__file__).parent.parent
STAGES = ("inst", "tofu", "math", "safety")


def fit_configuration(folder: str, steps: int) -> dict[str, Any]:
    """The demo's, with short stages of equal length and without generation."""
    stages = {name: {"steps": steps, "batch_size": 8} for name in STAGES}
    looks = [{"class_path": "AnswerLikelihood", "init_args": {"every_n_steps": 0, "limit": 16}}]
    trainer = {
        "store": f"{folder}/store",
        "default_root_dir": folder,
        "callbacks": looks,
        "enable_progress_bar": False,
    }
    changes = {
        "trainer": trainer,
        "data": {"stages": stages, "unlearn": {"steps": steps, "batch_size": 8}},
    }
    return merge(load_configs([str(ROOT / "configs" / "demo.yaml")]), changes)


def run(paths: str | list[list[str]], steps: int) -> tuple[float, int, list[list[str]]]:
    """Seconds, stage trainings and paths of a study in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        methods = {"NPO": {"callback": {"class_path": "NPO"}, "unlearn": {}}}
        spec = StudySpec("bench", fit_configuration(folder, steps), methods, paths)
        began = time.perf_counter()
        study = Study(spec, console=Console(quiet=True))
        result = study.run()
        seconds = time.perf_counter() - began
        assert not result.failed
        return seconds, len(study.plan.stages), [list(trial.path) for trial in study.plan.trials]


def main() -> None:
    """Run both ways in turns and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    kind = "permutations" if options.orders else "positions"
    run([["inst", "safety"]], 1)  # imports, and files into memory
    ratios = []
    for _ in range(options.repeats):
        shared, trainings, paths = run(kind, options.steps)
        apart, trainings_apart = 0.0, 0
        for path in paths:
            seconds, count, _ = run([path], options.steps)
            apart += seconds
            trainings_apart += count
        ratios.append(shared / apart)
        print(
            f"{kind}: {trainings} of {trainings_apart} stage trainings; "
            f"{shared:.1f} s against {apart:.1f} s apart, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    steps = (trainings + len(paths)) / (trainings_apart + len(paths))
    print(f"median ratio {statistics.median(ratios):.2f}; of optimizer steps {steps:.2f}")


if __name__ == "__main__":
    main()
