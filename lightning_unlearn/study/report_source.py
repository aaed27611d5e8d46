"""What the folders of studies and runs hold, as a report is written from it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.report.reading import COLUMNS
from lightning_unlearn.report.study_report import Source
from lightning_unlearn.storage import records
from lightning_unlearn.storage.run_folders import ABOUT
from lightning_unlearn.storage.seals import Damage, read_values
from lightning_unlearn.study.plan import FILE, StudyPlan
from lightning_unlearn.study.provenance import provenance_of_run, provenance_of_study

if TYPE_CHECKING:
    import pandas as pd


def source_of(folder: Path, remarks: Sequence[str] = ()) -> Source:
    """What a folder of a study or a run holds.

    Args:
        folder: with a study.json, or with a run.json.
        remarks: sentences on it.

    Raises:
        InputError: it is neither, nothing in it is finished, or a file cannot be read.
    """
    if (folder / FILE).is_file():
        return _study(folder, remarks)
    if (folder / ABOUT).is_file():
        return _run(folder, remarks)
    found = "no such folder" if not folder.exists() else f"neither {FILE} nor {ABOUT}"
    raise InputError(
        f"report: {folder}: found {found}, expected the folder of a study or of a run, such as "
        "runs/demo."
    )


def _study(folder: Path, remarks: Sequence[str]) -> Source:
    plan = _plan(folder)
    tables = _tables_of_study(plan, folder)
    runs = plan.runs()
    count = len(runs) - len(tables.runs)
    missing = [f"{count} of {len(runs)} runs are missing."] if count > 0 else []
    said = list(dict.fromkeys([*remarks, *tables.remarks, *missing]))
    provenance = provenance_of_study(plan, folder)
    return Source(plan.name, tables.records, tables.examples, said, provenance)


def _plan(folder: Path) -> StudyPlan:
    try:
        return StudyPlan.load(folder)
    except InputError as error:
        raise InputError(f"report: {error}") from error


@dataclass(frozen=True)
class _Tables:
    """What was measured in a study.

    Attributes:
        records: steps.
        examples: None where there are none.
        runs: keys of the runs that they are of.
        remarks: sentences on what is left out, or read from elsewhere.
    """

    records: pd.DataFrame
    examples: pd.DataFrame | None
    runs: set[str]
    remarks: list[str]


def _tables_of_study(plan: StudyPlan, folder: Path) -> _Tables:
    """Records and examples; gathered from the store where the study has not come to that yet."""
    from lightning_unlearn.study.results import finished, whole

    keys = {trial.walk[-1] for trial in plan.runs()}
    entries = finished(plan)
    written: _Tables | InputError | None = None
    if (folder / records.STEPS).exists():
        try:
            written = _written(folder)
            # An earlier study in this folder, whose runs were others.
            if not written.runs <= keys:
                written = InputError(
                    f"report: {folder / records.STEPS} holds runs that are not of the study in "
                    f"{FILE}; run the study again to have it written anew."
                )
            elif written.runs >= entries.keys():
                return written
        except records.DamagedTable as error:
            written = InputError(f"report: {error}")
    entries, damaged = whole(entries, plan)
    # What has been gathered may be more than what is whole.
    if isinstance(written, _Tables) and not written.runs <= entries.keys():
        return dataclasses.replace(written, remarks=[*written.remarks, *damaged])
    if not entries:
        if isinstance(written, InputError):
            raise written
        raise InputError(
            f"report: {folder}: found no finished run, expected one or more of the "
            f"{len(plan.runs())} of the study; "
            + (" ".join(damaged) or f"lightning-unlearn status {folder} tells how far it is.")
        )
    if isinstance(written, InputError):
        damaged.insert(0, f"{folder}: the stage store was read, because {_reason(written)}")
    return _gathered(plan, entries, damaged)


def _reason(error: InputError) -> str:
    return str(error).removeprefix("report: ")


def _written(folder: Path) -> _Tables:
    """The tables that a study has gathered.

    Raises:
        DamagedTable: one of them is damaged, or they are not of the same runs.
    """
    runs, examples = set(records.runs_of(folder / records.STEPS)), folder / records.EXAMPLES
    if examples.exists() and set(records.runs_of(examples)) != runs:
        raise records.DamagedTable(
            f"{examples} holds other runs than {records.STEPS}; run the study again to have them "
            "written anew."
        )
    return _Tables(_table(folder / records.STEPS), _optional(examples), runs, [])


def _gathered(plan: StudyPlan, entries: dict[str, Path], remarks: list[str]) -> _Tables:
    """The tables as a study would gather them; its own files are left alone: it may be at work."""
    from lightning_unlearn.study.results import gather

    try:
        with tempfile.TemporaryDirectory() as draft:
            gather(dataclasses.replace(plan, folder=draft), entries)
            steps = _table(Path(draft) / records.STEPS)
            return _Tables(steps, _optional(Path(draft) / records.EXAMPLES), set(entries), remarks)
    except OSError as error:
        raise StorageError(
            f"report: the folder for temporary files, {tempfile.gettempdir()}, can't be written: "
            f"{error.strerror or error}; make room, or name another in TMPDIR."
        ) from error


def _run(folder: Path, remarks: Sequence[str]) -> Source:
    file = folder / records.STEPS
    try:
        about = read_values(folder / ABOUT)
    except Damage as error:
        raise InputError(
            f"report: {folder / ABOUT} can't be read: {error}; remove it and run the same command "
            "again to have it written anew."
        ) from error
    if not file.is_file():
        raise InputError(
            f"report: {folder}: found no {records.STEPS}, expected that of a finished run; "
            "the command that began it goes on from where it stopped."
        )
    unfinished = [] if about.get("finished") is True else ["The run is not finished."]
    name = f"{about.get('method', 'run')} {about.get('path', '')} seed {about.get('seed', '')}"
    said = [*remarks, *unfinished]
    try:
        steps, examples = _table(file), _optional(folder / records.EXAMPLES)
    except records.DamagedTable as error:
        raise InputError(f"report: {error}") from error
    return Source(name.strip(), steps, examples, said, provenance_of_run(folder))


def _table(file: Path) -> pd.DataFrame:
    table = records.read_table(file, COLUMNS)
    if not len(table):
        raise InputError(
            f"report: {file}: found no rows, expected what monitors measured; add a monitor to "
            "trainer.callbacks."
        )
    return table


def _optional(file: Path) -> pd.DataFrame | None:
    """The values per example, where there are any."""
    if not file.exists():
        return None
    table = records.read_table(file, [*COLUMNS, "example"])
    return table if len(table) else None
