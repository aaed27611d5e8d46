"""Key and format of an entry of the stage store, and the check of its files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lightning_unlearn.storage.integrity import damage_of
from lightning_unlearn.storage.run_folders import MANIFEST

# Increase it when the meaning of a key or the layout of an entry changes. The store then ignores
# all older entries.
FORMAT = 2


def content_key(content: dict[str, Any]) -> str:
    """Compute the key of an entry, which is also its name.

    Args:
        content: everything that determines the weights of the entry.

    Returns:
        32 hexadecimal digits of the SHA-256 hash of the canonical JSON.
    """
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def format_of(entry: Path) -> Any:
    """Read the format of an entry: 1 if its manifest has none, None if it cannot be read."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        return manifest.get("format", 1) if "content" in manifest else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def damage_of_entry(entry: Path, key: str) -> str | None:
    """Check an entry: its key, its format, and size and checksum of each file.

    Returns:
        A clause that says what is wrong; None if the entry is complete and unchanged.

    Raises:
        PermissionError: if this user may not read the entry.
    """
    if not entry.is_dir():
        return "it is a file" if entry.exists() else "it is a broken link"
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["key"] != key:
            return f"its key is {manifest['key']}, expected {key}"
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, expected {FORMAT}"
        if content_key(manifest["content"]) != key:
            return "its content does not match its name"
    except KeyError as error:
        return f"{MANIFEST} can't be read: it has no {error}"
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return f"{MANIFEST} can't be read: {error}"
    damage = damage_of(entry, files)
    return f"{MANIFEST}: {damage}" if damage == "it lists no files" else damage
