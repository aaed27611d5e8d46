"""Size and SHA-256 of each file of a folder; imports neither torch nor lightning."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

# In nanoseconds. A file that was written less than this before it was read may change again
# without getting a later modification time.
TICK = 50_000_000
# By path: size, modification time and inode of a file; the time it was read; its digest. A large
# file is not read twice as long as it does not change.
_known: dict[Path, tuple[tuple[int, int, int], int, str]] = {}


def sha256_of(file: Path) -> str:
    """Compute the SHA-256 of a file; read the file again only if it has changed.

    Args:
        file: the file.

    Returns:
        Hexadecimal digest.

    Raises:
        OSError: if the file cannot be read.
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
    """Compute size and SHA-256 of the files of a folder.

    Args:
        folder: the folder.
        parts: names of the files and subfolders to describe.

    Returns:
        By path relative to the folder: ``{"bytes": ..., "sha256": ...}``.

    Raises:
        OSError: if a file cannot be read.
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
    """Compare the files of a folder with their recorded sizes and checksums.

    Args:
        folder: the folder.
        files: the result of `describe_files` from when the files were written, read from JSON.
        sizes_only: compare only sizes, without reading the files.

    Returns:
        A clause that says what is wrong; None if no file has changed.

    Raises:
        PermissionError: if this user may not read a file.
    """
    if not isinstance(files, Mapping) or not files:
        return "it lists no files"
    for name, about in files.items():
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or not isinstance(about, Mapping):
            return f"its record of {name!r} can't be read"
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
