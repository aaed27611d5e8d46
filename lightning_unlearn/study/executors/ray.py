"""The work of a study on a Ray cluster: every node of the tree is a task."""

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

# Ray starts a task again so often when its machine or its process is lost.
RETRIES = 5

# The worker that serves the tasks of this Ray process, by the study it was made for.
_SERVING: dict[str, WorkerProcess] = {}


def _worker(spec: str, folder: str) -> WorkerProcess:
    """The worker of this Ray process, started on the first task.

    Tasks are worked on by a process of their own, for it may have to start others in turn (DDP),
    and so that a task that is canceled or loses its machine takes its training with it.
    """
    if spec not in _SERVING:
        home = tempfile.mkdtemp(prefix="lightning-unlearn-")
        file = Path(home) / "study.json"
        file.write_text(spec, encoding="utf-8")
        # Ray has set CUDA_VISIBLE_DEVICES to the GPUs that the task was given.
        process = WorkerProcess(file, Path(home) / "worker.log", {}, folder)
        atexit.register(process.kill)
        _SERVING[spec] = process
    return _SERVING[spec]


def _plan(spec: str, folder: str) -> dict[str, Any]:
    """Task: the study's tree, or why there is none."""
    try:
        return {"plan": asdict(_worker(spec, folder).plan())}
    except InputError as error:
        return refusal(error)


def _make(spec: str, folder: str, key: str, before: dict[str, Any] | None) -> dict[str, Any]:
    """Task: make a node, after the one it starts from."""
    if before is not None and before.get("state") != "done":
        return asdict(TaskResult(key, "skipped", error=before["error"]))
    worker = _worker(spec, folder)
    try:
        return asdict(worker.make(key))
    except StorageError as error:
        return {"full": str(error), "error": str(error)}
    except WorkerDied as death:
        # With its worker goes this process; Ray starts the task again in another.
        print(death, flush=True)
        os._exit(1)


class RayExecutor:
    """Makes nodes as tasks of a Ray cluster, whose machines share the folders of the study.

    Args:
        spec: the study.
        address: of the cluster, or "auto".
        gpus: that each task asks for; None for none.
        cpus: that each task asks for.

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
                'ray: found no Ray, expected it installed: pip install "lightning-unlearn[ray]"'
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
        """Refuse what no machine of the cluster can give: Ray would wait for one for ever."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for name, key, yaml in (
            ("CPU", "num_cpus", "cpus_per_worker"),
            ("GPU", "num_gpus", "gpus_per_worker"),
        ):
            most = max((machine.get(name, 0) for machine in machines), default=0)
            if request.get(key, 0) > most:
                raise InputError(
                    f"{yaml}: found {request[key]}, but no machine of the Ray cluster has more "
                    f"than {most:g} {name}s."
                )

    @property
    def is_first_process(self) -> bool:
        """Always: the others only work."""
        return True

    def plan(self) -> StudyPlan:
        """See `Executor`; a task makes it."""
        answer = self._ray.get(self._tasks["plan"].remote(*self._arguments))
        return plan_of(answer)

    def run(self, nodes: Sequence[Task], report: Report) -> None:
        """See `Executor`; what a node starts from is an argument of its task."""
        made: dict[str, Any] = {}
        for node in nodes:
            before = made.get(node.parent or "")
            made[node.key] = self._tasks["make"].remote(*self._arguments, node.key, before)
        keys = {reference: key for key, reference in made.items()}
        self._pending = list(keys)
        while self._pending:
            ready, self._pending = self._ray.wait(self._pending, timeout=0.5)
            for reference in ready:
                report(self._outcome(keys[reference], reference))

    def _outcome(self, key: str, reference: Any) -> TaskResult:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = f"{type(error).__name__} after {RETRIES} retries: {error}"
            return TaskResult(key, "failed", error=" ".join(reason.split()))
        if "full" in answer:
            raise StorageError(answer["full"])
        return TaskResult.read(answer)

    def close(self) -> None:
        """See `Executor`; tasks in progress are called off."""
        for reference in self._pending:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        if self._owns:
            self._ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Become a driver of a cluster.

    Raises:
        InputError: if there is none.
    """
    host, colon, port = address.rpartition(":")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if colon and port.isdigit() and "/" not in host:
            # Ray itself would ask again and again for minutes.
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError) as error:
        raise InputError(f"ray: found no cluster at {address!r}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own would end this process without a word.
        signal.signal(signal.SIGTERM, handler)


TASKS = {"plan": _plan, "make": _make}
