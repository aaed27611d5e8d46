"""The status command: what of a study or a run is done, running, failed and left."""

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
class Part:
    """A stage or a run, and what has become of it.

    Attributes:
        label: in words.
        state: "done", "running", "stopped", "failed" or "left".
        seconds: how long it took, or has taken so far.
        note: who is or was at it.
    """

    label: str
    state: str
    seconds: float | None = None
    note: EntryStatus | None = None


def status(arguments: list[str]) -> int:
    """Tell how far a study or a run is.

    Args:
        arguments: folder of a study or of a run.

    Returns:
        0.

    Raises:
        InputError: if it is neither.
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


def _part(store: Path, key: str, label: str) -> Part:
    """What has become of an entry of the store."""
    manifest = store / key / MANIFEST
    if manifest.is_file():
        return Part(label, "done", _seconds(manifest))
    note = read_status(store, key)
    if note is None:
        return Part(label, "left")
    seconds = time.time() - note.began if note.state == "running" else None
    return Part(label, note.state, seconds, note)


def _seconds(manifest: Path) -> float | None:
    """How long an entry took, where it says so."""
    try:
        details = read_json(manifest).get("details")
    except Damage:
        return None
    return number_of(details, "seconds")


def _show_study(plan: StudyPlan, folder: Path, out: Console) -> None:
    store = Path(plan.store)
    parts = {task.key: _part(store, task.key, plan.label(task)) for task in plan.tasks}
    out.print(f"[bold]{escape(visible(plan.name))}[/]: {plan}", highlight=False)
    _show_counts(list(parts.values()), out)
    _show_parts([p for p in parts.values() if p.state in ("running", "failed", "stopped")], out)
    runs = [trial for trial in plan.runs() if trial.find(folder, sizes_only=True)]
    out.print(f"{len(runs)} of {len(plan.runs())} runs are finished, in {folder}.", highlight=False)
    if runs and not store.is_dir():
        out.print(f"The stage store is gone: {store} is no folder.", highlight=False)
    seconds = {key: p.seconds for key, p in parts.items() if p.state == "done" and p.seconds}
    left = [task for task in plan.tasks if parts[task.key].state != "done"]
    if not left:
        return
    begun = {
        key: part.note.step / part.note.total
        for key, part in parts.items()
        if part.note is not None and part.note.total and part.state == "running"
    }
    workers = max(1, sum(part.state == "running" for part in parts.values()))
    rest = Estimate(plan, seconds).left(left, begun, workers)
    if rest is not None:
        at_a_time = f", {workers} parts at a time" if workers > 1 else ""
        out.print(f"About {duration(rest)} of work left{at_a_time}.", highlight=False)


def _show_run(folder: Path, out: Console) -> None:
    try:
        about = read_values(folder / ABOUT)
        store = Path(about["store"])
        parts = [_part(store, stage["key"], stage["name"]) for stage in about["stages"]]
        method, path = (escape(visible(str(about[key]))) for key in ("method", "path"))
        title = f"[bold]{method}[/] {path} seed {visible(str(about['seed']))}"
    except (Damage, KeyError, TypeError) as error:
        raise InputError(
            f"status: {folder / ABOUT} can't be read: {error}; remove it and run the same command "
            "again to have it written anew."
        ) from error
    finished = "finished" if about.get("finished") is True else "not finished"
    out.print(f"{title}: {finished}", highlight=False)
    _show_parts(parts, out)


def _show_counts(parts: list[Part], out: Console) -> None:
    counts = {state: sum(part.state == state for part in parts) for state in ORDER}
    told = [f"{count} {state}" for state, count in counts.items() if count]
    spent = sum(part.seconds or 0 for part in parts if part.state == "done")
    hours = f"; {duration(spent)} of work done" if spent else ""
    out.print(f"{len(parts)} parts: {', '.join(told)}{hours}", highlight=False)


def _show_parts(parts: list[Part], out: Console) -> None:
    if not parts:
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for part in sorted(parts, key=lambda part: ORDER.index(part.state)):
        took = duration(part.seconds) if part.seconds is not None else ""
        table.add_row(
            MARKS[part.state], part.state, escape(visible(part.label)), took, _where(part.note)
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
