"""What a folder holds, by size and SHA-256 of each file; needs neither torch nor lightning."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

# A file that was written so shortly before it was read may change again without a later time.
TICK = 50_000_000
# Digests of files that have not changed since, by path; large ones are not read twice.
_known: dict[Path, tuple[tuple[int, int, int], int, str]] = {}


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, read again only if the file has changed since.

    Args:
        file: the file.

    Raises:
        OSError: if it can't be read.
    """
    about = file.stat()
    state = (about.st_size, about.st_mtime_ns, about.st_ino)
    known = _known.get(file)
    if known is not None and known[0] == state and about.st_mtime_ns < known[1] - TICK:
        return known[2]
    now = time.time_ns()
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    _known[file] = (state, now, digest.hexdigest())
    return digest.hexdigest()


def describe_files(folder: Path, parts: Iterable[str] = (".",)) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in some parts of a folder.

    Args:
        folder: the folder.
        parts: names of files and folders in it.

    Returns:
        By path in the folder: ``{"bytes": ..., "sha256": ...}``.

    Raises:
        OSError: if one can't be read.
    """
    files = [file for part in parts for file in [folder / part, *(folder / part).rglob("*")]]
    return {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }
        for file in sorted(files)
        if file.is_file()
    }


def damage_of(folder: Path, files: Any, sizes_only: bool = False) -> str | None:
    """What is wrong with the files of a folder.

    Args:
        folder: the folder.
        files: what `describe_files` gave when they were written, as it was read back.
        sizes_only: do not read them.

    Returns:
        A sentence without its end, or None if all is as it was.

    Raises:
        PermissionError: if a file is somebody else's to read.
    """
    if not isinstance(files, Mapping) or not files:
        return "it names no files"
    for name, about in files.items():
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or not isinstance(about, Mapping):
            return f"what it says of {name!r} can't be read"
        file = folder / inner
        try:
            if not file.is_file():
                return f"{name} is missing"
            if (size := file.stat().st_size) != about.get("bytes"):
                return f"{name} has {size} bytes, expected {about.get('bytes')}"
            if not sizes_only and sha256_of(file) != about.get("sha256"):
                return f"{name} does not match its checksum"
        except PermissionError:
            raise
        except OSError as error:
            return f"{name} can't be read: {error.strerror or error}"
    return None
