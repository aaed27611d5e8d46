"""The folders of runs, as they are found again; needs neither torch nor lightning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_unlearn.storage.integrity import damage_of
from lightning_unlearn.storage.seals import Damage, read_values

ABOUT = "run.json"
# What an entry of the stage store says of itself.
MANIFEST = "entry.json"


def find_run(
    folder: Path,
    key: str,
    sizes_only: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path | None:
    """The folder of a finished run.

    Args:
        folder: wanted place; a number may have been added to it.
        key: of the run's last step.
        sizes_only: compare sizes of files, and do not read them.
        report: called with one sentence if the run was finished and its files have changed.

    Returns:
        The folder, or None; also if a file of it is missing or is not what was written.
    """
    found, number = folder, 1
    while (found / ABOUT).is_file():
        about = read_about(found)
        if about.get("key") == key:
            if about.get("finished") is not True:
                return None
            damage = damage_of(found, about.get("files"), sizes_only)
            if damage is not None and report is not None:
                report(f"{found} is damaged ({damage}); it is filled again from the store.")
            return found if damage is None else None
        number += 1
        found = folder.with_name(f"{folder.name}_{number}")
    return None


def read_about(folder: Path) -> dict[str, Any]:
    """What a run's folder says it is; empty if it can't be read, or is not as it was written."""
    try:
        return read_values(folder / ABOUT)
    except Damage:
        return {}
