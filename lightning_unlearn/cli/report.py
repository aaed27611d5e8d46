"""``lightning-unlearn report``: write a page, tables and figures of studies and runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lightning_unlearn.errors import InputError, StorageError, visible
from lightning_unlearn.report.page.page import plotly_script
from lightning_unlearn.report.study_report import Source
from lightning_unlearn.report.write import FOLDER, write_report
from lightning_unlearn.study.report_source import source_of

COMPARED = "report-compared"
PAPER = "paper"


def report(arguments: list[str]) -> int:
    """Write the report of studies or runs, and print the path of its page.

    Args:
        arguments: folders; --out FOLDER for the folder of the report; --paper to draw the figures
            of the paper too.

    Returns:
        Exit code 0.

    Raises:
        InputError: for arguments, folders or records that cannot be used, or if plotly is missing.
        StorageError: if the report cannot be written.
    """
    folders, out, paper = _read(arguments)
    if paper and len(folders) > 1:
        raise InputError(
            f"report: found --paper with {len(folders)} folders, expected one folder, because the "
            "figures of the paper show one study."
        )
    # Check for plotly before reading tables, which takes time.
    plotly_script()
    sources = [source_of(folder) for folder in folders]
    target = out or (folders[0] / FOLDER if len(folders) == 1 else Path(COMPARED))
    try:
        written = write_report(_with_unique_names(sources, folders), target)
        drawn = _paper(sources[0], target / PAPER) if paper else []
    except OSError as error:
        raise StorageError(
            f"report: {target} cannot be written: {error.strerror or error}. Choose another folder "
            "with --out, or free disk space."
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
    """Draw the figures of the paper; return sentences on the drawn and the missing ones."""
    from lightning_unlearn.report.paper import save_paper

    paper = save_paper(source.records, folder, ("png", "pdf"))
    written = [f"Written to {folder}: {', '.join(file.name for file in paper.written)}"]
    return [*(written if paper.written else []), *paper.missing.values()]


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
            "report: found no folder, expected one or more folders of studies or runs, such as "
            "runs/demo."
        )
    return folders, out, paper


def _with_unique_names(sources: Sequence[Source], folders: Sequence[Path]) -> list[Source]:
    """Add the folder to the names of studies with the same name."""
    names = [source.name for source in sources]
    return [
        dataclasses.replace(source, name=f"{source.name} ({folder})")
        if names.count(source.name) > 1
        else source
        for source, folder in zip(sources, folders, strict=True)
    ]
