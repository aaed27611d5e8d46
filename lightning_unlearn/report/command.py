"""The report command: the folders of studies and runs to a page, tables and figures."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_unlearn import records
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.report.page import Source, write_report
from lightning_unlearn.report.page.document import plotly_script
from lightning_unlearn.report.page.recorded import provenance_of_run, provenance_of_study
from lightning_unlearn.report.reading import COLUMNS
from lightning_unlearn.runs import ABOUT, read_about

if TYPE_CHECKING:
    import pandas as pd

    from lightning_unlearn.study.plan import StudyPlan

PLAN = "study.json"
FOLDER = "report"
COMPARED = "report-compared"
PAPER = "paper"
IDENTITY = ["method", "path", "position", "seed"]


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
            print(f"{source.name}: {remark}")
    for sentence in drawn:
        print(sentence)
    print(f"Written to {target}: {', '.join(written.files)}")
    print(f"Open {(target / 'index.html').resolve()} in a browser.")
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
    runs = plan.runs()
    table, examples = _tables_of_study(plan, folder)
    count = len(runs) - _runs_in(plan, table)
    missing = [f"{count} of {len(runs)} runs are missing."] if count > 0 else []
    said = list(dict.fromkeys([*remarks, *missing]))
    return Source(plan.name, table, examples, said, provenance_of_study(plan, folder))


def _plan(folder: Path) -> StudyPlan:
    from lightning_unlearn.study.plan import StudyPlan

    file = folder / PLAN
    try:
        return StudyPlan.read(json.loads(file.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"report: {file}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"report: {file} can't be read ({error}); run the study again to have it written anew."
        ) from error


def _tables_of_study(plan: StudyPlan, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Records and examples; gathered from the store where the study has not come to that yet."""
    from lightning_unlearn.study.gather import finished, gather

    entries = finished(plan)
    written = _table(folder / records.STEPS) if (folder / records.STEPS).is_file() else None
    if written is not None and _runs_in(plan, written) >= len(entries):
        return written, _optional(folder / records.EXAMPLES)
    if not entries:
        raise InputError(
            f"report: {folder}: found no finished run, expected one or more of the "
            f"{len(plan.runs())} of the study; lightning-unlearn status {folder} tells how far "
            "it is."
        )
    # The study's own files are left alone: it may be at work.
    with tempfile.TemporaryDirectory() as draft:
        try:
            gather(dataclasses.replace(plan, folder=draft), entries)
        except OSError as error:
            raise InputError(
                f"report: {plan.store} can't be read ({error}); run the study again to have what "
                "is damaged made anew."
            ) from error
        return _table(Path(draft) / records.STEPS), _optional(Path(draft) / records.EXAMPLES)


def _runs_in(plan: StudyPlan, table: pd.DataFrame) -> int:
    """How many runs of the study have rows."""
    swept = [key for key, _ in plan.cells[0].sweep] if plan.cells else []
    rows = table[[*IDENTITY, *(key for key in swept if key in table)]].drop_duplicates()
    found = {tuple(map(_alike, row)) for row in rows.itertuples(index=False, name=None)}
    runs = {
        cell.walk[-1]
        for cell in plan.cells
        if (
            _alike(cell.method),
            _alike("-".join(cell.path)),
            _alike(cell.position),
            _alike(cell.seed),
            *(_alike(value) for _, value in cell.sweep),
        )
        in found
    }
    return len(runs)


def _alike(value: Any) -> str:
    """A value as text, alike for those that a table may have turned into each other."""
    value = getattr(value, "item", lambda: value)()
    if not isinstance(value, (str, bool)) and value is not None:
        with contextlib.suppress(TypeError, ValueError):
            return repr(float(value))
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return repr(float(value))
        return value
    return json.dumps(value)


def _run(folder: Path, remarks: Sequence[str]) -> Source:
    file = folder / records.STEPS
    about = read_about(folder)
    if not about:
        raise InputError(
            f"report: {folder / ABOUT} can't be read; run the same command again to have it "
            "written anew."
        )
    if not file.is_file():
        raise InputError(
            f"report: {folder}: found no {records.STEPS}, expected that of a finished run; "
            "the command that began it goes on from where it stopped."
        )
    unfinished = [] if about.get("finished") is True else ["The run is not finished."]
    name = f"{about.get('method', 'run')} {about.get('path', '')} seed {about.get('seed', '')}"
    examples = _optional(folder / records.EXAMPLES)
    said = [*remarks, *unfinished]
    return Source(name.strip(), _table(file), examples, said, provenance_of_run(folder))


def _table(file: Path) -> pd.DataFrame:
    try:
        table = records.read_table(file)
    except Exception as error:  # Whatever a damaged file makes the reader raise.
        raise InputError(
            f"report: {file} can't be read ({error}); run the same command again to have it "
            "written anew."
        ) from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"report: {file}: found the columns {', '.join(map(str, table.columns)) or '(none)'}, "
            f"expected also {', '.join(missing)}; it is of another version of lightning-unlearn: "
            "run the same command again to have it written anew."
        )
    if not len(table):
        raise InputError(
            f"report: {file}: found no rows, expected what monitors measured; add a monitor to "
            "trainer.callbacks."
        )
    return table


def _optional(file: Path) -> pd.DataFrame | None:
    return _table_or_none(file) if file.is_file() else None


def _table_or_none(file: Path) -> pd.DataFrame | None:
    import pyarrow.parquet as pq

    return _table(file) if pq.read_metadata(file).num_rows else None


def _named_apart(sources: Sequence[Source], folders: Sequence[Path]) -> list[Source]:
    """Studies of the same name are told apart by their folders."""
    names = [source.name for source in sources]
    return [
        dataclasses.replace(source, name=f"{source.name} ({folder})")
        if names.count(source.name) > 1
        else source
        for source, folder in zip(sources, folders, strict=True)
    ]
