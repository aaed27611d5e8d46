"""Executor that runs the tasks of a study on a Ray cluster: each is one Ray task."""

import atexit
import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.study.executors.base import Report
from lightning_unlearn.study.executors.worker_process import WorkerDied, WorkerProcess
from lightning_unlearn.study.plan import StudyPlan, Task, plan_of, refusal
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_queue import TaskResult

# Number of times that Ray starts a task again after its machine or process was lost.
RETRIES = 5

# The worker that runs the tasks of this Ray process, by study.
_WORKERS: dict[str, WorkerProcess] = {}


def _worker(spec: str, folder: str) -> WorkerProcess:
    """Return the worker of this Ray process; start it for the first task.

    Tasks run in a separate process for two reasons. The process may start further processes (DDP).
    It ends together with a task that Ray cancels or whose machine is lost.
    """
    if spec not in _WORKERS:
        home = tempfile.mkdtemp(prefix="lightning-unlearn-")
        file = Path(home) / "study.json"
        file.write_text(spec, encoding="utf-8")
        # Ray has set CUDA_VISIBLE_DEVICES to the GPUs of the task.
        process = WorkerProcess(file, Path(home) / "worker.log", {}, folder)
        atexit.register(process.kill)
        _WORKERS[spec] = process
    return _WORKERS[spec]


def _plan(spec: str, folder: str) -> dict[str, Any]:
    """Ray task: return the plan of the study, or the refusal to make it."""
    try:
        return {"plan": asdict(_worker(spec, folder).plan())}
    except InputError as error:
        return refusal(error)


def _make(spec: str, folder: str, key: str, *needed: dict[str, Any]) -> dict[str, Any]:
    """Ray task: run a task of the study after the tasks that it needs, whose answers it gets."""
    for answer in needed:
        if answer.get("state") != "done":
            return asdict(TaskResult(key, "skipped", error=answer["error"]))
    worker = _worker(spec, folder)
    try:
        return asdict(worker.make(key))
    except StorageError as error:
        return {"full": str(error), "error": str(error)}
    except WorkerDied as death:
        # End this process too: Ray then starts the task again in another process.
        print(death, flush=True)
        os._exit(1)


class RayExecutor:
    """Runs tasks on a Ray cluster whose machines share the folders of the study.

    Args:
        spec: the study.
        address: address of the cluster, or "auto".
        gpus: number of GPUs that each task requests; None for none.
        cpus: number of CPU cores that each task requests.

    Raises:
        InputError: if Ray is not installed or there is no such cluster.
    """

    def __init__(
        self, spec: StudySpec, address: str, gpus: int | None = None, cpus: int = 1
    ) -> None:
        try:
            ray: Any = import_module("ray")
        except ModuleNotFoundError:
            raise InputError(
                "ray: found no package ray, expected it to be installed. Install it with: "
                'pip install "lightning-unlearn[ray]"'
            ) from None
        self._ray = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            _connect(ray, address)
        request: dict[str, Any] = {"num_cpus": cpus, "max_retries": RETRIES}
        if gpus:
            request["num_gpus"] = gpus
        self._check(request)
        self._tasks = {name: ray.remote(**request)(f) for name, f in TASKS.items()}
        self._arguments = (spec.write(), os.getcwd())
        self._pending: list[Any] = []
        total = ray.cluster_resources()
        places = [total.get("CPU", 0) // cpus] + ([total.get("GPU", 0) // gpus] if gpus else [])
        self.workers = max(1, int(min(places)))

    def _check(self, request: dict[str, Any]) -> None:
        """Refuse requests that no machine can fulfill, because Ray would wait forever.

        Raises:
            InputError: if a task requests more CPU cores or GPUs than any machine has.
        """
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for name, key, yaml in (
            ("CPU", "num_cpus", "cpus_per_worker"),
            ("GPU", "num_gpus", "gpus_per_worker"),
        ):
            most = max((machine.get(name, 0) for machine in machines), default=0)
            if request.get(key, 0) > most:
                raise InputError(
                    f"{yaml}: found {request[key]}, expected at most {most:g}, the largest number "
                    f"of {name}s of a machine of the Ray cluster."
                )

    @property
    def is_first_process(self) -> bool:
        """Return True: worker processes neither report nor write tables."""
        return True

    def plan(self) -> StudyPlan:
        """See `Executor`; a Ray task makes the plan."""
        answer = self._ray.get(self._tasks["plan"].remote(*self._arguments))
        return plan_of(answer)

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """See `Executor`; a Ray task gets the answers of the tasks that it needs as arguments."""
        started: dict[str, Any] = {}
        for task in tasks:
            needed = [started[key] for key in task.needs if key in started]
            started[task.key] = self._tasks["make"].remote(*self._arguments, task.key, *needed)
        keys = {reference: key for key, reference in started.items()}
        self._pending = list(keys)
        while self._pending:
            ready, self._pending = self._ray.wait(self._pending, timeout=0.5)
            for reference in ready:
                report(self._result(keys[reference], reference))

    def _result(self, key: str, reference: Any) -> TaskResult:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = f"{type(error).__name__} after {RETRIES} retries: {error}"
            return TaskResult(key, "failed", error=" ".join(reason.split()))
        if "full" in answer:
            raise StorageError(answer["full"])
        return TaskResult.read(answer)

    def close(self) -> None:
        """See `Executor`; running tasks are canceled."""
        for reference in self._pending:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        if self._owns:
            self._ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connect this process to a cluster as its driver.

    Raises:
        InputError: if there is no cluster at the address.
    """
    host, colon, port = address.rpartition(":")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if colon and port.isdigit() and "/" not in host:
            # Check the address first: Ray would try to connect for minutes.
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError) as error:
        raise InputError(f"ray: found no cluster at {address!r}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        # Restore the handler: Ray's own ends this process without a message.
        signal.signal(signal.SIGTERM, handler)


TASKS = {"plan": _plan, "make": _make}
