"""Input of a report: the tables and the provenance in the folder of a study or a run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.analysis.known_rows import COLUMNS
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.report.study_report import Source
from lightning_unlearn.storage import records
from lightning_unlearn.storage.run_folders import ABOUT
from lightning_unlearn.storage.seals import Damage, read_values
from lightning_unlearn.study.plan import FILE, StudyPlan
from lightning_unlearn.study.provenance import provenance_of_run, provenance_of_study

if TYPE_CHECKING:
    import pandas as pd


def source_of(folder: Path, remarks: Sequence[str] = ()) -> Source:
    """Read the folder of a study or a run.

    Args:
        folder: folder with a study.json or a run.json.
        remarks: notes to include in the report.

    Returns:
        The tables, notes and provenance.

    Raises:
        InputError: if the folder is neither, has no finished run, or a file cannot be read.
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
    """Results of a study.

    Attributes:
        records: values per step.
        examples: values per step and example; None if there are none.
        runs: keys of the runs in the tables.
        remarks: notes on runs that are left out and on tables read from the stage store.
    """

    records: pd.DataFrame
    examples: pd.DataFrame | None
    runs: set[str]
    remarks: list[str]


def _tables_of_study(plan: StudyPlan, folder: Path) -> _Tables:
    """Return records and examples; collect them from the store if the study has not done so."""
    from lightning_unlearn.study.results import finished, undamaged

    keys = {trial.keys[-1] for trial in plan.runs()}
    entries = finished(plan)
    written: _Tables | InputError | None = None
    if (folder / records.STEPS).exists():
        try:
            written = _written(folder)
            # The tables are of an earlier study in this folder with other runs.
            if not written.runs <= keys:
                written = InputError(
                    f"report: {folder / records.STEPS} contains runs that are not part of the "
                    f"study in {FILE}. Write it again with: lightning-unlearn study --config FILE"
                )
            elif written.runs >= entries.keys():
                return written
        except records.DamagedTable as error:
            written = InputError(f"report: {error}")
    entries, damaged = undamaged(entries, plan)
    # The written tables may contain runs whose store entries are damaged now.
    if isinstance(written, _Tables) and not written.runs <= entries.keys():
        return dataclasses.replace(written, remarks=[*written.remarks, *damaged])
    if not entries:
        if isinstance(written, InputError):
            raise written
        raise InputError(
            f"report: {folder}: found no finished run, expected at least one of the "
            f"{len(plan.runs())} runs of the study. "
            + (" ".join(damaged) or f"Show the progress with: lightning-unlearn status {folder}")
        )
    if isinstance(written, InputError):
        damaged.insert(0, f"{folder}: tables read from the stage store, because {_reason(written)}")
    return _collected(plan, entries, damaged)


def _reason(error: InputError) -> str:
    return str(error).removeprefix("report: ")


def _written(folder: Path) -> _Tables:
    """Read the tables that a study has written.

    Raises:
        DamagedTable: if a table is damaged, or the tables are of different runs.
    """
    runs, examples = set(records.runs_of(folder / records.STEPS)), folder / records.EXAMPLES
    if examples.exists() and set(records.runs_of(examples)) != runs:
        raise records.DamagedTable(
            f"{examples} contains other runs than {records.STEPS}. Write both again with: "
            "lightning-unlearn study --config FILE"
        )
    return _Tables(_table(folder / records.STEPS), _optional(examples), runs, [])


def _collected(plan: StudyPlan, entries: dict[str, Path], remarks: list[str]) -> _Tables:
    """Collect the tables in a temporary folder, because the study may be running."""
    from lightning_unlearn.study.results import collect_records

    try:
        with tempfile.TemporaryDirectory() as draft:
            collect_records(dataclasses.replace(plan, folder=draft), entries)
            steps = _table(Path(draft) / records.STEPS)
            return _Tables(steps, _optional(Path(draft) / records.EXAMPLES), set(entries), remarks)
    except OSError as error:
        raise StorageError(
            f"report: the folder for temporary files, {tempfile.gettempdir()}, cannot be written: "
            f"{error.strerror or error}. Free disk space, or set TMPDIR to another folder."
        ) from error


def _run(folder: Path, remarks: Sequence[str]) -> Source:
    file = folder / records.STEPS
    try:
        about = read_values(folder / ABOUT)
    except Damage as error:
        raise InputError(
            f"report: {folder / ABOUT} cannot be read: {error}. Delete it and run the same command "
            "again to write it again."
        ) from error
    if not file.is_file():
        raise InputError(
            f"report: {folder}: found no {records.STEPS}, expected the folder of a finished run. "
            "Run the same command again to resume the run."
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
            f"report: {file}: found no rows, expected results of monitors. Add a monitor to "
            "trainer.callbacks."
        )
    return table


def _optional(file: Path) -> pd.DataFrame | None:
    """Read the values per example; return None if there are none."""
    if not file.exists():
        return None
    table = records.read_table(file, [*COLUMNS, "example"])
    return table if len(table) else None
