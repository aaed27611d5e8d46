"""The folders of runs, as they are found again; needs neither torch nor lightning."""

import json
from pathlib import Path
from typing import Any

ABOUT = "run.json"


def find_run(folder: Path, key: str) -> Path | None:
    """The folder of a finished run.

    Args:
        folder: wanted place; a number may have been added to it.
        key: of the run's last step.

    Returns:
        The folder, or None.
    """
    found, number = folder, 1
    while (found / ABOUT).is_file():
        about = read_about(found)
        if about.get("key") == key:
            return found if about.get("finished") is True else None
        number += 1
        found = folder.with_name(f"{folder.name}_{number}")
    return None


def read_about(folder: Path) -> dict[str, Any]:
    """What a run's folder says it is; empty if it can't be read."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
