"""The processes of one run: when one is lost, and when a scheduler wants them to end."""

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

# Seconds between two looks at the others, for one that is ending to say itself why, and for a lost
# connection to show who is gone.
PERIOD, GRACE, PATIENCE = 0.2, 5.0, 10.0
STARTED_BY = "LIGHTNING_UNLEARN_STARTED_BY"
LOST = re.compile("gloo|nccl|connection|peer|socket|broken pipe|tcpstore", re.IGNORECASE)


class ProcessLost(InputError):
    """Another process of the run has ended."""


class Requeued(Terminated):
    """Stopped by a scheduler that is asked to start the job again."""


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes, and sees to it that none outlives another."""

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        """Start them, the first time, and call a function."""
        self.cluster_environment.validate_settings(self.num_processes, self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[STARTED_BY] = str(os.getpid())
            self._call_children_scripts()
            _others.extend(self.procs)
            _watch()
        _set_num_threads_if_needed(self.num_processes)
        return function(*args, **kwargs)


# Of this process; those that it has started itself stay for all its trainers.
_others: list["subprocess.Popen[bytes]"] = []
_watching = threading.Lock()


def launch_processes(strategy: ParallelStrategy, trainer: Any) -> None:
    """Start the other processes of a strategy, if it is this one that does, and connect them.

    Args:
        strategy: of several processes.
        trainer: its trainer.
    """
    launcher = strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        # Lightning's own looks every 5 seconds, kills without a word, and only if it is the first.
        environment, count = launcher.cluster_environment, launcher.num_processes
        strategy._launcher = Launcher(environment, count, launcher.num_nodes)
    # Processes that something else has started have none.
    if strategy.launcher is not None:
        strategy.launcher.launch(lambda: None, trainer=trainer)
    elif _first() is not None:
        _watch()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    strategy.setup_environment()


@contextmanager
def connected() -> Iterator[None]:
    """Say which process is gone where a connection is lost.

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
            _say(lost)
        _end_others()
        raise ProcessLost(lost) from None


def _first() -> int | None:
    """The process that started this one, if one of the run did."""
    pid = os.environ.get(STARTED_BY)
    return int(pid) if pid is not None and int(pid) != os.getpid() else None


def _lost() -> str | None:
    """Who is gone, in words; None for nobody."""
    first = _first()
    if first is not None:
        gone = os.getppid() != first
        return "the first process has ended, so the others stop." if gone else None
    for number, process in enumerate(_others, start=1):
        if process.poll():
            return (
                f"process {number} of 0 to {len(_others)} has ended ({_how(process.returncode)}), "
                "so the others are stopped. What is stored is kept, and the same command goes on "
                "from there."
            )
    return None


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _say(lost: str) -> None:
    # One process speaks for all that were started.
    if os.environ.get("LOCAL_RANK", "0") in ("0", "1"):
        os.write(2, f"error: {lost}\n".encode())


def _end_others() -> None:
    for process in _others:
        process.kill()


def _watch() -> None:
    """End this process when another has ended and this one does not notice, as with NCCL."""

    def look() -> None:
        while (lost := _lost()) is None:
            time.sleep(PERIOD)
        time.sleep(GRACE)
        _say(lost)
        _end_others()
        sys.stderr.flush()
        os._exit(2)

    if _watching.acquire(blocking=False):
        threading.Thread(target=look, daemon=True, name="other processes").start()


def requeue_signal(trainer: Any) -> int | None:
    """The signal by which SLURM says that the time of the job is nearly up; None without SLURM.

    Args:
        trainer: of the run.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    asked = environment.requeue_signal
    return int(asked) if asked is not None else int(signal.SIGUSR1)


@contextmanager
def requeueing(trainer: Any) -> Iterator[None]:
    """Have SLURM start the job again when its time is nearly up.

    In a stage, `StageCheckpoint` waits for the step's end and keeps it; outside, this ends the
    process at once, for there is nothing to keep.

    Args:
        trainer: of the run.
    """
    number = requeue_signal(trainer)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Requeued("stopped, as the job's time is nearly up.")

    before = signal.signal(number, end)
    try:
        yield
    except Requeued:
        # Once more would only be in the way.
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
        text = f"SLURM did not take job {job} back ({trouble}); submit it again."
    else:
        text = f"SLURM starts job {job} again; it goes on from there."
    os.write(2, f"{text}\n".encode())
