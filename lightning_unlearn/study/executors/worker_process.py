"""A worker process, as seen by who asks it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from lightning_unlearn.errors import StorageError
from lightning_unlearn.study.plan import StudyPlan, plan_of
from lightning_unlearn.study.task_queue import TaskResult


class WorkerDied(Exception):
    """A worker ended without an answer."""


class WorkerProcess:
    """Starts a worker and talks to it.

    Args:
        spec: file with the study's `StudySpec` as JSON.
        log: file that gets what the worker prints.
        settings: environment variables that differ from this process's.
        folder: its current directory; None takes this process's.
    """

    def __init__(
        self, spec: Path, log: Path, settings: dict[str, str], folder: str | None = None
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "lightning_unlearn.study.executors.worker_main", str(spec)]
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches only who asks, who then ends the worker's input.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **settings},
                cwd=folder,
                start_new_session=True,
            )

    def plan(self) -> StudyPlan:
        """Have it make the study's tree.

        Raises:
            InputError: what the worker refuses.
            WorkerDied: if it ends.
        """
        answer = self._ask({"plan": None})
        return plan_of(answer)

    def make(self, key: str) -> TaskResult:
        """Have it make a task.

        Raises:
            StorageError: if it can't write.
            WorkerDied: if it ends.
        """
        answer = self._ask({"make": key})
        if "full" in answer:
            raise StorageError(answer["full"])
        if "stopped" in answer:
            raise KeyboardInterrupt(answer["stopped"])
        return TaskResult.read(answer["outcome"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            pipe = _open(self._process.stdin)
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
            line = _open(self._process.stdout).readline()
        except (OSError, ValueError):
            line = b""
        if not line:
            self.stop()
            code = self.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerDied(f"the worker died ({how}); what it printed is in {self.log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End its input: it stops after the optimizer step in progress."""
        # What could not be sent to one that is gone is not missed.
        with contextlib.suppress(OSError):
            _open(self._process.stdin).close()

    def wait(self) -> int:
        """Until it has ended.

        Returns:
            Its exit code; negative for a signal.
        """
        code = self._process.wait()
        _open(self._process.stdout).close()
        return code

    def kill(self) -> None:
        """End it at once, with the processes it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "asked for when the process was started"
    return pipe
