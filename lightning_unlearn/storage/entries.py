"""What an entry of the stage store says of itself, and whether that is so."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lightning_unlearn.storage.integrity import damage_of
from lightning_unlearn.storage.run_folders import MANIFEST

# Raised when the meaning of a key or the layout of an entry changes: old entries are then unknown.
FORMAT = 2


def content_key(content: dict[str, Any]) -> str:
    """The name of an entry: 32 hexadecimal digits of the hash of its canonical JSON.

    Args:
        content: everything that decides the entry's weights.

    Returns:
        The key.
    """
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def format_of(entry: Path) -> Any:
    """The format an entry says it has, 1 for one that does not say; None if it can't be read."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        return manifest.get("format", 1) if "content" in manifest else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def damage_of_entry(entry: Path, key: str) -> str | None:
    """What is wrong with an entry; None if it is whole.

    Raises:
        PermissionError: if it is somebody else's to read.
    """
    if not entry.is_dir():
        return "it is a file" if entry.exists() else "it is a link to nothing"
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["key"] != key:
            return f"it says it is {manifest['key']}"
        if manifest["format"] != FORMAT:
            return f"it is of format {manifest['format']}, expected {FORMAT}"
        if content_key(manifest["content"]) != key:
            return "its content is not that of its name"
    except KeyError as error:
        return f"{MANIFEST} can't be read: it has no {error}"
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return f"{MANIFEST} can't be read: {error}"
    damage = damage_of(entry, files)
    return f"{MANIFEST}: {damage}" if damage == "it names no files" else damage
