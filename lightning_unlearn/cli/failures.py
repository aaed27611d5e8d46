"""Messages of the command line for exceptions that are not an `InputError`."""

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

# Environment variable; set to 1, it prints the traceback of every error.
TRACEBACK = "LIGHTNING_UNLEARN_TRACEBACK"
PACKAGES = ("torch", "lightning", "transformers", "peft", "jsonargparse")

_ROOM = "free disk space and run the same command again"
_ELSEWHERE = "change its permissions, or choose another path"
_SHORTER = "choose a shorter name"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: "choose a path on a writable file system",
    errno.ENAMETOOLONG: _SHORTER,
    errno.EISDIR: "choose a file, or move the folder away",
    errno.ENOTDIR: "a part of this path is a file: choose another path, or move the file away",
    errno.EEXIST: "choose another path, or move the existing file away",
    errno.ENOENT: "check whether it was moved or deleted, and how its name is spelled",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ELOOP: "a link in this path refers to itself: delete the link",
    errno.ESTALE: "check whether its disk is still mounted",
    errno.EIO: "check its disk for errors",
}


def describe_os_error(error: OSError) -> str | None:
    """Describe an error of the file system in a sentence.

    Args:
        error: the error, with the path that it concerns; a full disk needs no path.

    Returns:
        Path, reason and remedy; None if the error names no path.
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
    """Return a path, shortened in the middle if it has more than 200 characters."""
    return path if len(path) <= 200 else f"{path[:100]}...{path[-60:]}"


def describe_failure(error: BaseException, arguments: list[str]) -> str:
    """Describe an unexpected exception in a line, and write its traceback to a file.

    Args:
        error: the exception.
        arguments: arguments of the command line.

    Returns:
        The exception, the file of its traceback, and what to do.
    """
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if len(what) > 400:
        what = f"{what[:400]}..."
    file = _write_traceback(error, arguments)
    if file is None:
        traceback.print_exception(error)
    where = "The traceback is printed above" if file is None else f"The traceback is in {file}"
    own = own_place(error)
    if own is not None:
        return f"{own}: {what}. {where}."
    return (
        f"lightning-unlearn failed with an unexpected error: {what}. {where}. Please report it to "
        "the developers with the traceback, the command and the configuration."
    )


def describe_missing_package(error: BaseException) -> str | None:
    """Describe a package that is not installed; return None for other exceptions."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or own_place(error):
        return None
    package = error.name.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return None
    return (
        f"the package {package} is not installed in {sys.prefix}, but lightning-unlearn needs it. "
        "Install lightning-unlearn again with all its dependencies: pip install lightning-unlearn"
    )


def describe_memory_error(error: BaseException) -> str | None:
    """Describe a lack of memory; return None for other exceptions."""
    if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return None
    which = "this computer" if isinstance(error, MemoryError) else "the GPU"
    return (
        f"{which} has not enough memory. Lower data.micro_batch_size, data.eval_batch_size or "
        "data.max_length, or set model.gradient_checkpointing to true. lightning-unlearn plan "
        "prints the memory that a run needs."
    )


def shows_traceback() -> bool:
    """Return whether the environment variable requests tracebacks."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def _write_traceback(error: BaseException, arguments: list[str]) -> Path | None:
    """Write a traceback to the temporary folder or the current one; return None if both fail."""
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
