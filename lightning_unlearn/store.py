"""The stage store: what training left behind after every prefix of a path, found by content.

An entry is a folder named by the hash of everything that decides its weights. It is written to a
temporary folder, flushed to disk and renamed, so it is there whole or not at all, and it carries
checksums, so damage is noticed. A stage that is still being trained may leave checkpoints, written
in the same way; its entry takes their place.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.runs import MANIFEST

# Raised when the meaning of a key or the layout of an entry changes: old entries are then unknown.
FORMAT = 1


def content_key(content: dict[str, Any]) -> str:
    """The name of an entry: 32 hexadecimal digits of the hash of its canonical JSON.

    Args:
        content: everything that decides the entry's weights.

    Returns:
        The key.
    """
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class StageStore:
    """Entries in a folder; several processes may share it.

    Args:
        folder: made if missing.
        report: called with one sentence when an entry is found damaged.

    Raises:
        InputError: if the folder can't be written.
    """

    def __init__(self, folder: str | Path, report: Callable[[str], None] = print) -> None:
        self.folder = Path(folder).expanduser()
        self.report = report
        self._whole: set[str] = set()
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"trainer.store: found {self.folder}, which is a file; name a folder.")

    def get(self, key: str) -> Path | None:
        """The entry of a key, checked the first time it is asked for.

        A damaged entry is reported and set aside, so that it is built anew.

        Args:
            key: from `content_key`.

        Returns:
            Its folder, or None.
        """
        entry = self.folder / key
        if not entry.is_dir():
            return None
        if key in self._whole:
            return entry
        damage = _damage(entry, key)
        if damage is None:
            self._whole.add(key)
            # A kill may have come between the entry and the end of its checkpoints.
            self._drop_checkpoints(key)
            return entry
        aside = self._set_aside(entry)
        if aside is None:
            return self.get(key)  # another process set it aside first, and may have rebuilt it
        self.report(f"Stage store: {entry} is damaged ({damage}); moved to {aside}, rebuilding.")
        return None

    def has(self, key: str) -> bool:
        """Whether there is a whole entry of a key; only looks, whatever it finds."""
        entry = self.folder / key
        return entry.is_dir() and (key in self._whole or _damage(entry, key) is None)

    def _set_aside(self, entry: Path) -> Path | None:
        """Move a damaged folder away; None if it is gone already."""
        aside = self.folder / "damaged" / f"{entry.name}-{uuid.uuid4().hex[:8]}"
        aside.parent.mkdir(exist_ok=True)
        try:
            entry.rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def find(self, content: dict[str, Any], ignoring: Sequence[str]) -> Path | None:
        """An entry whose content is this one but for some keys, checked as in `get`.

        Args:
            content: what the entry is to be made from.
            ignoring: keys of the content that may differ.

        Returns:
            Its folder, or None.
        """
        exact = self.get(content_key(content))
        if exact is not None:
            return exact

        def core(values: dict[str, Any]) -> str:
            return content_key({k: v for k, v in values.items() if k not in ignoring})

        for file in sorted(self.folder.glob(f"*/{MANIFEST}")):
            try:
                found = json.loads(file.read_text(encoding="utf-8"))["content"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # get() tells of damage when the entry itself is asked for
            if isinstance(found, dict) and core(found) == core(content):
                return self.get(file.parent.name)
        return None

    def is_claimed(self, key: str) -> bool:
        """Whether another process is making the entry of a key."""
        lock = FileLock(self.folder / "locks" / f"{key}.lock")
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False  # claim() itself tells what is wrong

    def manifest(self, key: str) -> dict[str, Any]:
        """What an existing entry says of itself: its content, files and details."""
        text = (self.folder / key / MANIFEST).read_text(encoding="utf-8")
        values: dict[str, Any] = json.loads(text)
        return values

    def put(
        self,
        key: str,
        content: dict[str, Any],
        write: Callable[[Path], None],
        details: dict[str, Any] | None = None,
    ) -> Path:
        """Add an entry, whole or not at all.

        Args:
            key: from `content_key`.
            content: what the key was made from, kept in readable form.
            write: writes the entry's files into the folder it is given.
            details: more to keep with it, such as the time it took.

        Returns:
            The entry's folder.

        Raises:
            StorageError: if the disk is full or the folder can't be written; the store is as
                before.
        """
        entry = self.folder / key
        self._write(entry, key, content, write, details or {})
        self._drop_checkpoints(key)
        return entry

    def put_checkpoint(
        self, key: str, step: int, content: dict[str, Any], write: Callable[[Path], None]
    ) -> Path:
        """Keep how far an entry in the making has come, in place of what was kept before.

        Args:
            key: from `content_key`.
            step: optimizer steps made.
            content: what the key was made from.
            write: writes the checkpoint's files into the folder it is given.

        Returns:
            The checkpoint's folder.

        Raises:
            StorageError: as of `put`; the checkpoint before is then still there.
        """
        folder = self.folder / "checkpoints" / f"{key}-{step}"
        if not folder.is_dir():
            self._write(folder, key, content, write, {"step": step})
        self._drop_checkpoints(key, keep=step)
        return folder

    def checkpoint(self, key: str) -> tuple[int, Path] | None:
        """The last whole checkpoint of an entry in the making.

        A damaged one is reported and set aside.

        Args:
            key: from `content_key`.

        Returns:
            Optimizer steps made, and the folder; None if there is none.
        """
        for step, folder in sorted(self._checkpoints(key), reverse=True):
            damage = _damage(folder, key)
            if damage is None:
                return step, folder
            aside = self._set_aside(folder)
            self.report(f"Stage store: {folder} is damaged ({damage}); moved to {aside}.")
        return None

    def _checkpoints(self, key: str) -> list[tuple[int, Path]]:
        folders = self.folder.glob(f"checkpoints/{key}-*")
        return [(int(folder.name.rpartition("-")[2]), folder) for folder in folders]

    def _drop_checkpoints(self, key: str, keep: int | None = None) -> None:
        for step, folder in self._checkpoints(key):
            if step != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _write(
        self,
        target: Path,
        key: str,
        content: dict[str, Any],
        write: Callable[[Path], None],
        details: dict[str, Any],
    ) -> None:
        """Make a folder with a manifest, whole or not at all."""
        draft = self.folder / "drafts" / f"{key}-{uuid.uuid4().hex[:8]}"
        try:
            draft.mkdir(parents=True)
            target.parent.mkdir(exist_ok=True)
            write(draft)
            files = {
                file.relative_to(draft).as_posix(): _checksum(file)
                for file in sorted(draft.rglob("*"))
                if file.is_file()
            }
            manifest = {"key": key, "files": files, "content": content, "details": details}
            text = json.dumps(manifest, indent=2, sort_keys=True)
            (draft / MANIFEST).write_text(text + "\n", encoding="utf-8")
            for path in sorted(draft.rglob("*")):
                _flush(path)
            _flush(draft)
            try:
                draft.rename(target)
            except OSError as error:
                # Another process finished the same entry first; equal keys mean equal weights.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(draft)
            _flush(target.parent)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not isinstance(error, (OSError, SafetensorError)):
                raise
            raise StorageError(
                f"trainer.store: {self.folder} can't be written: {_reason(error)}. "
                "What was stored before is intact; make room or name another folder, and run the "
                "same command again."
            ) from error

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold a key while its entry is made, so that no two processes make the same one.

        The claim of a process that dies ends with it.

        Args:
            key: from `content_key`.
        """
        locks = self.folder / "locks"
        lock = FileLock(locks / f"{key}.lock")
        try:
            locks.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.report(f"Stage store: another process is making {key[:8]}; waiting for it.")
                lock.acquire()
        except OSError as error:
            raise StorageError(
                f"trainer.store: {self.folder} can't be written: {_reason(error)}."
            ) from error
        try:
            # Who holds the key finds only what killed processes had begun.
            for draft in self.folder.glob(f"drafts/{key}-*"):
                shutil.rmtree(draft, ignore_errors=True)
            if (self.folder / key).is_dir():
                self._drop_checkpoints(key)
            yield
        finally:
            lock.release()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _damage(entry: Path, key: str) -> str | None:
    """What is wrong with an entry; None if it is whole."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        if manifest["key"] != key:
            return f"it says it is {manifest['key']}"
        if content_key(manifest["content"]) != key:
            return "its content is not that of its name"
        checksums = dict(files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} can't be read: {error}"
    for name, checksum in checksums.items():
        file = entry / name
        if not file.is_file():
            return f"{name} is missing"
        if _checksum(file) != checksum:
            return f"{name} does not match its checksum"
    return None


def _flush(path: Path) -> None:
    """Have a file's or folder's content on disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
