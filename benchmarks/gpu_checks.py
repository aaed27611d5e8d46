"""Whether everything works on this machine's GPU, as one table.

Every check runs in a process of its own with a time limit of its own: one that hangs or crashes
costs only itself. The table is written after every check. The path of the demo, made smaller, is
trained on the CPU and on the device, and compared. One GPU; nothing is downloaded.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_table import Row, Skipped, add_row, read_rows, write_tables  # noqa: E402

# Seconds below which no further check is begun.
LEAST = 15
# A CPU takes so many times as long, with other processes beside it.
SLOWER = 6


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        function: "MODULE:FUNCTION", which takes a `Bench` and yields rows.
        seconds: its time limit.
        about: what it checks.
        needs: checks that must have ended before.
    """

    function: str
    seconds: int
    about: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What a check is given.

    Attributes:
        device: "cuda" or "cpu".
        work: folder in which checks leave what others need.
        name: of the check.
    """

    device: str
    work: Path
    name: str


# The cheapest and most telling first.
CHECKS = {
    "environment": Check("gpu_model:environment", 60, "device, versions, defaults of PyTorch"),
    "attention": Check("gpu_model:attention", 60, "sdpa, eager and flash attention are equal"),
    "cpu": Check("gpu_paths:on_cpu", 150, "the path on the CPU, with which others compare"),
    "fp32": Check("gpu_paths:fp32", 90, "the path in 32-true is that of the CPU", ("cpu",)),
    "generation": Check("gpu_model:generation", 60, "answers are those of the CPU", ("cpu",)),
    "bf16": Check("gpu_paths:bf16", 90, "the path in bf16-true forgets as the CPU's", ("cpu",)),
    "resume": Check("gpu_paths:resume", 120, "SIGKILL inside a stage changes nothing", ("fp32",)),
    "ddp": Check("gpu_paths:ddp", 90, "ddp of one process is one device", ("fp32",)),
    "fsdp2": Check("gpu_paths:fsdp2", 90, "fsdp2 of one process is one device", ("fp32",)),
    "plan": Check("gpu_speed:plan", 150, "the plan against the real peak of memory"),
    "step": Check("gpu_speed:step", 150, "time of a training step of the 1B shape"),
    "compile": Check("gpu_speed:compiled", 150, "model.compile gives the same losses"),
    "qlora": Check("gpu_paths:qlora", 120, "a base in NF4 learns and forgets", ("bf16",)),
    "mixed": Check("gpu_paths:mixed", 90, "the path in bf16-mixed", ("cpu",)),
    "checkpointing": Check("gpu_paths:checkpointing", 90, "recomputed activations", ("fp32",)),
    "offload": Check("gpu_paths:offload", 90, "fsdp2 with cpu_offload", ("fp32",)),
    "deterministic": Check("gpu_paths:deterministic", 120, "trainer.deterministic: true", ("cpu",)),
}


def run_check(name: str, device: str, work: Path) -> None:
    """Make a check in this process; rows go to a file, and its end to another."""
    module, _, function = CHECKS[name].function.partition(":")
    rows, bench = work / f"{name}.rows", Bench(device, work, name)
    try:
        for row in getattr(import_module(module), function)(bench):
            add_row(rows, replace(row, check=f"{name}: {row.check}" if row.check else name))
    except Skipped as reason:
        add_row(rows, Row(name, str(reason), "", "skipped"))
        return
    (work / f"{name}.done").touch()


class Runner:
    """Makes checks one after the other.

    Args:
        device: "cuda" or "cpu".
        output: folder for the tables and the log.
        work: folder for what checks leave to each other.
        seconds: total time limit.
    """

    def __init__(self, device: str, output: Path, work: Path, seconds: float) -> None:
        self.device, self.output, self.work = device, output, work
        self.ends = time.monotonic() + seconds
        self.limit = seconds
        self.rows: list[Row] = []
        self.about: dict[str, str] = {}

    def run(self, names: list[str]) -> bool:
        """Make the checks; returns whether none failed."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "log.txt").write_text("", encoding="utf-8")
        for name in names:
            began = time.monotonic()
            rows = list(self._check(name))
            self._keep(name, rows, time.monotonic() - began)
        return all(row.result != "FAILED" for row in self.rows)

    def _keep(self, name: str, rows: list[Row], seconds: float) -> None:
        self.rows += rows
        about = self.work / "about.json"
        if about.is_file():
            self.about = json.loads(about.read_text(encoding="utf-8"))
        write_tables(self.output, self.about, self.rows)
        for row in rows:
            expected = f"; expected {row.expected}" if row.expected else ""
            print(f"{row.result:<8}{row.check}: {row.value}{expected}")
        print(f"        {name} took {seconds:.0f} s", flush=True)

    def _check(self, name: str) -> list[Row]:
        """Rows of a check, made in a process of its own."""
        check, left = CHECKS[name], self.ends - time.monotonic()
        if left < LEAST:
            return [Row(name, f"the time limit of {self.limit / 60:g} minutes", "", "skipped")]
        for needed in check.needs:
            if not (self.work / f"{needed}.done").exists():
                return [Row(name, f"it compares with {needed}, which was not made", "", "skipped")]
        own = check.seconds * (SLOWER if self.device == "cpu" else 1)
        limit = min(own, left)
        code, text = self._process(name, limit)
        rows = list(read_rows(self.work / f"{name}.rows"))
        if code is None:
            whose = "its" if limit == own else "what was left of the"
            found = f"not done after {limit:.0f} s, {whose} time limit"
            # The total limit says nothing about the check.
            result: Any = "FAILED" if limit == own else "skipped"
            rows.append(Row(name, found, "an end", result))
        elif code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
            rows.append(Row(name, f"{how}: {last.strip()[:300]}", "no error", "FAILED"))
        elif not rows:
            rows.append(Row(name, "no row", "a row at least", "FAILED"))
        return rows

    def _process(self, name: str, limit: float) -> tuple[int | None, str]:
        """Exit code, None for one that had to be ended, and what was printed."""
        command = [sys.executable, "-P", str(Path(__file__)), "--run", name]
        command = [part for part in command if part != "-P" or sys.version_info >= (3, 11)]
        command += ["--device", self.device, "--work", str(self.work)]
        log = self.work / f"{name}.log"
        with log.open("wb") as handle:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | None
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                # It, and what it started.
                end_group(process)
        text = log.read_text(encoding="utf-8", errors="replace")
        with (self.output / "log.txt").open("a", encoding="utf-8") as handle:
            handle.write(f"=== {name}\n{text}\n")
        return code, text


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process that leads a group, and the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment() -> dict[str, str]:
    """Of the processes of checks: this tree first, nothing from the hub, few threads."""
    known = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "benchmarks"), *([known] if known else [])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {"OMP_NUM_THREADS": str(min(4, os.cpu_count() or 1)), **os.environ, **own}


