"""Measure the overhead of a study per trial, besides training and evaluation, in one process.

    OMP_NUM_THREADS=1 python benchmarks/engine_overhead.py

Training and evaluation is the time inside Lightning's fit and validate. The rest is overhead:
parsing, planning, creating trainers, loading and storing adapters, folders, TensorBoard, tables.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from study_sharing import fit_configuration

from lightning_unlearn.study import runner
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.training.trainer import StagedTrainer


def main() -> None:
    """Run a study of 24 trials and print its time by part."""
    inside = {"training and evaluation": 0.0, "figures": 0.0}

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                inside[name] += time.perf_counter() - began

        return call

    for method in ("fit_once", "evaluate_once"):
        changed = timed("training and evaluation", getattr(StagedTrainer, method))
        setattr(StagedTrainer, method, changed)
    from lightning_unlearn import report

    report.save_figures = timed("figures", report.save_figures)
    methods = {
        name: {"callback": {"class_path": name}, "unlearn": {}} for name in ("GA", "NPO", "SimNPO")
    }
    for kind in ("first, with imports", "second"):
        for name in inside:
            inside[name] = 0.0
        with tempfile.TemporaryDirectory() as folder:
            fit = fit_configuration(folder, steps=5)
            spec = StudySpec("bench", fit, methods, "positions", seeds=[0, 1], oracle=True)
            began = time.perf_counter()
            study = runner.Study(spec, console=Console(quiet=True))
            result = study.run()
            whole = time.perf_counter() - began
            assert not result.failed and Path(folder, "table.md").is_file()
        trials = len(study.plan.trials)
        overhead = whole - sum(inside.values())
        print(
            f"{kind}: {trials} trials, {len(study.plan.tasks)} tasks, {whole:.1f} s: "
            + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in inside.items())
            + f", overhead {overhead:.1f} s = {overhead / trials:.3f} s per trial "
            f"({(overhead + inside['figures']) / trials:.3f} s with figures)",
            flush=True,
        )


if __name__ == "__main__":
    main()
