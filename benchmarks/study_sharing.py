"""Compare a study with one separate study per path: stage trainings and wall time.

    OMP_NUM_THREADS=1 python benchmarks/study_sharing.py             # four positions
    OMP_NUM_THREADS=1 python benchmarks/study_sharing.py --orders    # all 24 orders

All stages and the unlearning have the same number of steps. A separate study has its own store, as
if the paths were trained without a shared stage store. All studies run in one process, alternately.
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
    """Return the demo's configuration with short stages of equal length, without generation."""
    stages = {name: {"steps": steps, "batch_size": 8} for name in STAGES}
    monitors = [{"class_path": "AnswerLikelihood", "init_args": {"every_n_steps": 0, "limit": 16}}]
    trainer = {
        "store": f"{folder}/store",
        "default_root_dir": folder,
        "callbacks": monitors,
        "enable_progress_bar": False,
    }
    changes = {
        "trainer": trainer,
        "data": {"stages": stages, "unlearn": {"steps": steps, "batch_size": 8}},
    }
    return merge(load_configs([str(ROOT / "configs" / "demo.yaml")]), changes)


def run(paths: str | list[list[str]], steps: int) -> tuple[float, int, list[list[str]]]:
    """Run a study in a new folder; return its seconds, number of stage trainings, and paths."""
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
    """Run both alternately and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    kind = "permutations" if options.orders else "positions"
    run([["inst", "safety"]], 1)  # imports modules and caches files
    ratios = []
    for _ in range(options.repeats):
        shared, trainings, paths = run(kind, options.steps)
        separate, separate_trainings = 0.0, 0
        for path in paths:
            seconds, count, _ = run([path], options.steps)
            separate += seconds
            separate_trainings += count
        ratios.append(shared / separate)
        print(
            f"{kind}: {trainings} of {separate_trainings} stage trainings; "
            f"{shared:.1f} s against {separate:.1f} s of separate studies, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    steps = (trainings + len(paths)) / (separate_trainings + len(paths))
    print(f"median ratio {statistics.median(ratios):.2f}; of optimizer steps {steps:.2f}")


if __name__ == "__main__":
    main()
