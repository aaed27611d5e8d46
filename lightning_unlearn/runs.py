"""The folders of runs, as they are found again; needs neither torch nor lightning."""

from pathlib import Path
from typing import Any

from lightning_unlearn.seals import Damage, read_values

ABOUT = "run.json"
# What an entry of the stage store says of itself.
MANIFEST = "entry.json"


def find_run(folder: Path, key: str) -> Path | None:
    """The folder of a finished run.

    Args:
        folder: wanted place; a number may have been added to it.
        key: of the run's last step.

    Returns:
        The folder, or None; also if a file of it is missing or of another size.
    """
    found, number = folder, 1
    while (found / ABOUT).is_file():
        about = read_about(found)
        if about.get("key") == key:
            return found if about.get("finished") is True and _is_whole(found, about) else None
        number += 1
        found = folder.with_name(f"{folder.name}_{number}")
    return None


def read_about(folder: Path) -> dict[str, Any]:
    """What a run's folder says it is; empty if it can't be read, or is not as it was written."""
    try:
        return read_values(folder / ABOUT)
    except Damage:
        return {}


def sizes(folder: Path, parts: list[str]) -> dict[str, int]:
    """Bytes of every file in some parts of a folder, by path."""
    files = [file for part in parts for file in [folder / part, *(folder / part).rglob("*")]]
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(files)
        if file.is_file()
    }


def _is_whole(folder: Path, about: dict[str, Any]) -> bool:
    files = about.get("files")
    return isinstance(files, dict) and sizes(folder, list(files)) == files
