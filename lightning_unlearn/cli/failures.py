"""What the command line says of exceptions that are no `InputError`."""

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning_unlearn.errors import own_place
from lightning_unlearn.version import __version__

# Set to 1, every failure is shown with its traceback.
TRACEBACK = "LIGHTNING_UNLEARN_TRACEBACK"
PACKAGES = ("torch", "lightning", "transformers", "peft", "jsonargparse")

_ROOM = "make room, and give the same command again"
_ELSEWHERE = "change who may use it, or name another place"
_SHORTER = "choose a shorter name"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: _SHORTER,
    errno.EISDIR: "name a file, or move the folder away",
    errno.ENOTDIR: "a part of this path is a file; name another place, or move the file away",
    errno.EEXIST: "name another place, or move away what is there",
    errno.ENOENT: "see whether it was moved or removed, or its name is misspelt",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ELOOP: "a link in this path leads to itself; remove it",
    errno.ESTALE: "see whether the disk it is on is still there",
    errno.EIO: "see whether the disk it is on is in order",
}


def told_os_error(error: OSError) -> str | None:
    """A failure of the file system in a sentence.

    Args:
        error: with the path that it concerns; a full disk needs none.

    Returns:
        Path, what was found, and what to do; None if the error names no path.
    """
    paths = [
        os.fsdecode(p) for p in (error.filename, error.filename2) if isinstance(p, str | bytes)
    ]
    if not paths and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    reason = os.strerror(error.errno) if error.errno else error.strerror or str(error)
    remedy = REMEDIES.get(error.errno or 0)
    place = f"{' to '.join(map(_short, paths))}: " if paths else ""
    return f"{place}{reason[:1].lower()}{reason[1:]}{f'; {remedy}' if remedy else ''}."


def _short(path: str) -> str:
    """A path that fits into a sentence."""
    return path if len(path) <= 200 else f"{path[:100]}...{path[-60:]}"


def told_failure(error: BaseException, arguments: list[str]) -> str:
    """An exception that nothing foresaw, in a line, with the file that holds its traceback.

    Args:
        error: the exception.
        arguments: of the command line.

    Returns:
        What happened where, and what to do.
    """
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if len(what) > 400:
        what = f"{what[:400]}..."
    file = _kept(error, arguments)
    if file is None:
        traceback.print_exception(error)
    held = "The traceback stands above" if file is None else f"{file} holds the traceback"
    own = own_place(error)
    if own is not None:
        return f"{own}: {what}. {held}."
    return (
        f"lightning-unlearn met what it does not foresee: {what}. {held}; please report it to its "
        "developers with that traceback, the command and the configuration."
    )


def told_missing(error: BaseException) -> str | None:
    """A package that is not installed, in a sentence; None for other exceptions."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or own_place(error):
        return None
    package = error.name.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return None
    return (
        f"the package {package}, which is needed here, is not installed in {sys.prefix}; install "
        "lightning-unlearn again, which brings it: pip install lightning-unlearn."
    )


def told_memory(error: BaseException) -> str | None:
    """A lack of memory in a sentence; None for other exceptions."""
    if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return None
    which = "this computer" if isinstance(error, MemoryError) else "the GPU"
    return (
        f"the memory of {which} does not suffice. Lower data.micro_batch_size, "
        "data.eval_batch_size or data.max_length, or set model.gradient_checkpointing to true; "
        "lightning-unlearn plan tells what a run needs."
    )


def shows_traceback() -> bool:
    """Whether the environment asks for tracebacks."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def _kept(error: BaseException, arguments: list[str]) -> Path | None:
    """Write a traceback where that is possible."""
    versions = {"lightning-unlearn": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    lines = [
        f"arguments: {arguments}",
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        platform.platform(),
        "",
        "".join(traceback.format_exception(error)),
    ]
    content = "\n".join(lines).encode("utf-8", "backslashreplace")
    name = f"lightning-unlearn-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (tempfile.gettempdir, os.getcwd):
        try:
            file = Path(folder()) / name
            with file.open("xb") as handle:
                handle.write(content)
            return file
        except OSError:
            continue
    return None
