"""Checksums inside files: Parquet tables and JSON documents that show when they were changed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# In the metadata of a table, and among the values of a document.
CHECKSUM = "checksum"
TABLE_KEY = f"lightning_unlearn.{CHECKSUM}"
EMPTY = "0" * 64
# As Thrift's compact protocol writes a key and a value of 64 bytes: field 2, binary, its length.
_MARK = TABLE_KEY.encode() + b"\x18\x40"
_BLOCK = 2**20


class Damage(ValueError):
    """A file is not as it was written; the message is a clause."""


def seal_table(file: Path) -> None:
    """Put the checksum of a Parquet file into its footer.

    Parquet's own checksums cover the pages of values, but neither their headers nor the footer;
    this one covers every byte.

    Args:
        file: written with `EMPTY` as the value of `TABLE_KEY` in its metadata.
    """
    with file.open("r+b") as stream:
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK):
            digest.update(block)
        size = stream.tell()
        footer = _footer(stream, size)
        stream.seek(size - len(footer) + _place(footer))
        stream.write(digest.hexdigest().encode())


def check_table(data: bytes) -> None:
    """Refuse the bytes of a table that are not those that `seal_table` left.

    Raises:
        Damage: they are not.
    """
    length = int.from_bytes(data[-8:-4], "little") + 8
    if len(data) < 12 or data[:4] != b"PAR1" or data[-4:] != b"PAR1" or length > len(data):
        raise Damage("it is cut short or no Parquet file")
    place = len(data) - length + _place(data[-length:])
    digest = hashlib.sha256(memoryview(data)[:place])
    digest.update(EMPTY.encode())
    digest.update(memoryview(data)[place + len(EMPTY) :])
    if digest.hexdigest().encode() != data[place : place + len(EMPTY)]:
        raise Damage("its content does not match its checksum")


def _footer(stream: Any, size: int) -> bytes:
    """The metadata at the end of a Parquet file, with their length and the mark behind them."""
    stream.seek(size - 8)
    length = int.from_bytes(stream.read(4), "little") + 8
    stream.seek(size - length)
    footer: bytes = stream.read(length)
    return footer


def _place(footer: bytes) -> int:
    """Where in the footer the checksum is."""
    # The last: a value among the statistics of columns may read alike.
    place = footer.rfind(_MARK)
    if place < 0 or place + len(_MARK) + len(EMPTY) > len(footer):
        raise Damage(
            "it has no checksum: it is damaged, of another version, or another program wrote it"
        )
    return place + len(_MARK)


def seal_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a JSON document with their checksum among them."""
    # What is read back: tuples are lists, keys are text.
    plain: dict[str, Any] = json.loads(json.dumps(values))
    plain.pop(CHECKSUM, None)
    return {**plain, CHECKSUM: _of_values(plain)}


def read_values(file: Path) -> dict[str, Any]:
    """Read a JSON document that `seal_values` sealed; the checksum is left out.

    Raises:
        Damage: it can't be read, is no document, or was changed.
    """
    values = read_json(file)
    if CHECKSUM not in values:
        raise Damage("it has no checksum: it is damaged, or of another version")
    if values.pop(CHECKSUM) != _of_values(values):
        raise Damage("its content does not match its checksum")
    return values


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON document without a checksum.

    Raises:
        Damage: it can't be read, or is no document.
    """
    try:
        # A pipe would be waited for.
        if file.exists() and not file.is_file():
            raise Damage("it is no file")
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Damage(str(error.strerror or error)) from error
    except RecursionError as error:
        raise Damage("it is nested too deeply") from error
    except Damage:
        raise
    except ValueError as error:
        raise Damage(str(error)) from error
    if not isinstance(values, dict):
        raise Damage(f"found {type(values).__name__}, expected keys and values")
    return values


def number_of(values: object, name: str) -> float | None:
    """A value that is a finite number and not negative, such as seconds; else None."""
    value = values.get(name) if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # An integer may be too large for a float.
    return float(value) if 0 <= value < 1e300 else None


def _of_values(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
