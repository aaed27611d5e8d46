"""Check all features on this machine's GPU and write one table.

Every check runs in its own process with its own time limit, so a check that hangs or crashes does
not stop the others. The table is written after every check. A smaller version of the demo's path is
trained on the CPU and on the device, and the results are compared. The script uses one GPU and
downloads nothing.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_table import Row, Skipped, add_row, read_rows, write_tables  # noqa: E402

# Remaining seconds below which no further check starts.
LEAST = 15
# Factor of the time limits on a CPU, with other processes running.
SLOWER = 6


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        function: "MODULE:FUNCTION", which takes a `Bench` and yields rows.
        seconds: time limit.
        about: description.
        needs: checks that must have passed before.
        alone: whether no other check may run at the same time.
    """

    function: str
    seconds: int
    about: str
    needs: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Bench:
    """Arguments of a check.

    Attributes:
        device: "cuda" or "cpu".
        work: folder for files that other checks need.
        name: name of the check.
    """

    device: str
    work: Path
    name: str


# Cheap and important checks come first.
CHECKS = {
    "environment": Check("gpu_device:environment", 60, "device, versions, defaults of PyTorch"),
    "attention": Check("gpu_model:attention", 60, "sdpa, eager and flash attention are equal"),
    "cpu": Check("gpu_paths:on_cpu", 150, "the path on the CPU, for the other checks"),
    "fp32": Check("gpu_paths:fp32", 90, "the path in 32-true equals that of the CPU", ("cpu",)),
    "generation": Check("gpu_model:generation", 60, "answers equal those of the CPU", ("cpu",)),
    "bf16": Check("gpu_paths:bf16", 90, "the path in bf16-true forgets as the CPU's", ("cpu",)),
    "resume": Check("gpu_paths:resume", 120, "SIGKILL inside a stage changes nothing", ("fp32",)),
    "ddp": Check("gpu_paths:ddp", 90, "ddp with one process equals one device", ("fp32",)),
    "fsdp2": Check("gpu_paths:fsdp2", 90, "fsdp2 with one process equals one device", ("fp32",)),
    "plan": Check("gpu_speed:plan", 150, "the plan against the real peak memory"),
    "step": Check("gpu_speed:step", 150, "time of a training step of the 1B shape", alone=True),
    "compile": Check("gpu_speed:compiled", 150, "model.compile gives the same losses", alone=True),
    "qlora": Check("gpu_paths:qlora", 120, "a base in NF4 learns and forgets", ("bf16",)),
    "mixed": Check("gpu_paths:mixed", 90, "the path in bf16-mixed", ("cpu",)),
    "checkpointing": Check("gpu_paths:checkpointing", 90, "recomputed activations", ("fp32",)),
    "offload": Check("gpu_paths:offload", 90, "fsdp2 with cpu_offload", ("fp32",)),
    "deterministic": Check("gpu_paths:deterministic", 120, "trainer.deterministic: true", ("cpu",)),
}


def run_check(name: str, device: str, work: Path) -> None:
    """Run a check in this process; write its rows to a file, and another file at its end."""
    module, _, function = CHECKS[name].function.partition(":")
    rows, bench = work / f"{name}.rows", Bench(device, work, name)
    try:
        for row in getattr(import_module(module), function)(bench):
            add_row(rows, replace(row, check=f"{name}: {row.check}" if row.check else name))
    except Skipped as reason:
        add_row(rows, Row(name, str(reason), "", "skipped"))
        return
    (work / f"{name}.done").touch()


