"""The status command: which tasks of a study or a run are done, running, failed and left."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.storage.entry_status import EntryStatus, read_status
from lightning_unlearn.storage.run_folders import ABOUT, MANIFEST
from lightning_unlearn.storage.seals import Damage, number_of, read_json, read_values
from lightning_unlearn.study.estimate import Estimate
from lightning_unlearn.study.plan import FILE, StudyPlan
from lightning_unlearn.study.progress import duration

ORDER = ("running", "failed", "stopped", "done", "left")
MARKS = {
    "running": "[yellow]▶[/]",
    "failed": "[red]✗[/]",
    "stopped": "[magenta]■[/]",
    "done": "[green]✓[/]",
    "left": "[dim]·[/]",
}


@dataclass(frozen=True)
class TaskStatus:
    """Status of a task of a study, or of a stage of a run.

    Attributes:
        label: name of the task.
        state: "done", "running", "stopped", "failed" or "left".
        seconds: duration of a done task, or time since a running task started.
        note: the process that runs or ran the task, and its progress.
    """

    label: str
    state: str
    seconds: float | None = None
    note: EntryStatus | None = None


def status(arguments: list[str]) -> int:
    """Print the progress of a study or a run.

    Args:
        arguments: folder of a study or of a run.

    Returns:
        Exit code 0.

    Raises:
        InputError: if the folder is neither that of a study nor that of a run.
    """
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError(
            f"status: found {' '.join(arguments) or 'nothing'}, expected one folder of a study or "
            "of a run, such as runs/demo."
        )
    folder = Path(arguments[0])
    out = Console()
    if (folder / FILE).is_file():
        _show_study(_plan_of(folder), folder, out)
    elif (folder / ABOUT).is_file():
        _show_run(folder, out)
    else:
        raise InputError(
            f"status: found neither {FILE} nor {ABOUT} in {folder}, expected the folder of a study "
            "or of a run."
        )
    return 0


def _plan_of(folder: Path) -> StudyPlan:
    try:
        return StudyPlan.load(folder)
    except InputError as error:
        raise InputError(f"status: {error}") from error


def _task_status(store: Path, key: str, label: str) -> TaskStatus:
    """Read the status of the task that makes a store entry."""
    manifest = store / key / MANIFEST
    if manifest.is_file():
        return TaskStatus(label, "done", _seconds(manifest))
    note = read_status(store, key)
    if note is None:
        return TaskStatus(label, "left")
    seconds = time.time() - note.began if note.state == "running" else None
    return TaskStatus(label, note.state, seconds, note)


def _seconds(manifest: Path) -> float | None:
    """Read the duration of an entry; return None if the manifest does not record it."""
    try:
        details = read_json(manifest).get("details")
    except Damage:
        return None
    return number_of(details, "seconds")


def _show_study(plan: StudyPlan, folder: Path, out: Console) -> None:
    store = Path(plan.store)
    tasks = {task.key: _task_status(store, task.key, plan.label(task)) for task in plan.tasks}
    out.print(f"[bold]{escape(visible(plan.name))}[/]: {plan}", highlight=False)
    _show_counts(list(tasks.values()), out)
    _show_tasks([t for t in tasks.values() if t.state in ("running", "failed", "stopped")], out)
    runs = [trial for trial in plan.runs() if trial.find(folder, sizes_only=True)]
    out.print(f"{len(runs)} of {len(plan.runs())} runs are finished, in {folder}.", highlight=False)
    if runs and not store.is_dir():
        out.print(f"The stage store is missing: {store} is not a folder.", highlight=False)
    seconds = {key: t.seconds for key, t in tasks.items() if t.state == "done" and t.seconds}
    left = [task for task in plan.tasks if tasks[task.key].state != "done"]
    if not left:
        return
    begun = {
        key: task.note.step / task.note.total
        for key, task in tasks.items()
        if task.note is not None and task.note.total and task.state == "running"
    }
    workers = max(1, sum(task.state == "running" for task in tasks.values()))
    rest = Estimate(plan, seconds).left(left, begun, workers)
    if rest is not None:
        at_a_time = f", {workers} tasks at a time" if workers > 1 else ""
        out.print(f"About {duration(rest)} of work left{at_a_time}.", highlight=False)


def _show_run(folder: Path, out: Console) -> None:
    try:
        about = read_values(folder / ABOUT)
        store = Path(about["store"])
        stages = [_task_status(store, stage["key"], stage["name"]) for stage in about["stages"]]
        method, path = (escape(visible(str(about[key]))) for key in ("method", "path"))
        title = f"[bold]{method}[/] {path} seed {visible(str(about['seed']))}"
    except (Damage, KeyError, TypeError) as error:
        raise InputError(
            f"status: {folder / ABOUT} cannot be read: {error}. Delete it and run the same command "
            "again to write it again."
        ) from error
    finished = "finished" if about.get("finished") is True else "not finished"
    out.print(f"{title}: {finished}", highlight=False)
    _show_tasks(stages, out)


def _show_counts(tasks: list[TaskStatus], out: Console) -> None:
    counts = {state: sum(task.state == state for task in tasks) for state in ORDER}
    listed = [f"{count} {state}" for state, count in counts.items() if count]
    spent = sum(task.seconds or 0 for task in tasks if task.state == "done")
    hours = f"; {duration(spent)} of work done" if spent else ""
    out.print(f"{len(tasks)} tasks: {', '.join(listed)}{hours}", highlight=False)


def _show_tasks(tasks: list[TaskStatus], out: Console) -> None:
    if not tasks:
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for task in sorted(tasks, key=lambda task: ORDER.index(task.state)):
        took = duration(task.seconds) if task.seconds is not None else ""
        table.add_row(
            MARKS[task.state], task.state, escape(visible(task.label)), took, _where(task.note)
        )
    out.print(table, highlight=False)


def _where(note: EntryStatus | None) -> str:
    if note is None:
        return ""
    step = f"step {note.step} of {note.total}, " if note.total else ""
    if note.state == "failed":
        return f"[red]{escape(visible(note.error))}[/]"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(note.began))
    return escape(f"{step}{visible(note.host)} process {note.pid}, since {began}")
