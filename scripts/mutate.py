"""Do the tests notice a fault? Put deliberate faults into a copy of the package, one at a time.

    python scripts/mutate.py [NUMBER ...]

Each fault is a change of one place that gives wrong numbers without an error. The tests named with
it run on a copy of the working tree. At least one of them must fail, and pass without the fault.
Exit code 1 if a fault passes all of them. A place that is no longer in the code is an error:
correct the fault.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lightning_unlearn", "callbacks", "configs", "tests", "pyproject.toml", "README.md")


class Fault(NamedTuple):
    """A deliberate fault: what it does, the file, the code before and after, the tests."""

    about: str
    file: str
    before: str
    after: str
    tests: str


FAULTS = [
    Fault(
        "NPO without beta inside the sigmoid",
        "objectives.py",
        "F.logsigmoid(-beta * (logps - reference_logps))",
        "F.logsigmoid(-(logps - reference_logps))",
        "tests/test_objectives.py",
    ),
    Fault(
        "SimNPO adds gamma instead of subtracting it",
        "objectives.py",
        "F.logsigmoid(beta * (negative - gamma))",
        "F.logsigmoid(beta * (negative + gamma))",
        "tests/test_objectives.py",
    ),
    Fault(
        "the seed is not in the key of a stage",
        "training/path_plan.py",
        '"seed": conditions.seed,',
        '"seed": 0,',
        "tests/storage/test_keys.py",
    ),
    Fault(
        "the precision is not in the key of a stage",
        "training/path_plan.py",
        '"precision": conditions.precision,',
        '"precision": "any",',
        "tests/storage/test_keys.py",
    ),
    Fault(
        "the label that auto takes is not in the key of a run",
        "training/path_plan.py",
        '{**identity["parameters"], **monitor.settings_from_data(data)}',
        'dict(identity["parameters"])',
        "tests/storage/test_keys.py",
    ),
    Fault(
        "every epoch has the same order of rows",
        "data/batches.py",
        "derive_seed(seed, stage, epoch)",
        "derive_seed(seed, stage, 0)",
        "tests/data/test_batches.py",
    ),
    Fault(
        "the order of rows does not depend on the stage",
        "data/batches.py",
        "derive_seed(seed, stage, epoch)",
        "derive_seed(seed, epoch)",
        "tests/data/test_batches.py",
    ),
    Fault(
        "the state of the optimizer is not restored",
        "model/optimizer.py",
        "        restore_optimizer(optimizer, state)\n",
        "",
        "tests/training/test_checkpoints.py tests/training/test_repeats.py",
    ),
    Fault(
        "the schedule starts again after a resume",
        "model/optimizer.py",
        "        scheduler.last_epoch = done\n",
        "",
        "tests/training/test_checkpoints.py tests/training/test_repeats.py",
    ),
    Fault(
        "a loss is a mean of means over micro-batches",
        "model/objective.py",
        "(values * mask * weight[:, None]).sum() / batch.tokens",
        "(values * mask * weight[:, None]).sum() / mask.sum()",
        "tests/model tests/distributed/test_processes.py",
    ),
    Fault(
        "gradients are not clipped",
        "model/compat.py",
        "    clip_grads_with_norm_(parameters, most, norm)\n",
        "",
        "tests/model tests/training/test_trainer.py",
    ),
    Fault(
        "an entry of another format is read",
        "storage/entries.py",
        'if manifest["format"] != FORMAT:',
        "if False:",
        "tests/storage",
    ),
    Fault(
        "a file with other bytes of the same size counts as whole",
        "storage/integrity.py",
        'sha256_of(file) != about.get("sha256")',
        "False",
        "tests/storage",
    ),
    Fault(
        "the oracle's examples are paired by place, not by number",
        "analysis/curves.py",
        'np.searchsorted(examples, known["example"])',
        "np.arange(len(known))",
        "tests/report/test_report_oracle_distance.py tests/report/test_report_klom.py",
    ),
    Fault(
        "two paths are compared on examples of another order",
        "statistics/divergence.py",
        "squared_distance(array[one], array[other])",
        "squared_distance(array[one], array[other][..., ::-1])",
        "tests/statistics",
    ),
]


def caught(fault: Fault, tree: Path) -> str:
    """Run the tests on a tree with a fault; return the first failed test, "" if all pass."""
    file = tree / "lightning_unlearn" / fault.file
    text = file.read_text(encoding="utf-8")
    if text.count(fault.before) != 1:
        raise SystemExit(
            f"error: {fault.file} has {fault.before!r} {text.count(fault.before)} times"
        )
    file.write_text(text.replace(fault.before, fault.after), encoding="utf-8")
    try:
        failed = first_failure(tree, fault.tests.split())
    finally:
        file.write_text(text, encoding="utf-8")
    if failed and first_failure(tree, [failed]):
        raise SystemExit(f"error: {failed} also fails without the fault")
    return failed


def first_failure(tree: Path, tests: list[str]) -> str:
    """Run tests on a tree until one fails; return its name, "" if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode and not failures:
        raise SystemExit(
            f"error: the tests could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return failures[0].removeprefix("FAILED ").partition(" - ")[0] if failures else ""


def main() -> int:
    """Try the faults and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", type=int, help="only these faults, from 1")
    chosen = parser.parse_args().numbers or range(1, len(FAULTS) + 1)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        tree = Path(folder)
        tree.chmod(0o755)  # Some tests read as another user.
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / name)
        for number in chosen:
            failure = caught(FAULTS[number - 1], tree)
            missed += not failure
            outcome = f"caught by {failure}" if failure else "NOT CAUGHT"
            print(f"{number:2} {FAULTS[number - 1].about}: {outcome}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
