"""The journal of calls: every answer is on disk before the next one is used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.prepare.requests import Reply, Usage


class Journal:
    """An append-only file of JSON lines: the key of a request, its reply, a checksum of both.

    A process that is killed while it writes leaves a last line without its end; the next one
    removes that line, and the call is made again. Any other damage is refused.
    """

    def __init__(self, file: Path, replies: dict[str, Reply], stream: BinaryIO) -> None:
        self.file = file
        self._replies = replies
        self._stream = stream

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request; None if it was not made yet."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Write a reply, and return when the disk has it.

        Raises:
            StorageError: if it can't be written.
        """
        line = _line(key, reply)
        try:
            self._stream.write(line)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise StorageError(
                f"{self.file} can't be written: {error.strerror or error}; free disk space and run "
                "the same command again: it makes only the missing calls."
            ) from error
        self._replies[key] = reply


@contextmanager
def open_journal(file: Path) -> Iterator[Journal]:
    """Open a journal for one process, and make it where there is none.

    Args:
        file: where it is.

    Raises:
        InputError: another process has it open, or a line is damaged.
        StorageError: it can't be written.
    """
    lock = FileLock(f"{file}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{file}: found it in use by another process, expected none; wait until that command "
            "has ended, or name another --output."
        ) from None
    except OSError as error:
        raise StorageError(
            f"{file} can't be written: {error.strerror or error}; name another --output."
        ) from error
    try:
        replies, whole = _read(file)
        try:
            with file.open("ab") as stream:
                stream.truncate(whole)
                yield Journal(file, replies, stream)
        except PermissionError as error:
            raise StorageError(f"{file} can't be written: {error.strerror}.") from error
    finally:
        lock.release()


def read_journal(file: Path) -> dict[str, Reply]:
    """Read the replies of a journal by their keys, without changing it; {} if there is none.

    Raises:
        InputError: a line is damaged.
    """
    return _read(file)[0]


def _read(file: Path) -> tuple[dict[str, Reply], int]:
    """Read the replies, and the number of bytes that whole lines have."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror or error}.") from error
    whole = data.rfind(b"\n") + 1
    replies = {}
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        found = _parse(line)
        if found is None:
            raise InputError(
                f"{file}, line {number}: found a damaged line, expected one as it was written; "
                "remove the line, and the same command makes its call again."
            )
        replies[found[0]] = found[1]
    return replies, whole


def _line(key: str, reply: Reply) -> bytes:
    content = {"key": key, **asdict(reply)}
    text = json.dumps({**content, "checksum": _checksum(content)}, ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def _parse(line: bytes) -> tuple[str, Reply] | None:
    """Parse a line; None if it is not as it was written."""
    try:
        content = json.loads(line)
        checksum = content.pop("checksum")
        if checksum != _checksum(content):
            return None
        key = content.pop("key")
        return key, Reply(**{**content, "usage": Usage(**content["usage"])})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
