"""Check the names that a user gives to folders, before any folder is created."""

import os

from lightning_unlearn.errors import InputError

# Longest name and path in bytes. Linux and macOS allow a little more; suffixes need the difference.
LONGEST_NAME, LONGEST_PATH = 240, 3500


def check_folder(name: str, key: str) -> None:
    """Refuse the name of a folder that cannot be created or would not be found again.

    Args:
        name: a path.
        key: YAML key or argument, for the message.

    Raises:
        InputError: with the key, if the name is blank, too long, or has a control character.
    """
    if not name.strip():
        raise InputError(f"{key}: found {name!r}, expected the name of a folder.")
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise InputError(
            f"{key}: found {shown!r}, which has a control character, expected the name of a folder."
        )
    size = max(len(os.fsencode(part)) for part in name.split(os.sep))
    if size > LONGEST_NAME:
        raise InputError(
            f"{key}: found a name of {size} bytes ({name[:40]}...), expected at most "
            f"{LONGEST_NAME}: file systems refuse longer names."
        )
    if (size := len(os.fsencode(os.path.abspath(name)))) > LONGEST_PATH:
        raise InputError(
            f"{key}: found a path of {size} bytes ({name[:40]}...), expected at most "
            f"{LONGEST_PATH}: file systems refuse longer paths."
        )
