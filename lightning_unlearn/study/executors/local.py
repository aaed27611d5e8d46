"""The work of a study in several processes of this machine."""

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

# A task that took so many workers with it is the reason.
ATTEMPTS = 3


def share_gpus(
    visible: Sequence[str], workers: int, per_worker: int | None
) -> list[dict[str, str]]:
    """Environment variables that give each worker GPUs of its own.

    Args:
        visible: GPUs of this process, by number or id.
        workers: how many workers.
        per_worker: GPUs of each; None is one where there are enough, else none.

    Returns:
        One dict per worker; empty ones if no GPU is shared out.

    Raises:
        InputError: if there are not enough.
    """
    if per_worker is None:
        per_worker = 1 if len(visible) >= workers else 0
        if visible and not per_worker:
            raise InputError(
                f"workers: found {workers}, but there are {len(visible)} GPUs; start as many "
                "workers, or set gpus_per_worker to 0 for work on the CPU."
            )
    if per_worker == 0:
        return [{"CUDA_VISIBLE_DEVICES": ""} if visible else {} for _ in range(workers)]
    if workers * per_worker > len(visible):
        raise InputError(
            f"gpus_per_worker: found {per_worker} for {workers} workers, but there are "
            f"{len(visible)} GPUs ({', '.join(visible) or 'none'})."
        )
    shares = [visible[n * per_worker : (n + 1) * per_worker] for n in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def visible_gpus() -> list[str]:
    """The GPUs this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def share_cores(workers: int) -> dict[str, str]:
    """Environment variables that keep workers from fighting over the cores."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


class LocalExecutor:
    """Makes tasks in worker processes, each with GPUs of its own.

    A worker that dies is replaced, and its task made again.

    Args:
        spec: the study.
        workers: how many processes.
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
        """Always: the others only work."""
        return True

    def plan(self) -> StudyPlan:
        """See `Executor`; the first worker makes it."""
        try:
            plan = self._start(0).plan()
        except WorkerDied as death:
            log = self._processes[0].log
            raise RuntimeError(f"{death}:\n{log.read_text(errors='replace')}") from None
        self._logs = Path(plan.folder) / "logs"
        return plan

    def run(self, tasks: Sequence[Task], report: Report) -> None:
        """See `Executor`; every worker is looked after by a thread."""
        count = min(self.workers, len(tasks))
        crew = _Crew(TaskQueue(tasks), self._change, count)
        threads = [
            threading.Thread(target=self._serve, args=(number, crew), daemon=True)
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                with self._change:
                    self._change.wait(0.2)
                    outcomes, crew.outcomes = crew.outcomes, []
                for outcome in outcomes:
                    report(outcome)
        except KeyboardInterrupt:
            crew.abort(KeyboardInterrupt())
            self._stop()
            raise
        for outcome in crew.outcomes:
            report(outcome)
        if crew.error is not None:
            raise crew.error

    def _serve(self, number: int, crew: "_Crew") -> None:
        """Have one worker make tasks until none is left."""
        while (task := crew.take(number)) is not None:
            try:
                process = self._processes.get(number) or self._start(number)
                crew.close(process.make(task.key))
            except WorkerDied as death:
                self._processes.pop(number, None)
                crew.lose(task, number, str(death))
            # Whatever it is, the thread that reports must hear of it.
            except BaseException as error:
                crew.abort(error)

    def _stop(self) -> None:
        """Have all workers stop after their step; a second Ctrl-C ends them at once."""
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
        # The first worker began before it was known where the study's folder is.
        first = Path(self._folder.name) / "worker-1.log"
        if self._logs != first.parent and first.is_file() and first.stat().st_size:
            self._logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(first, self._logs / first.name)
        self._folder.cleanup()


class _Crew:
    """What the threads share."""

    def __init__(self, frontier: TaskQueue, change: threading.Condition, workers: int) -> None:
        self._frontier = frontier
        self._change = change
        self._workers = workers
        self._lost: dict[str, list[int]] = {}
        self.outcomes: list[TaskResult] = []
        self.error: BaseException | None = None

    def take(self, number: int) -> Task | None:
        """The next task for a worker; waits for one. None when there will be none."""
        with self._change:
            while self.error is None and not self._frontier.is_over:
                for task in self._frontier.ready():
                    lost = set(self._lost.get(task.key, ()))
                    # Others are to try first what a worker died over.
                    if number not in lost or len(lost) == self._workers:
                        self._frontier.take(task.key)
                        return task
                self._change.wait()
            return None

    def close(self, outcome: TaskResult) -> None:
        """A task is made, or can't be."""
        with self._change:
            self.outcomes += [outcome, *self._frontier.close(outcome)]
            self._change.notify_all()

    def lose(self, task: Task, number: int, death: str) -> None:
        """A worker died over a task."""
        with self._change:
            lost = self._lost.setdefault(task.key, [])
            lost.append(number)
            if self.error is None and len(lost) < ATTEMPTS:
                self._frontier.give_back(task)
                self._change.notify_all()
                return
        if self.error is None:
            error = f"{death}, for the {ATTEMPTS}rd time"
            self.close(TaskResult(task.key, "failed", error=error))

    def abort(self, error: BaseException) -> None:
        """Nothing more is begun."""
        with self._change:
            self.error = self.error or error
            self._change.notify_all()
