"""Where a source is: a file, a folder of `datasets.save_to_disk`, or a name of the hub."""

import difflib
import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from lightning_unlearn.data.file_formats import FORMATS
from lightning_unlearn.errors import InputError

# What a path may name beside files and folders; reading one of these would wait or never end.
_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def local_path(source: str, place: str) -> Path | None:
    """The file or folder that a source names.

    Args:
        source: as of `lightning_unlearn.data.rows.read_rows`.
        place: starts every message.

    Returns:
        A file, a folder that `datasets` has saved, or None if the source is written like a data set
        of the hub.

    Raises:
        InputError: for a path that can't be read, or holds no rows.
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
        except RuntimeError as error:  # of a user that is not there
            raise InputError(
                f"{place}: found a home folder that is not there ({error}), expected a path; "
                "write the folder out"
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
    # A suffix begins with a letter, or else wikitext-2.0 would be taken for a file.
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) and not re.search(r"\.[A-Za-z]\w*$", source):
        return None
    raise InputError(
        f"{place}: found no such file ({_absolute(path)}), expected {', '.join(FORMATS)}, "
        "demo:NAME or the name of a data set on the Hugging Face hub; check the path"
        + close_names(path)
    )


def _mode(path: Path, place: str) -> int | None:
    """What kind of thing a path names; None if nothing is there."""
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
                f"{place}: found a name of {longest} bytes, which the file system does not take, "
                "expected a shorter one; check the path"
            ) from error
        raise InputError(
            f"{place}: found a path that cannot be followed ({error.strerror}), expected one that "
            "can be read; check the permissions of its folders and its links"
        ) from error


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of a data set or of several splits."""
    return is_dictionary(folder) or all(
        (folder / name).is_file() for name in ("dataset_info.json", "state.json")
    )


def is_dictionary(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of several splits."""
    return (folder / "dataset_dict.json").is_file()


def _folder(path: Path, place: str) -> InputError:
    held = _readable_files(path)[:5]
    advice = "name one in it" if held else "name a file that holds the rows"
    return InputError(
        f"{place}: found a directory, which holds {', '.join(held) or f'no {_formats()}'}; "
        f"expected a file, or a folder written by save_to_disk of datasets; {advice}"
    )


def _formats() -> str:
    return ", ".join(FORMATS)


def _readable_files(folder: Path) -> list[str]:
    """Files with rows in a folder; none if it can't be listed."""
    with suppress(OSError):
        return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in FORMATS)
    return []


def _absolute(path: Path) -> Path:
    """The whole path, where the current directory is still there to tell it."""
    with suppress(OSError):
        return path.absolute()
    return path


def close_names(path: Path) -> str:
    """Files beside a path that are called like it, as the end of a message."""
    with suppress(OSError, ValueError):
        if not path.parent.is_dir():
            return f"; the folder '{path.parent}' does not exist either"
    close = difflib.get_close_matches(path.name, _readable_files(path.parent))
    return f"; did you mean {' or '.join(close)}?" if close else ""
