"""Read files of rows: JSON arrays, JSON lines, CSV and Parquet, with the line of every row."""

import codecs
import csv
import glob
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from lightning_unlearn.data.tables import Table, describe, quiet_datasets, rows_of
from lightning_unlearn.errors import InputError

_JSON_SPACE = re.compile(r"[ \t\n\r]*")
# Compressed text files, by suffix.
PACKED = {".gz": "gzip", ".zst": "zstd"}
_LARGEST_CSV_FIELD = 2**31 - 1  # the limit is a C long, which has 32 bits on Windows


def read_file(path: Path, place: str, wanted: Sequence[str]) -> Table:
    """Read a file by its suffix.

    Args:
        path: the file.
        place: start of every message: key and source.
        wanted: columns to load from a Parquet file, if it has them; other formats load all.

    Returns:
        The rows.

    Raises:
        InputError: if the suffix is not in `FORMATS`, or the file cannot be parsed.
    """
    kind = suffix_of(path)
    reader = FORMATS.get(kind)
    if reader is None:
        found = f"the suffix '{kind}'" if kind else "a file without suffix"
        advice = "convert or rename the file"
        if path.suffix == ".arrow":
            advice = "name the folder that save_to_disk wrote it in, or convert the file"
        if kind == ".parquet" + path.suffix.lower():
            advice = "unpack it: Parquet is compressed itself"
        expected = f"{', '.join(FORMATS)}, and the first three also as {' or '.join(PACKED)}"
        raise InputError(f"{place}: found {found}, expected {expected}; {advice}")
    return reader(path, place, wanted)


def suffix_of(path: Path) -> str:
    """Return the suffix of a file in lower case; for a compressed text file the one before.

    Returns:
        Such as ".jsonl" for rows.jsonl.gz, ".parquet.gz" for a compressed Parquet file.
    """
    suffix = path.suffix.lower()
    if suffix not in PACKED:
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner + suffix if inner == ".parquet" else inner


def _unpacked(path: Path, place: str) -> bytes:
    """Read a file, and decompress it if its suffix is one of `PACKED`."""
    data = path.read_bytes()
    codec = PACKED.get(path.suffix.lower())
    if codec is None:
        return data
    import pyarrow

    try:
        with pyarrow.input_stream(pyarrow.BufferReader(data), compression=codec) as stream:
            return bytes(stream.read())
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{place}: found a file that is not complete {codec} data "
            f"({' '.join(str(error).split())}), expected a complete one; write or download it again"
        ) from error


def _text(path: Path, place: str) -> str:
    try:
        data = _unpacked(path, place).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(
            f"{place}: found a file that cannot be read ({error.strerror}), expected a readable "
            "one; check its permissions"
        ) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{place}, line {line}: found the byte 0x{data[error.start]:02x}, which is not UTF-8; "
            "expected UTF-8 text; save the file with the encoding UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{place}: found an empty file, expected at least one row; fill the file")
    return text


# `datasets` does not parse JSON here, because its builder infers dates, merges types over rows and
# adds null columns. This parser keeps the values as they are written, and the line of every row.
def _read_json(path: Path, place: str, wanted: Sequence[str]) -> Table:
    text = _text(path, place)
    is_array = suffix_of(path) == ".json" and text.startswith("[", _after_space(text, 0))
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, value in _json_array(text, place) if is_array else _json_lines(text, place):
        if not isinstance(value, dict):
            advice = "" if is_array else "; one array of objects must be named .json, not .jsonl"
            raise InputError(
                f"{place}, row {len(rows) + 1}, line {line}: found {describe(value)}, "
                f'expected an object such as {{"question": "...", "answer": "..."}}; '
                f"correct or remove it{advice}"
            )
        rows.append(value)
        lines.append(line)
    return Table(list(dict.fromkeys(name for row in rows for name in row)), rows, lines)


