"""The processes of one run: launch them, detect a lost one, and requeue the job in SLURM."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_unlearn.errors import InputError, Terminated

# Seconds: between two checks of the other processes; that an ending process has to print its own
# error; to wait after a lost connection until it is known which process has ended.
PERIOD, GRACE, PATIENCE = 0.2, 5.0, 10.0
STARTED_BY = "LIGHTNING_UNLEARN_STARTED_BY"
LOST = re.compile("gloo|nccl|connection|peer|socket|broken pipe|tcpstore", re.IGNORECASE)


class ProcessLost(InputError):
    """Another process of the run has ended."""


class Requeued(Terminated):
    """The scheduler stopped the run, and the run asked it to start the job again."""


class Launcher(_SubprocessScriptLauncher):
    """Launcher that starts the other processes and ends all processes when one ends."""

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """Start the other processes at the first call, and call a function."""
        self.cluster_environment.validate_settings(self.num_processes, self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[STARTED_BY] = str(os.getpid())
            self._call_children_scripts()
            _others.extend(self.procs)
            _watch()
        _set_num_threads_if_needed(self.num_processes)
        return function(*args, **kwargs)


# The processes that this process has started. All its trainers use them.
_others: list["subprocess.Popen[bytes]"] = []
_watching = threading.Lock()


def launch_processes(strategy: ParallelStrategy, trainer: Any) -> None:
    """Start the other processes of a strategy if this is the first process, and connect them.

    Args:
        strategy: strategy for several processes.
        trainer: trainer of the strategy.
    """
    launcher = strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        # Lightning's launcher checks every 5 seconds and kills without a message. It does so only
        # in the first process.
        environment, count = launcher.cluster_environment, launcher.num_processes
        strategy._launcher = Launcher(environment, count, launcher.num_nodes)
    # There is no launcher if another program has started the processes.
    if strategy.launcher is not None:
        strategy.launcher.launch(lambda: None, trainer=trainer)
    elif _first() is not None:
        _watch()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    strategy.setup_environment()


@contextmanager
def connected() -> Iterator[None]:
    """Replace the error of a lost connection by a message about the process that has ended.

    Raises:
        ProcessLost: if another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not LOST.search(f"{type(error).__name__} {error}"):
            raise
        until = time.monotonic() + PATIENCE
        while (lost := _lost()) is None and time.monotonic() < until:
            time.sleep(PERIOD)
        if lost is None:
            raise
        if _first() is not None:
            _print_error(lost)
        _end_others()
        raise ProcessLost(lost) from None


def _first() -> int | None:
    """Return the number of the first process if it has started this one, else None."""
    pid = os.environ.get(STARTED_BY)
    return int(pid) if pid is not None and int(pid) != os.getpid() else None


def _lost() -> str | None:
    """Return a sentence about a process that has ended; None if all are running."""
    first = _first()
    if first is not None:
        ended = os.getppid() != first
        return "the first process has ended, so the others stop." if ended else None
    for number, process in enumerate(_others, start=1):
        if process.poll():
            return (
                f"process {number} of 0 to {len(_others)} has ended ({_how(process.returncode)}), "
                "so the others are stopped. Stored results are kept. Run the same command again "
                "to resume."
            )
    return None


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _print_error(lost: str) -> None:
    # Only one of the started processes prints the message.
    if os.environ.get("LOCAL_RANK", "0") in ("0", "1"):
        os.write(2, f"error: {lost}\n".encode())


def _end_others() -> None:
    for process in _others:
        process.kill()


def _watch() -> None:
    """Start a thread that ends this process after another process has ended.

    With NCCL, this process would otherwise wait for the lost process.
    """

    def watch() -> None:
        while (lost := _lost()) is None:
            time.sleep(PERIOD)
        time.sleep(GRACE)
        _print_error(lost)
        _end_others()
        sys.stderr.flush()
        os._exit(2)

    if _watching.acquire(blocking=False):
        threading.Thread(target=watch, daemon=True, name="other processes").start()


def requeue_signal(trainer: Any) -> int | None:
    """Return the signal that SLURM sends shortly before the job's time limit; None without SLURM.

    Args:
        trainer: trainer of the run.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    requested = environment.requeue_signal
    return int(requested) if requested is not None else int(signal.SIGUSR1)


@contextmanager
def requeueing(trainer: Any) -> Iterator[None]:
    """Let SLURM start the job again when it reaches its time limit.

    During a stage, `StageCheckpoint` handles the signal: it waits for the end of the step and
    stores a checkpoint. Outside of a stage, the signal ends the process at once, because there is
    nothing to store.

    Args:
        trainer: trainer of the run.
    """
    number = requeue_signal(trainer)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Requeued("stopped shortly before the time limit of the job.")

    before = signal.signal(number, end)
    try:
        yield
    except Requeued:
        # Ignore further signals, which would interrupt the request to SLURM.
        signal.signal(number, signal.SIG_IGN)
        if trainer.is_global_zero:
            _requeue()
        raise
    finally:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, before)


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], check=False, capture_output=True, text=True
        )
        trouble = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        trouble = str(error)
    if trouble:
        text = f"SLURM did not requeue job {job} ({trouble}); submit it again to resume."
    else:
        text = f"SLURM will start job {job} again, which resumes this run."
    os.write(2, f"{text}\n".encode())
