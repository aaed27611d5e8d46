"""The stage store: trained weights for every prefix of a path, found by their content.

An entry is a folder whose name is the hash of everything that determines its weights. The store
writes it to a temporary folder, flushes it to disk and renames it, so an entry is never incomplete.
An entry has checksums, so damage is detected. A stage in training may write checkpoints in the same
way; its finished entry replaces them.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.storage.entries import FORMAT, content_key, damage_of_entry, format_of
from lightning_unlearn.storage.integrity import describe_files
from lightning_unlearn.storage.run_folders import MANIFEST

FOLDERS = ("checkpoints", "damaged", "drafts", "locks", "status")
_KEY = re.compile(r"[0-9a-f]{32}")
_CHECKPOINT = re.compile(r"([0-9a-f]{32})-([0-9]{1,18})")
# Largest number of names that a message lists.
_NAMED = 5


class StageStore:
    """Entries in a folder, which several processes may use at the same time.

    Args:
        folder: folder of the store; it is created if it does not exist.
        report: called with one sentence when the store finds a damaged entry.

    Raises:
        InputError: if the folder cannot be read or is a file.
    """

    def __init__(self, folder: str | Path, report: Callable[[str], None] = print) -> None:
        self.folder = Path(folder).expanduser()
        self.report = report
        with self._using("read"):
            is_file = self.folder.exists() and not self.folder.is_dir()
        if is_file:
            raise InputError(f"trainer.store: found {self.folder}, a file, expected a folder.")

    def report_unused(self) -> None:
        """Report files that do not belong to the store, and entries of an older format."""
        with self._using("read"):
            foreign, old = self._unused()
        if foreign:
            self.report(
                f"Stage store: {self.folder} has files that are not part of it "
                f"({_listed(foreign)}); it ignores them."
            )
        if old:
            self.report(
                f"Stage store: {self.folder} has {len(old)} entries of an older format "
                f"({_listed(old)}), which this version does not use; you can delete them."
            )

    def _unused(self) -> tuple[list[str], list[str]]:
        """Return the names of files of other programs, and of entries of another format."""
        foreign, old = [], []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if path.is_dir() and (path.name in FOLDERS or re.fullmatch(r"damaged-\d+", path.name)):
                continue
            if not _KEY.fullmatch(path.name):
                foreign.append(path.name)
            elif format_of(path) not in (None, FORMAT):
                old.append(path.name)
        for path in sorted((self.folder / "checkpoints").glob("*")):
            if not _CHECKPOINT.fullmatch(path.name):
                foreign.append(f"checkpoints/{path.name}")
        return foreign, old

    def check_writable(self) -> None:
        """Create the folder and check that it can be written.

        Raises:
            StorageError: if it cannot be written.
        """
        drafts = self.folder / "drafts"
        with self._using("written"):
            drafts.mkdir(parents=True, exist_ok=True)
            # The file has no name, so a killed process leaves no file.
            with tempfile.TemporaryFile(dir=drafts) as trial:
                trial.write(b"0" * 1024)
                trial.flush()
                os.fsync(trial.fileno())

    def get(self, key: str) -> Path | None:
        """Find the entry of a key and check each of its files.

        If the entry is damaged, report it and move it to another folder, so that it is rebuilt.

        Args:
            key: from `content_key`.

        Returns:
            Folder of the entry; None if there is none or it was damaged.

        Raises:
            StorageError: if the folder cannot be read, or a damaged entry cannot be moved.
        """
        entry = self.folder / key
        with self._using("read"):
            if not _is_there(entry):
                return None
            damage = damage_of_entry(entry, key)
            if damage is None:
                # A process may have been killed after it wrote the entry and before it deleted the
                # checkpoints.
                self._delete_checkpoints(key)
                return entry
            aside = self._set_aside(entry)
        if aside is None:
            return self.get(key)  # Another process moved it first, and may have rebuilt it.
        self.report(f"Stage store: {entry} is damaged ({damage}); moved to {aside}, rebuilding.")
        return None

    def has(self, key: str) -> bool:
        """Return whether there is an undamaged entry of a key; do not move a damaged one."""
        with self._using("read"):
            entry = self.folder / key
            return _is_there(entry) and damage_of_entry(entry, key) is None

    def _set_aside(self, entry: Path) -> Path | None:
        """Move a damaged folder into ``damaged``; return its new path, or None if it is gone."""
        number, parent = 1, self.folder / "damaged"
        while parent.exists() and not parent.is_dir():
            number += 1
            parent = self.folder / f"damaged-{number}"
        aside = parent / f"{entry.name}-{uuid.uuid4().hex[:8]}"
        parent.mkdir(exist_ok=True)
        try:
            entry.rename(aside)
        except FileNotFoundError:
            return None
        return aside

    @contextmanager
    def _using(self, how: str) -> Iterator[None]:
        """Replace errors of the operating system by one sentence; `how` is a participle.

        Raises:
            StorageError: if the folder cannot be used.
        """
        try:
            yield
        # filelock raises NotImplementedError if the file system has no locks.
        except (OSError, SafetensorError, NotImplementedError) as error:
            raise StorageError(
                f"trainer.store: {self.folder} can't be {how}: {_reason(error)}. All entries "
                "stored before are intact. Free disk space, correct the permissions, or name "
                "another folder, and run the same command again."
            ) from error

    def find(self, content: dict[str, Any], ignoring: Sequence[str]) -> Path | None:
        """Find an entry whose content equals the given one except for some keys.

        The files of the entry are checked as in `get`.

        Args:
            content: everything that determines the weights of the entry.
            ignoring: keys of the content that may differ.

        Returns:
            Folder of the entry; None if there is none.
        """
        exact = self.get(content_key(content))
        if exact is not None:
            return exact

        def core(values: dict[str, Any]) -> str:
            return content_key({k: v for k, v in values.items() if k not in ignoring})

        wanted = core(content)
        for file in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if not _KEY.fullmatch(file.parent.name):
                continue  # The folder is a copy that a user made.
            try:
                manifest = json.loads(file.read_text(encoding="utf-8"))
                found, number = manifest["content"], manifest["format"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue  # get() reports the damage when this entry is needed.
            if number == FORMAT and isinstance(found, dict) and core(found) == wanted:
                return self.get(file.parent.name)
        return None

    def is_locked(self, key: str) -> bool:
        """Return whether another process is training the entry of a key."""
        lock = FileLock(self.folder / "locks" / f"{key}.lock")
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False  # lock() raises the error with its reason.

    def manifest(self, key: str) -> dict[str, Any]:
        """Read the manifest of an existing entry: key, format, content, files and details."""
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
        """Add an entry atomically.

        Args:
            key: from `content_key`.
            content: the values that the key is computed from; stored in readable form.
            write: function that writes the files of the entry into the folder it receives.
            details: further values to store, such as the training time.

        Returns:
            Folder of the entry.

        Raises:
            StorageError: if the disk is full or the folder cannot be written. The store is then
                unchanged.
        """
        entry = self.folder / key
        self._write(entry, key, content, write, details or {})
        self._delete_checkpoints(key)
        return entry

    def put_checkpoint(
        self, key: str, step: int, content: dict[str, Any], write: Callable[[Path], None]
    ) -> Path:
        """Store a checkpoint of a stage in training and delete its earlier checkpoints.

        Args:
            key: from `content_key`.
            step: optimizer steps that are done.
            content: the values that the key is computed from.
            write: function that writes the files of the checkpoint into the folder it receives.

        Returns:
            Folder of the checkpoint.

        Raises:
            StorageError: as in `put`. The earlier checkpoint is then kept.
        """
        folder = self.folder / "checkpoints" / f"{key}-{step}"
        with self._using("written"):
            exists = _is_there(folder)
            if exists and (damage := damage_of_entry(folder, key)) is not None:
                exists = False
                aside = self._set_aside(folder)
                self.report(f"Stage store: {folder} is damaged ({damage}); moved to {aside}.")
        if not exists:
            self._write(folder, key, content, write, {"step": step})
        self._delete_checkpoints(key, keep=step)
        return folder

    def checkpoint(self, key: str) -> tuple[int, Path] | None:
        """Find the last undamaged checkpoint of a stage in training.

        Report damaged checkpoints and move them to another folder.

        Args:
            key: from `content_key`.

        Returns:
            Number of optimizer steps that are done, and the folder; None if there is no checkpoint.
        """
        with self._using("read"):
            for step, folder in sorted(self._checkpoints(key), reverse=True):
                damage = damage_of_entry(folder, key)
                if damage is None:
                    return step, folder
                aside = self._set_aside(folder)
                self.report(f"Stage store: {folder} is damaged ({damage}); moved to {aside}.")
        return None

    def _checkpoints(self, key: str) -> list[tuple[int, Path]]:
        found = []
        for folder in self.folder.glob(f"checkpoints/{key}-*"):
            name = _CHECKPOINT.fullmatch(folder.name)
            if name is not None:
                found.append((int(name[2]), folder))
        return found

    def _delete_checkpoints(self, key: str, keep: int | None = None) -> None:
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
        """Write a folder with a manifest atomically."""
        draft = self.folder / "drafts" / f"{key}-{uuid.uuid4().hex[:8]}"
        with self._using("written"):
            try:
                draft.mkdir(parents=True)
                target.parent.mkdir(exist_ok=True)
                write(draft)
                files = describe_files(draft)
                assert files, "an entry has at least one file"
                manifest = {"format": FORMAT, "key": key, "files": files, "content": content}
                text = json.dumps({**manifest, "details": details}, indent=2, sort_keys=True)
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
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Lock a key, so that no two processes train the same entry at the same time.

        Wait if another process has the lock. The operating system releases the lock of a process
        that ends.

        Args:
            key: from `content_key`.
        """
        locks = self.folder / "locks"
        lock = FileLock(locks / f"{key}.lock")
        with self._using("written"):
            locks.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.report(f"Stage store: another process is training {key[:8]}; waiting for it.")
                lock.acquire()
        try:
            # This process has the lock, so all drafts of the key are from killed processes.
            for draft in self.folder.glob(f"drafts/{key}-*"):
                shutil.rmtree(draft, ignore_errors=True)
            if (self.folder / key).is_dir():
                self._delete_checkpoints(key)
            yield
        finally:
            lock.release()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _is_there(path: Path) -> bool:
    """Return whether anything has this path; raise every error but "not found"."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    # A name may contain bytes that are not text, or control characters.
    shown = (name if name.isprintable() else ascii(name) for name in names[:_NAMED])
    return ", ".join(shown) + more


def _flush(path: Path) -> None:
    """Write the content of a file or folder to the disk and wait until it is there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
