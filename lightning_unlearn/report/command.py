"""The report command: the folders of studies and runs to a page, tables and figures."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_unlearn.errors import InputError, StorageError, visible
from lightning_unlearn.report.page import Source, write_report
from lightning_unlearn.report.page.document import plotly_script
from lightning_unlearn.report.page.recorded import provenance_of_run, provenance_of_study
from lightning_unlearn.report.reading import COLUMNS
from lightning_unlearn.storage import records
from lightning_unlearn.storage.run_folders import ABOUT
from lightning_unlearn.storage.seals import Damage, read_values

if TYPE_CHECKING:
    import pandas as pd

    from lightning_unlearn.study.plan import StudyPlan

PLAN = "study.json"
FOLDER = "report"
COMPARED = "report-compared"
PAPER = "paper"


def report(arguments: list[str]) -> int:
    """Write the report of studies or runs, and tell where its page is.

    Args:
        arguments: folders, where the report goes: --out FOLDER, and --paper for the figures of
            the paper as well.

    Returns:
        0.

    Raises:
        InputError: for arguments, folders or records that cannot be used; plotly is missing.
        StorageError: the report can't be written.
    """
    folders, out, paper = _read(arguments)
    if paper and len(folders) > 1:
        raise InputError(
            f"report: found --paper with {len(folders)} folders, expected one: the paper's figures "
            "are of one study."
        )
    # Before anything is read that takes time.
    plotly_script()
    sources = [source_of(folder) for folder in folders]
    target = out or (folders[0] / FOLDER if len(folders) == 1 else Path(COMPARED))
    try:
        written = write_report(_named_apart(sources, folders), target)
        drawn = _paper(sources[0], target / PAPER) if paper else []
    except OSError as error:
        raise StorageError(
            f"report: {target} can't be written: {error.strerror or error}; choose another folder "
            "with --out, or make room."
        ) from error
    for source in sources:
        for remark in source.remarks:
            print(visible(f"{source.name}: {remark}"))
    for sentence in drawn:
        print(visible(sentence))
    print(visible(f"Written to {target}: {', '.join(written.files)}"))
    print(visible(f"Open {(target / 'index.html').resolve()} in a browser."))
    return 0


def _paper(source: Source, folder: Path) -> list[str]:
    """Draw the paper's figures; sentences on what was drawn, and on what the study lacks."""
    from lightning_unlearn.report.paper import save_paper

    paper = save_paper(source.records, source.examples, folder, ("png", "pdf"))
    told = [f"Written to {folder}: {', '.join(file.name for file in paper.written)}"]
    return [*(told if paper.written else []), *paper.missing.values()]


def _read(arguments: Sequence[str]) -> tuple[list[Path], Path | None, bool]:
    folders: list[Path] = []
    out: Path | None = None
    paper = False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--out" or argument.startswith("--out="):
            _, assigned, value = argument.partition("=")
            wanted = value if assigned else next(rest, "")
            if not wanted:
                raise InputError("report: found nothing after --out, expected a folder.")
            out = Path(wanted)
        elif argument == "--paper":
            paper = True
        elif argument.startswith("-"):
            raise InputError(
                f"report: found the option {argument!r}, expected --out FOLDER or --paper."
            )
        else:
            folders.append(Path(argument))
    if not folders:
        raise InputError(
            "report: found no folder, expected one or more of studies or runs, such as runs/demo."
        )
    return folders, out, paper


def source_of(folder: Path, remarks: Sequence[str] = ()) -> Source:
    """What a folder of a study or a run holds.

    Args:
        folder: with a study.json, or with a run.json.
        remarks: sentences on it.

    Raises:
        InputError: it is neither, nothing in it is finished, or a file cannot be read.
    """
    if (folder / PLAN).is_file():
        return _study(folder, remarks)
    if (folder / ABOUT).is_file():
        return _run(folder, remarks)
    found = "no such folder" if not folder.exists() else f"neither {PLAN} nor {ABOUT}"
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
    from lightning_unlearn.study.plan import StudyPlan

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

    keys = {cell.walk[-1] for cell in plan.runs()}
    entries = finished(plan)
    written: _Tables | InputError | None = None
    if (folder / records.STEPS).exists():
        try:
            written = _written(folder)
            # An earlier study in this folder, whose runs were others.
            if not written.runs <= keys:
                written = InputError(
                    f"report: {folder / records.STEPS} holds runs that are not of the study in "
                    f"{PLAN}; run the study again to have it written anew."
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


def _named_apart(sources: Sequence[Source], folders: Sequence[Path]) -> list[Source]:
    """Studies of the same name are told apart by their folders."""
    names = [source.name for source in sources]
    return [
        dataclasses.replace(source, name=f"{source.name} ({folder})")
        if names.count(source.name) > 1
        else source
        for source, folder in zip(sources, folders, strict=True)
    ]
