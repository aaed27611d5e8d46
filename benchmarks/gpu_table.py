"""Rows of `gpu_checks.py`: check, value, expected value and result."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Result = Literal["ok", "FAILED", "skipped"]
TABLE, VALUES = "checks.md", "checks.json"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: name of the check and of the checked quantity.
        value: value found.
        expected: value expected.
        result: "ok", "FAILED", or "skipped" with the reason as the value.
    """

    check: str
    value: str
    expected: str
    result: Result


class Skipped(Exception):
    """Raised by a check that cannot run here; its text is the reason."""


def judged(check: str, value: str, expected: str, holds: bool) -> Row:
    """Return a row with the result ok or FAILED.

    Args:
        check: name of the checked quantity.
        value: value found.
        expected: value expected.
        holds: whether the value is as expected.
    """
    return Row(check, value, expected, "ok" if holds else "FAILED")


def at_most(check: str, found: float, limit: float, about: str) -> Row:
    """Return a row for a difference with an upper limit; nan fails.

    Args:
        check: name of the checked quantity.
        found: the difference.
        limit: the largest allowed difference.
        about: unit or kind of the difference.
    """
    return judged(check, f"{found:.2g} ({about})", f"at most {limit:g}", found <= limit)


def at_least(check: str, found: float, limit: float, about: str) -> Row:
    """Return a row for a fraction or a coefficient with a lower limit; nan fails."""
    return judged(check, f"{found:.4g} ({about})", f"at least {limit:g}", found >= limit)


def read_rows(file: Path) -> Iterator[Row]:
    """Yield the rows that a check has written so far, one JSON object per line."""
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Row(**json.loads(line))


def add_row(file: Path, row: Row) -> None:
    """Append a row to the file of a check and flush it to the disk."""
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(asdict(row)) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def write_tables(folder: Path, about: dict[str, str], rows: Sequence[Row]) -> None:
    """Write all rows so far as Markdown and as JSON.

    Args:
        folder: an existing folder.
        about: the device and versions, by name.
        rows: the rows in the order of the checks.
    """
    lines = [f"{name}: {value}  " for name, value in about.items()]
    lines += ["", "| check | value | expected | |", "|---|---|---|---|"]
    lines += [
        f"| {' | '.join(map(_cell, (row.check, row.value, row.expected, row.result)))} |"
        for row in rows
    ]
    _replace(folder / TABLE, "\n".join(lines) + "\n")
    values: dict[str, Any] = {"about": about, "rows": [asdict(row) for row in rows]}
    _replace(folder / VALUES, json.dumps(values, indent=1) + "\n")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _replace(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
