"""Find a source: a file, a folder of `datasets.save_to_disk`, or a data set of the hub."""

import difflib
import errno
import glob
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from lightning_unlearn.data.file_formats import FORMATS, suffix_of
from lightning_unlearn.errors import InputError

# Other things that a path may name. Reading one of them could wait forever or never end.
_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def local_files(source: str, place: str) -> list[Path] | None:
    """Find the files or the folder that a source names.

    Args:
        source: see `lightning_unlearn.data.rows.read_rows`.
        place: start of every message: key and source.

    Returns:
        The files that match a pattern, sorted by name; otherwise the one path of `local_path`, or
        None.

    Raises:
        InputError: if a path cannot be read or has no rows, or no file matches the pattern.
    """
    if not glob.has_magic(source) or os.path.lexists(os.path.expanduser(source)):
        path = local_path(source, place)
        return None if path is None else [path]
    found = sorted(glob.glob(os.path.expanduser(source), recursive=True))
    files = [path for path in map(Path, found) if not path.is_dir()]
    if not files:
        raise InputError(
            f"{place}: found no file that matches this pattern, expected at least one; check the "
            "folder and the suffix"
        )
    kinds = {suffix_of(path) for path in files}
    if len(kinds) > 1:
        raise InputError(
            f"{place}: found files of the kinds {', '.join(sorted(kinds))}, expected files of one "
            "kind; write the suffix into the pattern"
        )
    return [path for file in files if (path := local_path(str(file), place)) is not None]


def local_path(source: str, place: str) -> Path | None:
    """Return the file or folder that a source names.

    Args:
        source: see `lightning_unlearn.data.rows.read_rows`.
        place: start of every message: key and source.

    Returns:
        A file, or a folder that `datasets` has saved; None if the source looks like the name of a
        data set of the hub.

    Raises:
        InputError: if the path cannot be read or has no rows.
    """
    if source.startswith("demo:"):
        from lightning_unlearn.demo import resolve

        try:
            path = resolve(source)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from error
    else:
        try:
            path = Path(source).expanduser()
        except RuntimeError as error:  # The user in ~user does not exist.
            raise InputError(
                f"{place}: found an unknown home folder ({error}), expected a path; write the full "
                "path"
            ) from error
    mode = _mode(path, place)
    if mode is not None:
        if stat.S_ISDIR(mode) and not is_saved(path):
            raise _folder(path, place)
        for is_kind, kind in _KINDS:
            if is_kind(mode):
                raise InputError(
                    f"{place}: found {kind}, expected a file that can be read more than once; "
                    "write the rows to a file and name it"
                )
        return path
    # A suffix begins with a letter; otherwise wikitext-2.0 would count as a file.
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) and not re.search(r"\.[A-Za-z]\w*$", source):
        return None
    raise InputError(
        f"{place}: found no such file ({_absolute(path)}), expected {', '.join(FORMATS)}, "
        "demo:NAME or the name of a data set on the Hugging Face hub; check the path"
        + close_names(path)
    )


def _mode(path: Path, place: str) -> int | None:
    """Return the file mode of a path; None if it does not exist."""
    try:
        return path.stat().st_mode
    except ValueError as error:
        raise InputError(
            f"{place}: found a path that no file can have ({error}), expected a path; "
            "remove that character"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        if error.errno == errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in path.parts)
            raise InputError(
                f"{place}: found a name of {longest} bytes, which the file system refuses, "
                "expected a shorter one; check the path"
            ) from error
        raise InputError(
            f"{place}: found a path that cannot be followed ({error.strerror}), expected one that "
            "can be read; check the permissions of its folders and its links"
        ) from error


def is_saved(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote a folder, of one data set or of several splits."""
    return is_dictionary(folder) or all(
        (folder / name).is_file() for name in ("dataset_info.json", "state.json")
    )


def is_dictionary(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote a folder of several splits."""
    return (folder / "dataset_dict.json").is_file()


def _folder(path: Path, place: str) -> InputError:
    files = _readable_files(path)[:5]
    advice = "name one of its files" if files else "name a file with the rows"
    return InputError(
        f"{place}: found a directory with {', '.join(files) or f'no {_formats()}'}; "
        f"expected a file, or a folder written by save_to_disk of datasets; {advice}"
    )


def _formats() -> str:
    return ", ".join(FORMATS)


def _readable_files(folder: Path) -> list[str]:
    """Return the names of files with rows in a folder; [] if it cannot be listed."""
    with suppress(OSError):
        return sorted(file.name for file in folder.iterdir() if suffix_of(file) in FORMATS)
    return []


def _absolute(path: Path) -> Path:
    """Return the absolute path; the path itself if the current directory no longer exists."""
    with suppress(OSError):
        return path.absolute()
    return path


def close_names(path: Path) -> str:
    """Return the end of a message: files in the same folder with similar names."""
    with suppress(OSError, ValueError):
        if not path.parent.is_dir():
            return f"; the folder '{path.parent}' does not exist either"
    close = difflib.get_close_matches(path.name, _readable_files(path.parent))
    meant = " or ".join(str(path.with_name(name)) for name in close)
    return f"; did you mean {meant}?" if close else ""
