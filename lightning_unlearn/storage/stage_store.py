"""The stage store: what training left behind after every prefix of a path, found by content.

An entry is a folder named by the hash of everything that decides its weights. It is written to a
temporary folder, flushed to disk and renamed, so it is there whole or not at all, and it carries
checksums, so damage is noticed. A stage that is still being trained may leave checkpoints, written
in the same way; its entry takes their place.
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

FOLDERS = ("checkpoints", "damaged", "drafts", "locks", "notes")
_KEY = re.compile(r"[0-9a-f]{32}")
_CHECKPOINT = re.compile(r"([0-9a-f]{32})-([0-9]{1,18})")
# So many names are told.
_NAMED = 5


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
        with self._using("read"):
            is_file = self.folder.exists() and not self.folder.is_dir()
        if is_file:
            raise InputError(f"trainer.store: found {self.folder}, which is a file; name a folder.")

    def look_over(self) -> None:
        """Tell of what lies in the folder and is never used: foreign files and old entries."""
        with self._using("read"):
            foreign, old = self._unused()
        if foreign:
            self.report(
                f"Stage store: {self.folder} holds what is not its own ({_listed(foreign)}); it is "
                "left alone."
            )
        if old:
            self.report(
                f"Stage store: {self.folder} holds {len(old)} entries of an older format "
                f"({_listed(old)}), which are of no use any more; their folders may be removed."
            )

    def _unused(self) -> tuple[list[str], list[str]]:
        """Names of what is foreign, and of entries of another format."""
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

    def try_writing(self) -> None:
        """Make the folder, and see whether it can be written.

        Raises:
            StorageError: if it can't.
        """
        drafts = self.folder / "drafts"
        with self._using("written"):
            drafts.mkdir(parents=True, exist_ok=True)
            # Without a name, so that a kill leaves nothing.
            with tempfile.TemporaryFile(dir=drafts) as trial:
                trial.write(b"0" * 1024)
                trial.flush()
                os.fsync(trial.fileno())

    def get(self, key: str) -> Path | None:
        """The entry of a key, checked file by file.

        A damaged entry is reported and set aside, so that it is built anew.

        Args:
            key: from `content_key`.

        Returns:
            Its folder, or None.

        Raises:
            StorageError: if the folder can't be read, or a damaged entry can't be set aside.
        """
        entry = self.folder / key
        with self._using("read"):
            if not _is_there(entry):
                return None
            damage = damage_of_entry(entry, key)
            if damage is None:
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
        with self._using("read"):
            entry = self.folder / key
            return _is_there(entry) and damage_of_entry(entry, key) is None

    def _set_aside(self, entry: Path) -> Path | None:
        """Move a damaged folder away; None if it is gone already."""
        number, place = 1, self.folder / "damaged"
        while place.exists() and not place.is_dir():
            number += 1
            place = self.folder / f"damaged-{number}"
        aside = place / f"{entry.name}-{uuid.uuid4().hex[:8]}"
        place.mkdir(exist_ok=True)
        try:
            entry.rename(aside)
        except FileNotFoundError:
            return None
        return aside

    @contextmanager
    def _using(self, how: str) -> Iterator[None]:
        """Tell of a folder that can't be used in one sentence.

        Raises:
            StorageError: in place of what the system says.
        """
        try:
            yield
        # Of a lock that the file system does not know, filelock says it is not implemented.
        except (OSError, SafetensorError, NotImplementedError) as error:
            raise StorageError(
                f"trainer.store: {self.folder} can't be {how}: {_reason(error)}. What was stored "
                "before is intact; make room, see to its permissions, or name another folder, and "
                "run the same command again."
            ) from error

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

        wanted = core(content)
        for file in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if not _KEY.fullmatch(file.parent.name):
                continue  # a copy that somebody made
            try:
                manifest = json.loads(file.read_text(encoding="utf-8"))
                found, number = manifest["content"], manifest["format"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue  # get() tells of damage when the entry itself is asked for
            if number == FORMAT and isinstance(found, dict) and core(found) == wanted:
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
        with self._using("written"):
            there = _is_there(folder)
            if there and (damage := damage_of_entry(folder, key)) is not None:
                there = False
                aside = self._set_aside(folder)
                self.report(f"Stage store: {folder} is damaged ({damage}); moved to {aside}.")
        if not there:
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
        with self._using("written"):
            try:
                draft.mkdir(parents=True)
                target.parent.mkdir(exist_ok=True)
                write(draft)
                files = describe_files(draft)
                assert files, "an entry holds something"
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
    def claim(self, key: str) -> Iterator[None]:
        """Hold a key while its entry is made, so that no two processes make the same one.

        The claim of a process that dies ends with it.

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
                self.report(f"Stage store: another process is making {key[:8]}; waiting for it.")
                lock.acquire()
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


def _is_there(path: Path) -> bool:
    """Whether there is anything of that name; what can't be known is raised."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    # A name may hold bytes that are no text, or what a terminal would obey.
    told = (name if name.isprintable() else ascii(name) for name in names[:_NAMED])
    return ", ".join(told) + more


def _flush(path: Path) -> None:
    """Have a file's or folder's content on disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
