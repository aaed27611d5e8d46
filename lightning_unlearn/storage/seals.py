"""Checksums inside Parquet tables and JSON documents, which reveal every later change."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Key of the checksum in the metadata of a table and in a document.
CHECKSUM = "checksum"
TABLE_KEY = f"lightning_unlearn.{CHECKSUM}"
EMPTY = "0" * 64
# Thrift's compact protocol writes the key and, for a value of 64 bytes: field 2, binary, length.
_MARK = TABLE_KEY.encode() + b"\x18\x40"
_BLOCK = 2**20


class Damage(ValueError):
    """A file has changed since it was written. The message is a clause."""


def seal_table(file: Path) -> None:
    """Write the checksum of a Parquet file into its footer.

    Parquet's own checksums cover the pages of values, but neither their headers nor the footer.
    This checksum covers every byte.

    Args:
        file: a table whose metadata has `EMPTY` as the value of `TABLE_KEY`.
    """
    with file.open("r+b") as stream:
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK):
            digest.update(block)
        size = stream.tell()
        footer = _footer(stream, size)
        stream.seek(size - len(footer) + _checksum_offset(footer))
        stream.write(digest.hexdigest().encode())


def check_table(data: bytes) -> None:
    """Compare the bytes of a table with the checksum that `seal_table` wrote.

    Raises:
        Damage: if they do not match.
    """
    length = int.from_bytes(data[-8:-4], "little") + 8
    if len(data) < 12 or data[:4] != b"PAR1" or data[-4:] != b"PAR1" or length > len(data):
        raise Damage("it is truncated or not a Parquet file")
    offset = len(data) - length + _checksum_offset(data[-length:])
    digest = hashlib.sha256(memoryview(data)[:offset])
    digest.update(EMPTY.encode())
    digest.update(memoryview(data)[offset + len(EMPTY) :])
    if digest.hexdigest().encode() != data[offset : offset + len(EMPTY)]:
        raise Damage("its content does not match its checksum")


def _footer(stream: Any, size: int) -> bytes:
    """Read the metadata at the end of a Parquet file, with their length and the end mark."""
    stream.seek(size - 8)
    length = int.from_bytes(stream.read(4), "little") + 8
    stream.seek(size - length)
    footer: bytes = stream.read(length)
    return footer


def _checksum_offset(footer: bytes) -> int:
    """Find the position of the checksum in the footer."""
    # Take the last match: a value in the column statistics may contain the same bytes.
    offset = footer.rfind(_MARK)
    if offset < 0 or offset + len(_MARK) + len(EMPTY) > len(footer):
        raise Damage(
            "it has no checksum: it is damaged, or another version or another program wrote it"
        )
    return offset + len(_MARK)


def seal_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a JSON document and their checksum."""
    # Hash the values that JSON returns on reading: lists instead of tuples, keys as text.
    plain: dict[str, Any] = json.loads(json.dumps(values))
    plain.pop(CHECKSUM, None)
    return {**plain, CHECKSUM: _hash_values(plain)}


def read_values(file: Path) -> dict[str, Any]:
    """Read a JSON document that `seal_values` sealed; return its values without the checksum.

    Raises:
        Damage: if it cannot be read, is not a JSON object, or has changed.
    """
    values = read_json(file)
    if CHECKSUM not in values:
        raise Damage("it has no checksum: it is damaged, or another version wrote it")
    if values.pop(CHECKSUM) != _hash_values(values):
        raise Damage("its content does not match its checksum")
    return values


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON document without a checksum.

    Raises:
        Damage: if it cannot be read, or is not a JSON object.
    """
    try:
        # Reading a pipe would block.
        if file.exists() and not file.is_file():
            raise Damage("it is not a regular file")
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
    """Return a value if it is a finite number that is not negative, such as seconds; else None."""
    value = values.get(name) if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # An integer may be too large for a float.
    return float(value) if 0 <= value < 1e300 else None


def _hash_values(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
