"""Rows of any source with the columns that a verb needs, and rows written as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from lightning_unlearn.data.columns import read_content
from lightning_unlearn.data.places import local_files
from lightning_unlearn.data.rows import read_tables
from lightning_unlearn.data.tables import Table
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.storage.integrity import sha256_of
from lightning_unlearn.storage.records import replace
from lightning_unlearn.version import __version__


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: file, folder of `save_to_disk`, `demo:NAME` or data set of the hub.
        option: command-line option that named it, for messages.
        split: of a data set with several.
        subset: configuration of a hub data set.
        limit: only the first so many rows; None for all.
    """

    name: str
    option: str = "--input"
    split: str = "train"
    subset: str | None = None
    limit: int | None = None

    @property
    def place(self) -> str:
        """Begin of messages about the source."""
        return f"{self.option}: {self.name}"

    def files(self) -> list[Path]:
        """Return the files of the source; none for anything else."""
        paths = local_files(self.name, self.place) or []
        return [path for path in paths if path.is_file()]

    def sha256(self) -> str | dict[str, str] | None:
        """Return the SHA-256 of the file, or of each file of a pattern; None for anything else."""
        files = self.files()
        if len(files) > 1:
            return {str(path): sha256_of(path) for path in files}
        return sha256_of(files[0]) if files else None

    def about(self) -> dict[str, Any]:
        """Return what a manifest says of the source."""
        return {
            "source": self.name,
            "sha256": self.sha256(),
            "split": self.split,
            "subset": self.subset,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class Record:
    """A row as it is in its source.

    Attributes:
        place: "row 3", or "row 3, line 7" of a text file.
        values: by column.
    """

    place: str
    values: Mapping[str, Any]

    def text(self, column: str, source: Source) -> str:
        """Return the text of a column; numbers as they are written.

        Raises:
            InputError: for any other value, and for blank text.
        """
        place = f"{source.place}, {self.place}, column '{column}'"
        return read_content(self.values.get(column), place)

    def writable(self, source: Source) -> dict[str, Any]:
        """Return all values as JSON has them: dates and decimal numbers as text.

        Raises:
            InputError: for a value that JSON has no form of, such as an image.
        """
        return {
            name: _json(value, f"{source.place}, {self.place}, column '{name}'")
            for name, value in self.values.items()
        }


def read_records(
    source: Source,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    whole: bool = False,
) -> list[Record]:
    """Read the rows of a source.

    Args:
        source: where from.
        columns: that the rows must have.
        optional: further columns to load where they are there.
        whole: load all columns.

    Raises:
        InputError: it can't be read, has no rows, or lacks a column.
    """
    table = _table(source, [*columns, *optional])
    if whole and table.rows and not set(table.columns) <= table.rows[0].keys():
        # Formats that are stored by column have loaded only what was asked for.
        table = _table(source, table.columns)
    if not table.rows:
        raise InputError(f"{source.place}: found no rows, expected at least one.")
    for column in columns:
        if column not in table.columns:
            there = ", ".join(f"'{name}'" for name in table.columns)
            raise InputError(
                f"{source.place}: found the columns {there}, expected '{column}'; name the right "
                "one on the command line (see --help)."
            )
    lines = table.lines or [0] * len(table.rows)
    return [
        Record(f"row {number}" + (f", line {line}" if line else ""), values)
        for number, (values, line) in enumerate(
            list(zip(table.rows, lines, strict=True))[: source.limit], start=1
        )
    ]


def _json(value: Any, place: str) -> Any:
    def write(found: Any) -> str:
        if isinstance(found, (date, time)):
            return found.isoformat()
        if isinstance(found, Decimal):
            return f"{found:f}"
        raise InputError(
            f"{place}: found a value of type {type(found).__name__}, expected text, numbers, dates "
            "or lists of them, which are written to the output too; remove the column."
        )

    return json.loads(json.dumps(value, default=write))


def _table(source: Source, wanted: Sequence[str]) -> Table:
    """Return the rows of a source; of a pattern, those of all its files."""
    options = source.split, source.subset, source.limit
    found = [table for _, table in read_tables(source.name, source.place, wanted, *options)]
    if len(found) == 1:
        return found[0]
    columns = dict.fromkeys(name for table in found for name in table.columns)
    return Table(list(columns), [row for table in found for row in table.rows])


def check_output(file: Path, command: str | None = None, overwrite: bool = False) -> None:
    """Refuse an output that would overwrite something that these commands did not write.

    Args:
        file: the output; its manifest lies beside it.
        command: also refuse a file that another command wrote, or that was changed since.
        overwrite: replace any file.

    Raises:
        InputError: in that case, or where no file can be.
    """
    if file.is_dir():
        raise InputError(f"--output: found the folder {file}, expected a file such as rows.jsonl.")
    if file.suffix != ".jsonl":
        raise InputError(f"--output: found {file}, expected a name that ends in .jsonl.")
    if overwrite or not file.exists():
        return
    if command is not None:
        found = _other_content(file, command)
        if found is not None:
            raise InputError(
                f"--output: found the file {file}, {found}, expected a new name or a file of this "
                "command; name another file, or add --overwrite to replace it."
            )
    elif not manifest_of(file).is_file():
        raise InputError(
            f"--output: found the file {file}, which this command did not write (it has no "
            f"{manifest_of(file).name}), expected a new name; name another file or remove this one."
        )


def _other_content(file: Path, command: str) -> str | None:
    """Return why a file has something else than what a command wrote; None if it has not."""
    try:
        about = json.loads(manifest_of(file).read_text(encoding="utf-8"))
        wrote, digest = about["command"], about["output"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"which {command} did not write (it has no {manifest_of(file).name})"
    if wrote != command:
        return f"which {wrote} wrote"
    return None if sha256_of(file) == digest else "which was changed after it was written"


def manifest_of(file: Path) -> Path:
    """Return where the manifest of an output lies."""
    return file.with_name(f"{file.name}.manifest.json")


def journal_of(file: Path) -> Path:
    """Return where the journal of an output lies."""
    return file.with_name(f"{file.name}.journal.jsonl")


def write_output(file: Path, rows: Iterable[Mapping[str, Any]], manifest: dict[str, Any]) -> None:
    """Write rows as JSON lines, then their manifest with the rows' SHA-256.

    Raises:
        StorageError: if one can't be written.
    """

    def lines(draft: Path) -> None:
        with draft.open("w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def about(draft: Path) -> None:
        content = {**manifest, "output": {"file": file.name, "sha256": sha256_of(file)}}
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    try:
        replace(file, lines)
        replace(manifest_of(file), about)
    except OSError as error:
        raise StorageError(
            f"--output: {file} can't be written: {error.strerror or error}; free disk space or "
            "name another file, and run the same command again."
        ) from error


def write_listed(
    file: Path,
    source: Source,
    rows: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    verb: str = "alternates",
) -> None:
    """Write rows that no generator made, with a manifest.

    Args:
        file: the output.
        source: of the rows.
        rows: the rows.
        options: of the verb.
        verb: that made them.

    Raises:
        StorageError: if a file can't be written.
    """
    about = {
        "command": f"prepare {verb}",
        "version": __version__,
        "input": source.about(),
        "options": dict(options),
        "rows": {"written": len(rows)},
    }
    write_output(file, rows, about)


def read_lines(name: str, option: str) -> list[str]:
    """Read the lines of a text file that are not blank.

    Raises:
        InputError: it can't be read, or has none.
    """
    try:
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option}: found {name}, which can't be read: {reason}.") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{option}: found no text in {name}, expected one a line.")
    return texts