@dataclass
class Started:
    """A running check.

    Attributes:
        name: name of the check.
        process: the process, which leads a process group.
        began: start on the monotonic clock, in seconds.
        limit: allowed seconds.
        whole: whether the limit is that of the check, and not the rest of the total limit.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    began: float
    limit: float
    whole: bool

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began


class Runner:
    """Runs checks in the given order, some at the same time.

    Args:
        device: "cuda" or "cpu".
        output: folder for the tables and the log.
        work: folder for files that checks share.
        seconds: total time limit.
        jobs: number of checks at the same time; checks that measure time run alone.
    """

    def __init__(
        self, device: str, output: Path, work: Path, seconds: float, jobs: int = 1
    ) -> None:
        self.device, self.output, self.work, self.jobs = device, output, work, jobs
        self.ends = time.monotonic() + seconds
        self.limit = seconds
        self.rows: dict[str, list[Row]] = {}
        self.started: list[Started] = []

    def run(self, names: list[str]) -> bool:
        """Run the checks; return whether none failed."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "log.txt").write_text("", encoding="utf-8")
        waiting, self.rows = list(names), {name: [] for name in names}
        try:
            while waiting or self.started:
                for each in [s for s in self.started if self._ended(s)]:
                    self.started.remove(each)
                    self._keep(each.name, self._rows_of(each), each.seconds)
                if (name := self._next(waiting)) is None:
                    time.sleep(0.05)
                    continue
                waiting.remove(name)
                if (why := self._reason_to_skip(name)) is not None:
                    self._keep(name, [Row(name, why, "", "skipped")], 0)
                else:
                    self.started.append(self._start(name))
        finally:
            for each in self.started:
                end_group(each.process)
        return all(row.result != "FAILED" for rows in self.rows.values() for row in rows)

    def _ended(self, each: Started) -> bool:
        return each.process.poll() is not None or each.seconds > each.limit

    def _next(self, waiting: list[str]) -> str | None:
        """Return the first check that can start now; none overtakes one that must run alone."""
        running = [each.name for each in self.started]
        if len(running) >= self.jobs or any(CHECKS[name].alone for name in running):
            return None
        for name in waiting:
            if not needs(name, self.device) & {*running, *waiting}:
                return None if CHECKS[name].alone and running else name
            if CHECKS[name].alone:
                return None
        return None

    def _reason_to_skip(self, name: str) -> str | None:
        """Return the reason for which a check cannot run; None if it can."""
        if self.ends - time.monotonic() < LEAST:
            return f"the time limit of {self.limit / 60:g} minutes"
        for needed in needs(name, self.device):
            if not (self.work / f"{needed}.done").exists():
                return f"it needs {needed}, which did not finish"
        return None

    def _start(self, name: str) -> Started:
        """Start a check in its own process."""
        left = self.ends - time.monotonic()
        own = CHECKS[name].seconds * (SLOWER if self.device == "cpu" else 1)
        command = [sys.executable, str(Path(__file__)), "--run", name]
        command += ["--device", self.device, "--work", str(self.work)]
        with (self.work / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Use a group, to end it with its children, but no session: Ctrl-C ends it too.
                preexec_fn=os.setpgrp,
            )
        return Started(name, process, time.monotonic(), min(own, left), own <= left)

    def _rows_of(self, each: Started) -> list[Row]:
        """Return the rows of a check, with one more if it hung, crashed or wrote none."""
        code = each.process.poll()
        end_group(each.process)
        name, text = each.name, (self.work / f"{each.name}.log").read_text(errors="replace")
        with (self.output / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"=== {name}\n{text}\n")
        rows = list(read_rows(self.work / f"{name}.rows"))
        if code is None:
            whose = "its" if each.whole else "the rest of the total"
            found = f"not finished after {each.limit:.0f} s, {whose} time limit"
            # Only the check's own limit shows that the check failed.
            rows.append(Row(name, found, "finished", "FAILED" if each.whole else "skipped"))
        elif code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
            rows.append(Row(name, f"{how}: {last.strip()[:300]}", "no error", "FAILED"))
        elif not rows:
            rows.append(Row(name, "no row", "at least one row", "FAILED"))
        return rows

    def _keep(self, name: str, rows: list[Row], seconds: float) -> None:
        """Write the tables with the rows of one more check."""
        self.rows[name] = rows
        file = self.work / "about.json"
        about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        write_tables(self.output, about, [row for rows in self.rows.values() for row in rows])
        for row in rows:
            expected = f"; expected {row.expected}" if row.expected else ""
            print(f"{row.result:<8}{row.check}: {row.value}{expected}")
        print(f"        {name} took {seconds:.0f} s", flush=True)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that leads a group, and the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment() -> dict[str, str]:
    """Return the environment of checks: this source tree first, no hub, few threads."""
    known = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), str(ROOT / "benchmarks"), *([known] if known else [])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {"OMP_NUM_THREADS": str(min(4, os.cpu_count() or 1)), **os.environ, **own}


def needs(name: str, device: str) -> set[str]:
    """Return the checks that must have passed before another; on a GPU, also "environment"."""
    first = {"environment"} if device == "cuda" and name != "environment" else set()
    return {*CHECKS[name].needs, *first}


def with_needs(names: list[str], device: str) -> list[str]:
    """Add the names of the needed checks; return all names in the order of `CHECKS`."""
    wanted = set(names)
    for name in reversed(CHECKS):
        if name in wanted:
            wanted |= needs(name, device)
    return [name for name in CHECKS if name in wanted]


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; return exit code 1 if one failed."""
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tests the script")
    add("--only", nargs="+", metavar="NAME", choices=CHECKS, help="these checks and their needs")
    add(
        "--without", nargs="+", metavar="NAME", choices=CHECKS, default=[], help="skip these checks"
    )
    add("--list", action="store_true", help="print the checks and exit")
    add("--minutes", type=float, default=8.0, help="total time limit")
    add("--jobs", type=int, help="checks at the same time; default: 3 on a GPU, 1 on a CPU")
    add("--output", type=Path, default=Path("runs/gpu"), help="for checks.md, .json and log.txt")
    add("--work", type=Path, help="folder for files that checks share; default: temporary")
    add("--run", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        for name, check in CHECKS.items():
            print(f"{name:<15}{check.seconds:>4} s  {check.about}")
        return 0
    if options.run:
        run_check(options.run, options.device, options.work)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [name for name in options.only or CHECKS if name not in options.without]
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            parser.error(f"--work: found files in {work}, expected an empty folder")
        jobs = options.jobs or (3 if options.device == "cuda" else 1)
        output, seconds = options.output.resolve(), 60 * options.minutes
        runner = Runner(options.device, output, work, seconds, jobs)
        fine = runner.run(with_needs(chosen, options.device))
    print(f"\nWritten to {options.output}: checks.md, checks.json, log.txt")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
