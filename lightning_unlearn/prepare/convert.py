"""Convert rows of any shape to prompts and answers, chats or plain texts, as JSON lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_unlearn.data.columns import ColumnNames, Row
from lightning_unlearn.data.recipes import EvalSet
from lightning_unlearn.data.rows import read_usable_rows
from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.prepare.tables import Source, check_output, manifest_of, write_output
from lightning_unlearn.version import __version__

Shape = Literal["prompt", "messages", "text"]
# Reasons, and rows of each reason, that are printed; the manifest has all.
SHOWN_REASONS, SHOWN_ROWS = 10, 3
_NUMBER = re.compile(r", (message|part) \d+")


@dataclass(frozen=True)
class Converted:
    """Rows of a source in one shape.

    Attributes:
        source: where they come from.
        columns: columns of the source, as of a stage; those that are set.
        shape: of the rows: question and answer, messages, or text.
        rows: the rows, in the order of the source.
        left_out: place and fault of each row that cannot be used.
        remarks: notes, such as on unused columns.
    """

    source: Source
    columns: Mapping[str, Any]
    shape: Shape
    rows: Sequence[Mapping[str, Any]]
    left_out: Sequence[tuple[str, str]]
    remarks: Sequence[str] = field(default=())

    def reasons(self) -> list[tuple[str, list[str]]]:
        """Return each reason for which rows are left out, most frequent first, and their places."""
        counted = Counter(reason(fault) for _, fault in self.left_out)
        places: dict[str, list[str]] = {}
        for place, fault in self.left_out:
            places.setdefault(reason(fault), []).append(place)
        return [(text, places[text]) for text, _ in counted.most_common()]

    def text(self, output: Path) -> str:
        """Describe the rows in a few lines for the terminal.

        Args:
            output: where they were written.
        """
        total = len(self.rows) + len(self.left_out)
        lines = [f"Written to {output}: {len(self.rows)} of {total} rows."]
        reasons = self.reasons()
        for text, places in reasons[:SHOWN_REASONS]:
            shown = "; ".join(places[:SHOWN_ROWS]) + "; ..." * (len(places) > SHOWN_ROWS)
            lines.append(f"  {_rows(len(places))} left out: {text} ({shown})")
        if rest := sum(len(places) for _, places in reasons[SHOWN_REASONS:]):
            lines.append(f"  {_rows(rest)} left out for other reasons")
        lines += [f"note: {remark}" for remark in self.remarks]
        if reasons:
            lines.append(f"Every row that was left out, with its reason: {manifest_of(output)}")
        keys = {"prompt": "", "messages": ", messages: messages", "text": ", text: text"}
        lines.append(f"Keys of a stage with these rows: source: {output}{keys[self.shape]}")
        return visible("\n".join(lines), lines=True)

    def manifest(self) -> dict[str, Any]:
        """Return what the manifest says."""
        return {
            "command": "prepare convert",
            "version": __version__,
            "input": self.source.about(),
            "options": {**self.columns, "shape": self.shape},
            "rows": {
                "read": len(self.rows) + len(self.left_out),
                "written": len(self.rows),
                "left out": len(self.left_out),
            },
            "notes": list(self.remarks),
            "reasons": {text: len(places) for text, places in self.reasons()},
            "left out": [{"place": place, "reason": fault} for place, fault in self.left_out],
        }


def convert(source: Source, columns: ColumnNames, shape: Shape | None = None) -> Converted:
    """Read the rows of a source and write each in one shape.

    Args:
        source: anything that a stage reads.
        columns: its columns, as of a stage.
        shape: of the rows. None takes "text" for plain texts, "prompt" if every row is one prompt
            with its answer, else "messages".

    Raises:
        InputError: the source or its columns cannot be used, or no row of it can.
    """
    plain = columns.get("text") is not None
    if shape is not None and plain != (shape == "text"):
        others = [name for name in get_args(Shape) if (name == "text") == plain]
        kind = "plain text" if plain else "prompts and answers"
        raise InputError(
            f"--shape: found {shape} with rows of {kind}, expected {' or '.join(others)}."
        )
    _check(columns)
    remarks: list[str] = []
    rows, left_out = read_usable_rows(
        source.name,
        split=source.split,
        subset=source.subset,
        limit=source.limit,
        key=source.option,
        remark=remarks.append,
        check=_check_single if shape == "prompt" else lambda row: None,
        **columns,
    )
    single = all(len(row.messages) == 1 for row in rows)
    found = shape or ("text" if plain else "prompt" if single else "messages")
    written = [_write(row, found) for row in rows]
    if not written:
        place, fault = left_out[0]
        raise InputError(
            f"{source.place}: found no row of {len(left_out)} that can be used, expected at least "
            f"one; the first, {place}: {fault.rstrip('.')}. Nothing was written."
        )
    used = {name: value for name, value in columns.items() if value is not None}
    return Converted(source, used, found, written, left_out, remarks)


def write(file: Path, converted: Converted) -> None:
    """Write converted rows and their manifest; the file appears whole or not at all.

    Args:
        file: the output.
        converted: the rows.

    Raises:
        StorageError: if a file cannot be written.
    """
    write_output(file, converted.rows, converted.manifest())


def check_place(file: Path, source: Source, overwrite: bool) -> None:
    """Refuse an output that would replace the input, or a file that this verb did not write.

    Args:
        file: the output.
        source: of the rows.
        overwrite: replace any file but the input.

    Raises:
        InputError: in these cases.
    """
    if file.exists() and any(path.exists() and path.samefile(file) for path in source.files()):
        raise InputError(
            f"--output: found {file}, which is the input too, expected another file; name one."
        )
    check_output(file, "prepare convert", overwrite)


def reason(fault: str) -> str:
    """Return the part of a fault that equal faults of other rows share."""
    return _NUMBER.sub("", fault.split(", expected ", 1)[0])


def _check(columns: ColumnNames) -> None:
    """Check columns as those of a stage are checked."""
    key = "prepare convert"
    try:
        EvalSet("any", **columns).check(key)  # type: ignore[arg-type, misc]
    except InputError as error:
        raise InputError(str(error).replace(f"{key}.", "--", 1)) from None


def _check_single(row: Row) -> None:
    """Refuse a row whose prompt is a chat."""
    if len(row.messages) != 1:
        roles = ", ".join(message["role"] for message in row.messages)
        raise InputError(f"the prompt has several messages ({roles}), expected one")


def _write(row: Row, shape: Shape) -> dict[str, Any]:
    if shape == "text":
        return {"text": row.answer}
    if shape == "prompt":
        return {"question": row.messages[0]["content"], "answer": row.answer}
    return {"messages": [*row.messages, {"role": "assistant", "content": row.answer}]}


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"
