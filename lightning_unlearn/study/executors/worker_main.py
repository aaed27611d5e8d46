"""A worker: a process that runs tasks of a study, requested through its standard input.

``python -m lightning_unlearn.study.executors.worker_main SPEC`` reads one JSON object per line and
answers each with one JSON object. When its input ends, it stops after the current optimizer step,
so it does not outlive the process that started it.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.signals import sigterm_as_interrupt
from lightning_unlearn.training.quiet import is_deprecation

# Seconds between broadcasts to the other processes of a model, below their timeout.
KEEP_ALIVE = 60.0


def main(arguments: list[str]) -> int:
    """Answer requests until the input ends.

    Args:
        arguments: path of the file with the study's `StudySpec` as JSON.

    Returns:
        Exit code.
    """
    # Send output of libraries to standard error, so that it does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    requests = _Requests(sys.stdin) if is_first else None
    worker = _Worker(Path(arguments[0]), answers if is_first else None)
    try:
        with sigterm_as_interrupt():
            for request in worker.follow(requests):
                worker.answer(request)
    except KeyboardInterrupt as stop:
        worker.send({"stopped": str(stop)})
        return 143
    return 0


class _Requests:
    """Requests from standard input, read by a thread that notices the end of input at once."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._is_idle = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._source:
            self._queue.put(json.loads(line))
        self._queue.put(None)
        if not self._is_idle.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def next(self, patience: float) -> dict[str, Any] | None:
        """Return the next request; None at the end of input, {} if none came in time.

        Args:
            patience: time to wait for a request, in seconds.
        """
        self._is_idle.set()
        try:
            return self._queue.get(timeout=patience)
        except queue.Empty:
            return {}
        finally:
            self._is_idle.clear()


class _Worker:
    """A task runner, created for the first request, and its answers."""

    def __init__(self, spec: Path, answers: TextIO | None) -> None:
        self._spec = spec
        self._answers = answers
        self._runner: Any = None
        self._messages: list[str] = []
        warnings.showwarning = self._warn  # type: ignore[assignment]

    def _warn(self, message: Warning | str, category: type[Warning], *_: Any) -> None:
        if not is_deprecation(message, category):
            self.say(str(message))

    def say(self, text: str) -> None:
        """Keep a message for the next answer."""
        self._messages.append(text)

    def send(self, values: dict[str, Any]) -> None:
        """Send an answer, if this process is the first one."""
        if self._answers is not None:
            print(json.dumps(values), file=self._answers, flush=True)

    def follow(self, requests: _Requests | None) -> Iterator[dict[str, Any]]:
        """Yield the requests, the same ones on every process that trains the model."""
        together = requests is None
        while True:
            request = requests.next(KEEP_ALIVE) if requests is not None else None
            # The first process makes the plan alone, before the other processes exist.
            works = bool(request) and "plan" not in (request or {})
            if together or (works and self.runner.processes > 1):
                together = True
                request = self.runner.agree(request)
            if request is None:
                return
            if request:
                yield request

    @property
    def runner(self) -> Any:
        """Return the task runner; create it on the first call."""
        if self._runner is None:
            from lightning_unlearn.study.spec import StudySpec
            from lightning_unlearn.study.task_runner import TaskRunner

            text = self._spec.read_text(encoding="utf-8")
            self._runner = TaskRunner(StudySpec.read(text), self.say)
        return self._runner

    def answer(self, request: dict[str, Any]) -> None:
        """Execute a request and send its result."""
        from lightning_unlearn.study.plan import refusal
        from lightning_unlearn.study.task_queue import TaskResult, failure

        if "plan" in request:
            try:
                self.send({"plan": asdict(self.runner.plan())})
            except InputError as error:
                self.send(refusal(error))
            return
        key, began = request["make"], time.monotonic()
        try:
            ran = self.runner.make(key, None)
            result = TaskResult(key, "done", time.monotonic() - began, ran)
        except StorageError as error:
            self.send({"full": str(error)})
            return
        except Exception as error:
            # An error of one task must not stop the others.
            result = failure(key, error, time.monotonic() - began)
        messages, self._messages = self._messages, []
        self.send({"result": {**asdict(result), "messages": messages}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