def with_needs(names: list[str]) -> list[str]:
    """Names with those of the checks that they compare with, in the order of `CHECKS`."""
    wanted = set(names)
    for name in reversed(CHECKS):
        if name in wanted:
            wanted |= set(CHECKS[name].needs)
    return [name for name in CHECKS if name in wanted]


def main(arguments: list[str] | None = None) -> int:
    """Make the checks; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries all of it out")
    add("--only", nargs="+", metavar="NAME", choices=CHECKS, help="these, and what they need")
    add("--without", nargs="+", metavar="NAME", choices=CHECKS, default=[], help="all but these")
    add("--list", action="store_true", help="print the checks and end")
    add("--minutes", type=float, default=8.0, help="time limit of all checks together")
    add("--output", type=Path, default=Path("runs/gpu"), help="gets checks.md, .json and log.txt")
    add("--work", type=Path, help="folder for what checks leave; temporary if not given")
    add("--run", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        for name, check in CHECKS.items():
            print(f"{name:<15}{check.seconds:>4} s  {check.about}")
        return 0
    if options.run:
        run_check(options.run, options.device, options.work)
        return 0
    chosen = [name for name in options.only or CHECKS if name not in options.without]
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            parser.error(f"--work: found files in {work}, expected an empty folder")
        runner = Runner(options.device, options.output.resolve(), work, 60 * options.minutes)
        fine = runner.run(with_needs(chosen))
    print(f"\nWritten to {options.output}: checks.md, checks.json, log.txt")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
