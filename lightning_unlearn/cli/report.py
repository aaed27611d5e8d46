"""``lightning-unlearn report``: the folders of studies and runs to a page, tables and figures."""

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


def _named_apart(sources: Sequence[Source], folders: Sequence[Path]) -> list[Source]:
    """Studies of the same name are told apart by their folders."""
    names = [source.name for source in sources]
    return [
        dataclasses.replace(source, name=f"{source.name} ({folder})")
        if names.count(source.name) > 1
        else source
        for source, folder in zip(sources, folders, strict=True)
    ]
