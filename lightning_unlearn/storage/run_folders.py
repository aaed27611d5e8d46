"""Find the folders of runs again; imports neither torch nor lightning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_unlearn.storage.integrity import damage_of
from lightning_unlearn.storage.seals import Damage, read_values

ABOUT = "run.json"
# File in an entry of the stage store with its key, format, content and checksums.
MANIFEST = "entry.json"


def find_run(
    folder: Path,
    key: str,
    sizes_only: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path | None:
    """Find the folder of a finished run.

    Args:
        folder: requested path; the run may have added a number to it.
        key: key of the last stage of the run.
        sizes_only: compare only the sizes of files, without reading them.
        report: called with one sentence if the run was finished and its files have changed.

    Returns:
        The folder; None if there is none, or if one of its files is missing or has changed.
    """
    found, number = folder, 1
    while (found / ABOUT).is_file():
        about = read_about(found)
        if about.get("key") == key:
            if about.get("finished") is not True:
                return None
            damage = damage_of(found, about.get("files"), sizes_only)
            if damage is not None and report is not None:
                report(f"{found} is damaged ({damage}); rebuilding it from the store.")
            return found if damage is None else None
        number += 1
        found = folder.with_name(f"{folder.name}_{number}")
    return None


def read_about(folder: Path) -> dict[str, Any]:
    """Read run.json of a run folder; return {} if it cannot be read or its checksum is wrong."""
    try:
        return read_values(folder / ABOUT)
    except Damage:
        return {}
