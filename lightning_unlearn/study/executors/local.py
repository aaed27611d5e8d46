"""Executor that runs the tasks of a study in several processes of this machine."""

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from lightning_unlearn.errors import InputError
from lightning_unlearn.study.executors.base import Report
from lightning_unlearn.study.executors.worker_process import WorkerDied, WorkerProcess
from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_queue import TaskQueue, TaskResult

# A task fails after this number of workers died while running it.
ATTEMPTS = 3


def share_gpus(
    visible: Sequence[str], workers: int, per_worker: int | None
) -> list[dict[str, str]]:
    """Return the environment variables that assign each worker its own GPUs.

    Args:
        visible: GPUs of this process, by number or id.
        workers: number of workers.
        per_worker: GPUs per worker; None assigns one if there are enough, else none.

    Returns:
        One dict per worker; empty dicts if no GPU is assigned.

    Raises:
        InputError: if there are not enough GPUs.
    """
    if per_worker is None:
        per_worker = 1 if len(visible) >= workers else 0
        if visible and not per_worker:
            raise InputError(
                f"workers: found {workers}, expected at most {len(visible)}, the number of GPUs. "
                f"Set workers to {len(visible)}, or gpus_per_worker to 0 to use the CPU."
            )
    if per_worker == 0:
        return [{"CUDA_VISIBLE_DEVICES": ""} if visible else {} for _ in range(workers)]
    if workers * per_worker > len(visible):
        raise InputError(
            f"gpus_per_worker: found {per_worker} for {workers} workers, expected at most "
            f"{len(visible)} GPUs in all ({', '.join(visible) or 'none'}). Set workers or "
            "gpus_per_worker to a lower number."
        )
    shares = [visible[n * per_worker : (n + 1) * per_worker] for n in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, by the names in CUDA_VISIBLE_DEVICES or by number."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def share_cores(workers: int) -> dict[str, str]:
    """Return the environment variables that divide the CPU cores among the workers."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


class LocalExecutor:
    """Runs tasks in worker processes, each with its own GPUs.

    A worker that dies is replaced, and its task runs again.

    Args:
        spec: the study.
        workers: number of worker processes.
        gpus_per_worker: see `share_gpus`.
    """

    def __init__(self, spec: StudySpec, workers: int, gpus_per_worker: int | None = None) -> None:
        self.workers = workers
        cores = share_cores(workers)
        shares = share_gpus(visible_gpus(), workers, gpus_per_worker)
        self._settings = [{**cores, **share} for share in shares]
        self._folder = tempfile.TemporaryDirectory(prefix="lightning-unlearn-")
        self._spec = Path(self._folder.name) / "study.json"
        self._spec.write_text(spec.write(), encoding="utf-8")
        self._logs = Path(self._folder.name)
        self._processes: dict[int, WorkerProcess] = {}
        self._change = threading.Condition()

    def _start(self, number: int) -> WorkerProcess:
        log = self._logs / f"worker-{number + 1}.log"
        self._processes[number] = WorkerProcess(self._spec, log, self._settings[number])
        return self._processes[number]

    @property
    def is_first_process(self) -> bool:
        """Return True: worker processes neither report nor write tables."""
        return True

    def plan(self) -> StudyPlan:
        """See `Executor`; the first worker makes the plan."""
        try:
            plan = self._start(0).plan()
        except WorkerDied as death:
            log = self._processes[0].log
            raise RuntimeError(f"{death}:\n{log.read_text(errors='replace')}") from None
        self._logs = Path(plan.folder) / "logs"
        return plan

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """See `Executor`; each worker has a thread that sends it tasks."""
        count = min(self.workers, len(tasks))
        shared = _SharedQueue(TaskQueue(tasks), self._change, count)
        threads = [
            threading.Thread(target=self._serve, args=(number, shared), daemon=True)
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                with self._change:
                    self._change.wait(0.2)
                    results, shared.results = shared.results, []
                for result in results:
                    report(result)
        except KeyboardInterrupt:
            shared.abort(KeyboardInterrupt())
            self._stop()
            raise
        for result in shared.results:
            report(result)
        if shared.error is not None:
            raise shared.error

    def _serve(self, number: int, shared: "_SharedQueue") -> None:
        """Send tasks to one worker until none is left."""
        while (task := shared.take(number)) is not None:
            try:
                process = self._processes.get(number) or self._start(number)
                shared.close(process.make(task.key))
            except WorkerDied as death:
                self._processes.pop(number, None)
                shared.lose(task, number, str(death))
            # Pass every error to the main thread, which reports it.
            except BaseException as error:
                shared.abort(error)

    def _stop(self) -> None:
        """Stop all workers after their current step; a second Ctrl-C kills them at once."""
        for process in list(self._processes.values()):
            process.stop()
        try:
            for process in list(self._processes.values()):
                process.wait()
        except KeyboardInterrupt:
            for process in list(self._processes.values()):
                process.kill()

    def close(self) -> None:
        """See `Executor`."""
        self._stop()
        # The first worker started before the folder of the study was known: copy its log there.
        first = Path(self._folder.name) / "worker-1.log"
        if self._logs != first.parent and first.is_file() and first.stat().st_size:
            self._logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(first, self._logs / first.name)
        self._folder.cleanup()


class _SharedQueue:
    """The queue of tasks, shared by the threads of all workers."""

    def __init__(self, waiting: TaskQueue, change: threading.Condition, workers: int) -> None:
        self._waiting = waiting
        self._change = change
        self._workers = workers
        self._lost: dict[str, list[int]] = {}
        self.results: list[TaskResult] = []
        self.error: BaseException | None = None

    def take(self, number: int) -> Task | None:
        """Wait for the next task of a worker and return it; None if there will be none."""
        with self._change:
            while self.error is None and not self._waiting.is_over:
                for task in self._waiting.ready():
                    lost = set(self._lost.get(task.key, ()))
                    # A task over which this worker died goes to the other workers first.
                    if number not in lost or len(lost) == self._workers:
                        self._waiting.take(task.key)
                        return task
                self._change.wait()
            return None

    def close(self, result: TaskResult) -> None:
        """Add the result of a task and of the tasks that are skipped because of it."""
        with self._change:
            self.results += [result, *self._waiting.close(result)]
            self._change.notify_all()

    def lose(self, task: Task, number: int, death: str) -> None:
        """Put a task back, or fail it after too many attempts, because its worker died."""
        with self._change:
            lost = self._lost.setdefault(task.key, [])
            lost.append(number)
            if self.error is None and len(lost) < ATTEMPTS:
                self._waiting.give_back(task)
                self._change.notify_all()
                return
        if self.error is None:
            error = f"{death} ({ATTEMPTS} attempts failed)"
            self.close(TaskResult(task.key, "failed", error=error))

    def abort(self, error: BaseException) -> None:
        """Start no more tasks, and keep the first error."""
        with self._change:
            self.error = self.error or error
            self._change.notify_all()
