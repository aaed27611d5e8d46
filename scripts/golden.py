"""Check that this tree and an earlier commit give the same numbers in the demo study.

    python scripts/golden.py [COMMIT] [--only path=4]

The script checks out the earlier commit (default: HEAD, without uncommitted changes) into a
temporary folder. Each tree runs its own configs/demo-study.yaml, with one thread and an empty
store. Equal means: the same runs, every column of records.parquet, examples.parquet and
training.parquet equal to the bit, and every adapter file equal byte for byte. Renamed columns,
metrics and files are compared under their new names, which `RENAMED` lists; metrics in `ADDED` are
left out. Exit code 1 if anything differs.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/demo-study.yaml"
TABLES = ("records.parquet", "examples.parquet", "training.parquet")
# Old name: new name, of columns, and of the first parts of metric names.
RENAMED = {"measure": "metric", "probes/": "log_likelihood/", "capped/": "truncated/"}

# Metrics that the earlier commit may lack.
ADDED = ("forget/base",)


def run(tree: Path, folder: Path, only: str | None) -> None:
    """Run a tree's demo study into a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "lightning_unlearn", "study", "--config", str(tree / CONFIG)]
    command += ["--figures", "false", *(["--only", only] if only else [])]
    print(f"{tree}: running the demo's study in {folder} ...", flush=True)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        text = (folder / "log.txt").read_text(encoding="utf-8")
        raise SystemExit(f"error: {tree}: the study ended with {done.returncode}:\n{text[-2000:]}")


def contents(folder: Path) -> dict[str, object]:
    """Read the results of all runs, by path: tables with new names, and hashes of adapters."""
    found: dict[str, object] = {}
    for file in sorted(folder.glob("runs/**/*")):
        name = file.relative_to(folder).as_posix()
        if "/store/" in name:
            continue  # keys of its folders contain names of classes
        if file.name in TABLES:
            found[name] = renamed(pd.read_parquet(file))
        elif file.suffix == ".safetensors":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def renamed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the new names of columns and metrics, without added metrics."""
    table = table.rename(columns=RENAMED)
    if "metric" in table:
        table = table[~table["metric"].isin(ADDED)].reset_index(drop=True)
    for column in table.select_dtypes(exclude="number"):
        for old, new in RENAMED.items():
            if old.endswith("/"):
                texts = table[column].astype(str)
                table[column] = texts.str.replace(f"^{old}", new, regex=True)
    return table


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """Return one line per difference."""
    lines = [f"only before: {name}" for name in sorted(old.keys() - new.keys())]
    lines += [f"only now: {name}" for name in sorted(new.keys() - old.keys())]
    for name in sorted(old.keys() & new.keys()):
        before, now = old[name], new[name]
        if isinstance(before, pd.DataFrame) and isinstance(now, pd.DataFrame):
            if list(before.columns) != list(now.columns):
                lines.append(f"{name}: columns {list(before.columns)}, now {list(now.columns)}")
            elif not before.equals(now):
                parts = [c for c in before if not before[c].equals(now[c])]
                lines.append(f"{name}: other values in {', '.join(map(str, parts))}")
        elif before != now:
            lines.append(f"{name}: other bytes")
    return lines


def main() -> int:
    """Compare and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", nargs="?", default="HEAD", help="the earlier commit")
    parser.add_argument("--only", help="run selected trials, such as path=4,method=NPO")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
        tree = Path(temporary) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), options.commit], check=True)
        try:
            folders = [Path(temporary) / name for name in ("before", "now")]
            for which, folder in zip((tree, ROOT), folders, strict=True):
                folder.mkdir()
                run(which, folder, options.only)
            before, now = map(contents, folders)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    if not before:
        raise SystemExit("error: the study has no finished run, so nothing was compared.")
    lines = differences(before, now)
    print("\n".join(lines) if lines else f"{len(before)} files: all equal.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
