"""A worker: a process that makes tasks of a study, asked through its standard input.

``python -m lightning_unlearn.study.executors.worker_main SPEC`` reads one JSON object a line and
answers each with one. It stops after the optimizer step in progress when its input ends, so it
outlives nobody who asked.
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

# Another process of the same model must hear something before its patience ends.
KEEP_ALIVE = 60.0


def main(arguments: list[str]) -> int:
    """Work until the input ends.

    Args:
        arguments: the file with the study's `StudySpec` as JSON.

    Returns:
        Exit code.
    """
    # What libraries print must not get between the answers.
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
    """What is asked, read by a thread so that the end of the input is noticed at once."""

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
        """The next request; None at the end of the input, {} when none came in time."""
        self._is_idle.set()
        try:
            return self._queue.get(timeout=patience)
        except queue.Empty:
            return {}
        finally:
            self._is_idle.clear()


class _Worker:
    """A workbench, made when it is first needed."""

    def __init__(self, spec: Path, answers: TextIO | None) -> None:
        self._spec = spec
        self._answers = answers
        self._bench: Any = None
        self._said: list[str] = []
        warnings.showwarning = self._warn  # type: ignore[assignment]

    def _warn(self, message: Warning | str, category: type[Warning], *_: Any) -> None:
        if not is_deprecation(message, category):
            self.say(str(message))

    def say(self, text: str) -> None:
        """Keep a sentence for the next answer."""
        self._said.append(text)

    def send(self, values: dict[str, Any]) -> None:
        """Answer."""
        if self._answers is not None:
            print(json.dumps(values), file=self._answers, flush=True)

    def follow(self, requests: _Requests | None) -> Iterator[dict[str, Any]]:
        """The requests, the same on every process that trains a model with this one."""
        together = requests is None
        while True:
            request = requests.next(KEEP_ALIVE) if requests is not None else None
            # A plan is made by the first process alone, which need not know the others yet.
            works = bool(request) and "plan" not in (request or {})
            if together or (works and self.bench.processes > 1):
                together = True
                request = self.bench.agree(request)
            if request is None:
                return
            if request:
                yield request

    @property
    def bench(self) -> Any:
        """The workbench."""
        if self._bench is None:
            from lightning_unlearn.study.spec import StudySpec
            from lightning_unlearn.study.task_runner import TaskRunner

            text = self._spec.read_text(encoding="utf-8")
            self._bench = TaskRunner(StudySpec.read(text), self.say)
        return self._bench

    def answer(self, request: dict[str, Any]) -> None:
        """Do what is asked, and tell how it went."""
        from lightning_unlearn.study.plan import refusal
        from lightning_unlearn.study.task_queue import TaskResult, failure

        if "plan" in request:
            try:
                self.send({"plan": asdict(self.bench.plan())})
            except InputError as error:
                self.send(refusal(error))
            return
        key, began = request["make"], time.monotonic()
        try:
            made = self.bench.make(key, None)
            outcome = TaskResult(key, "done", time.monotonic() - began, made)
        except StorageError as error:
            self.send({"full": str(error)})
            return
        except Exception as error:
            # Whatever broke this task, the others are worth having.
            outcome = failure(key, error, time.monotonic() - began)
        said, self._said = self._said, []
        self.send({"outcome": {**asdict(outcome), "said": said}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
