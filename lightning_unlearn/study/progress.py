"""Progress of a study: number of finished tasks, remaining time, and running tasks."""

import threading
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress, TaskID

from lightning_unlearn.storage.entry_status import read_status
from lightning_unlearn.study.estimate import Estimate
from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.task_queue import TaskResult

POLL = 1.0


class Display:
    """Progress bars of a study; results are printed above them.

    Args:
        progress: a running display.
        plan: the study.
        left: the tasks to do.
        workers: number of tasks that run at the same time.
        polls: whether other processes do the work; the display then reads their progress from the
            store.
    """

    def __init__(
        self, progress: Progress, plan: StudyPlan, left: Sequence[Task], workers: int, polls: bool
    ) -> None:
        self._progress = progress
        self._plan = plan
        self._left = {task.key: task for task in left}
        self._total = len(left)
        self._workers = workers
        self._estimate = Estimate(plan)
        self._overall = progress.add_task("study", total=self._total, note="")
        self._bars: dict[str, TaskID] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True) if polls else None
        if self._thread is not None:
            self._thread.start()

    @property
    def finished(self) -> int:
        """Return the number of tasks that are done, failed or skipped."""
        return self._total - len(self._left)

    @property
    def place(self) -> str:
        """Return the number of the next task and the number of all tasks, in brackets."""
        return f"[{self.finished + 1}/{self._total}] "

    def close(self, result: TaskResult) -> str:
        """Count a finished task.

        Args:
            result: result of the task.

        Returns:
            The estimated remaining time in words; empty while there is no estimate.
        """
        self._left.pop(result.key, None)
        if result.state == "done" and result.ran:
            self._estimate.seconds[result.key] = result.seconds
        seconds = self._estimate.left(list(self._left.values()), workers=self._workers)
        note = f"about {duration(seconds)} left" if seconds and self._left else ""
        self._progress.update(self._overall, completed=self.finished, note=note)
        return note

    def _poll(self) -> None:
        while not self._over.wait(POLL):
            for key, task in list(self._left.items()):
                note = read_status(Path(self._plan.store), key)
                runs = note is not None and note.state == "running"
                if not runs and key in self._bars:
                    self._progress.remove_task(self._bars.pop(key))
                if note is None or not runs:
                    continue
                if key not in self._bars:
                    self._bars[key] = self._progress.add_task(
                        self._plan.label(task), total=note.total or None, note=note.host
                    )
                self._progress.update(
                    self._bars[key], completed=note.step, total=note.total or None
                )
            for key in set(self._bars) - set(self._left):
                self._progress.remove_task(self._bars.pop(key))

    def stop(self) -> None:
        """Remove the bars."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._progress.remove_task(self._overall)


def duration(seconds: float) -> str:
    """Return a duration as text with one or two units: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