class _RepeatedKeyError(ValueError):
    """A JSON object has one key twice; Python's parser would silently keep the last value."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return found


def _integer(text: str) -> int | str:
    """Parse an integer; return the text if Python would write it differently."""
    try:
        value = int(text)
        return value if str(value) == text else text
    except ValueError:  # Python limits the number of digits.
        return text


def _number(text: str) -> float | str:
    """Parse a number; return the text if a float cannot represent all its digits."""
    value = float(text)
    try:
        exact = Decimal(text) == Decimal(repr(value))
    except ArithmeticError:
        exact = False
    return value if exact else text


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_number)


def _json_lines(text: str, place: str) -> Iterator[tuple[int, Any]]:
    # Not str.splitlines: a JSON string may contain U+2028 and similar characters unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _JSON.decode(line)
            except (ValueError, RecursionError) as error:
                raise _malformed_json(error, place, number) from error


def _json_array(text: str, place: str) -> Iterator[tuple[int, Any]]:
    at = _after_space(text, _after_space(text, 0) + 1)
    line, counted = 1, 0
    try:
        closed = text.startswith("]", at)
        while not closed:
            line, counted = line + text.count("\n", counted, at), at
            value, end = _JSON.raw_decode(text, at)
            yield line, value
            at = _after_space(text, end)
            closed = text.startswith("]", at)
            if not closed:
                if not text.startswith(",", at):
                    raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
                at = _after_space(text, at + 1)
        at = _after_space(text, at + 1)
        if at < len(text):
            raise json.JSONDecodeError("Extra data after the array", text, at)
    except (ValueError, RecursionError) as error:
        # A JSONDecodeError counts lines from the start of the text.
        first = 1 if isinstance(error, json.JSONDecodeError) else line
        raise _malformed_json(error, place, first) from error


def _after_space(text: str, position: int) -> int:
    match = _JSON_SPACE.match(text, position)
    assert match is not None
    return match.end()


def _malformed_json(error: Exception, place: str, line: int) -> InputError:
    if isinstance(error, _RepeatedKeyError):
        return InputError(
            f"{place}, line {line}: found the key '{error}' twice in one object, expected it once; "
            "remove or rename one of them"
        )
    where, what = f"line {line}", str(error)
    if isinstance(error, json.JSONDecodeError):
        where, what = f"line {line + error.lineno - 1}, column {error.colno}", error.msg
    return InputError(
        f"{place}, {where}: found malformed JSON ({what}); expected one object per line, or in "
        "a .json file one array of objects; correct this line or write the file again"
    )


def _data_file(path: Path, place: str) -> str:
    """Escape a path for `datasets`, which expands patterns and opens chains like ``a::b``."""
    if "::" in str(path):
        raise InputError(f"{place}: found '::' in the path, expected a path without; rename it")
    return glob.escape(str(path))


def _read_csv(path: Path, place: str, wanted: Sequence[str]) -> Table:
    import datasets

    text = _text(path, place)
    header, lines = _csv_lines(text, place)
    if not any(lines):
        return Table(header, [])
    names = [str(number) for number in range(len(header))]
    # Use numbers as column names: the header may have blank names.
    with quiet_datasets(), tempfile.TemporaryDirectory() as cache:
        if path.suffix.lower() in PACKED:
            path = Path(cache) / "rows.csv"
            path.write_text(text, encoding="utf-8", newline="")
        records = datasets.Dataset.from_csv(
            _data_file(path, place),
            features=datasets.Features({name: datasets.Value("string") for name in names}),
            cache_dir=cache,
            keep_in_memory=True,
            names=names,
            header=0,
            index_col=False,
            na_filter=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
    assert len(records) == len(lines)
    rows = [
        dict(zip(header, record.values(), strict=True))
        for record, line in zip(records, lines, strict=True)
        if line
    ]
    return Table(header, rows, [line for line in lines if line])


def _csv_lines(text: str, place: str) -> tuple[list[str], list[int]]:
    """Return the header, and the first line of each record after it (0 for a blank line)."""
    lines: list[int] = []
    start = 1
    usual_limit = csv.field_size_limit(_LARGEST_CSV_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader)
        _check_header(header, place)
        start = reader.line_num + 1
        for fields in reader:
            blank = not fields or (len(header) > len(fields) == 1 and not fields[0].strip())
            if not blank and len(fields) != len(header):
                raise InputError(
                    f"{place}, row {sum(map(bool, lines)) + 1}, line {start}: found {len(fields)} "
                    f"fields, expected {len(header)} as in the header; put fields that contain "
                    "commas, quotes or line breaks in double quotes"
                )
            lines.append(0 if blank else start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{place}, line {start}: found malformed CSV in the row that starts here ({error}); "
            "expected commas between fields and quotes inside a quoted field doubled; correct this "
            "row"
        ) from error
    finally:
        csv.field_size_limit(usual_limit)
    return header, lines


def _check_header(header: list[str], place: str) -> None:
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{place}, line 1: found two columns named '{twice}', expected names that differ; "
            "rename one"
        )
    if len(header) == 1 and (found := re.search(r"[;\t|]", header[0])):
        raise InputError(
            f"{place}, line 1: found columns separated by {found.group()!r}, expected commas; "
            "write the file again with commas"
        )
    if not any(name.strip() for name in header):
        raise InputError(
            f"{place}, line 1: found a blank line, expected the names of the columns; "
            "begin the file with its header"
        )


def _read_parquet(path: Path, place: str, wanted: Sequence[str]) -> Table:
    import datasets
    import pyarrow
    import pyarrow.parquet

    data_file = _data_file(path, place)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns, count = list(file.schema_arrow.names), file.metadata.num_rows
        if not count:
            return Table(columns, [])
        with quiet_datasets(), tempfile.TemporaryDirectory() as cache:
            records = datasets.Dataset.from_parquet(
                data_file,
                columns=[name for name in columns if name in wanted] or columns[:1],
                cache_dir=cache,
                keep_in_memory=True,
            )
    # The libraries raise DatasetsError and ArrowException; ValueError means bad features metadata.
    except (
        OSError,
        ValueError,
        pyarrow.ArrowException,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise InputError(
            f"{place}: found unreadable Parquet ({error.__cause__ or error}); expected a complete "
            "Parquet file; write or download it again"
        ) from error
    return Table(columns, rows_of(records, place))


FORMATS: dict[str, Callable[[Path, str, Sequence[str]], Table]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
