"""A worker process, as seen by the process that started it."""

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
    """Raised when a worker ends without an answer."""


class WorkerProcess:
    """Starts a worker, sends it requests and reads its answers.

    Args:
        spec: file with the study's `StudySpec` as JSON.
        log: file for the output of the worker.
        settings: environment variables of the worker that differ from those of this process.
        folder: working directory of the worker; None takes that of this process.
    """

    def __init__(
        self, spec: Path, log: Path, settings: dict[str, str], folder: str | None = None
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "lightning_unlearn.study.executors.worker_main", str(spec)]
        with log.open("ab") as output:
            # Start a new session: Ctrl-C then reaches this process only, which closes the
            # worker's input.
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
        """Request the plan of the study.

        Raises:
            InputError: if the worker finds a mistake in the study.
            WorkerDied: if the worker ends.
        """
        answer = self._request({"plan": None})
        return plan_of(answer)

    def make(self, key: str) -> TaskResult:
        """Request a task; return its result.

        Raises:
            StorageError: if the worker cannot write.
            KeyboardInterrupt: if a signal stopped the worker.
            WorkerDied: if the worker ends.
        """
        answer = self._request({"make": key})
        if "full" in answer:
            raise StorageError(answer["full"])
        if "stopped" in answer:
            raise KeyboardInterrupt(answer["stopped"])
        return TaskResult.read(answer["result"])

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
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
            raise WorkerDied(f"the worker died ({how}); its output is in {self.log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Close the input of the worker: it stops after the current optimizer step."""
        # Ignore unsent data of a worker that has ended.
        with contextlib.suppress(OSError):
            _open(self._process.stdin).close()

    def wait(self) -> int:
        """Wait until the worker has ended.

        Returns:
            Exit code of the worker; negative for a signal.
        """
        code = self._process.wait()
        _open(self._process.stdout).close()
        return code

    def kill(self) -> None:
        """Kill the worker and the processes that it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "the process was started with pipes"
    return pipe
