"""Rows of `gpu_checks.py`: what was checked, what came out, what was expected."""

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
        check: name of the check and what of it.
        value: what came out.
        expected: what should have.
        result: "ok", "FAILED", or "skipped" with the reason as its value.
    """

    check: str
    value: str
    expected: str
    result: Result


class Skipped(Exception):
    """A check that can't be made here; its text says why."""


def judged(check: str, value: str, expected: str, holds: bool) -> Row:
    """A row that is ok or FAILED.

    Args:
        check: what was checked.
        value: what came out.
        expected: what should have.
        holds: whether it did.
    """
    return Row(check, value, expected, "ok" if holds else "FAILED")


def at_most(check: str, found: float, limit: float, about: str) -> Row:
    """A row for a difference that may not be larger than a limit; nan is not.

    Args:
        check: what was checked.
        found: the difference.
        limit: the largest that is expected.
        about: what the difference is of.
    """
    return judged(check, f"{found:.2g} ({about})", f"at most {limit:g}", found <= limit)


def at_least(check: str, found: float, limit: float, about: str) -> Row:
    """A row for a share or a coefficient that may not be smaller than a limit; nan is not."""
    return judged(check, f"{found:.4g} ({about})", f"at least {limit:g}", found >= limit)


def read_rows(file: Path) -> Iterator[Row]:
    """Rows that a check has left so far, one JSON object a line."""
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Row(**json.loads(line))


def add_row(file: Path, row: Row) -> None:
    """Add a row to what a check leaves, at once."""
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(asdict(row)) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def write_tables(folder: Path, about: dict[str, str], rows: Sequence[Row]) -> None:
    """Write all rows so far as Markdown and as JSON.

    Args:
        folder: an existing folder.
        about: the device and versions, by name.
        rows: in the order of the checks.
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
