"""Notes in the store about entries in the making: who, where, how far, or what went wrong."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from lightning_unlearn.storage import records
from lightning_unlearn.storage.seals import Damage, read_json

BEAT = 2.0
# A note that was not renewed for so many seconds is of a process that is gone.
STALE = 30.0
# No step, process or second since 1970 is later.
LARGEST = 1e11
State = Literal["running", "stopped", "failed"]


@dataclass
class EntryStatus:
    """About an entry that is not in the store, or not yet.

    Attributes:
        state: "running"; "stopped", by a signal or a kill; or "failed".
        host: name of the machine.
        pid: process that makes it, or did.
        began: when, in seconds since 1970.
        step: optimizer steps made.
        total: optimizer steps of the stage.
        error: what went wrong.
    """

    state: State
    host: str
    pid: int
    began: float
    step: int
    total: int
    error: str = ""


def note_file(store: Path, key: str) -> Path:
    """Where the note about an entry is."""
    return store / "notes" / f"{key}.json"


def read_note(store: Path, key: str) -> EntryStatus | None:
    """The note about an entry, if there is one.

    Args:
        store: folder of the stage store.
        key: of the entry.

    Returns:
        The note; a "running" one of a process that is gone says "stopped".
    """
    file = note_file(store, key)
    try:
        values = read_json(file)
        age = time.time() - file.stat().st_mtime
        note = EntryStatus(**{f.name: values[f.name] for f in fields(EntryStatus)})
    except (OSError, Damage, KeyError):
        return None
    if not _is_sound(note):
        return None
    if note.state == "running" and (age > STALE or not _lives(note)):
        note.state = "stopped"
    return note


def _is_sound(note: EntryStatus) -> bool:
    """Whether a note has values that a process would have written."""
    texts = (note.host, note.error)
    numbers = (note.pid, note.began, note.step, note.total)
    return (
        note.state in get_args(State)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(n, (int, float)) and 0 <= n < LARGEST for n in numbers)
    )


def _lives(note: EntryStatus) -> bool:
    """Whether a process may be there; on another machine the age of its note must tell."""
    if note.host != socket.gethostname():
        return True
    try:
        os.kill(int(note.pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class Heartbeat:
    """Keeps the note about an entry up to date while the entry is made.

    Used as a context manager. Afterwards the note is gone, or tells how it ended.

    Args:
        store: folder of the stage store.
        key: of the entry.
        progress: gives optimizer steps made and in all.
        stops: exceptions that mean stopped, not failed.
    """

    def __init__(
        self,
        store: Path,
        key: str,
        progress: Callable[[], tuple[int, int]],
        stops: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit),
    ) -> None:
        self.file = note_file(store, key)
        self._progress = progress
        self._stops = stops
        self._note = EntryStatus("running", socket.gethostname(), os.getpid(), time.time(), 0, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            with suppress(OSError):
                self.file.unlink()
            return
        self._note.state = "stopped" if issubclass(kind, self._stops) else "failed"
        self._note.error = str(error) or kind.__name__
        self._write()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._write()

    def _write(self) -> None:
        self._note.step, self._note.total = self._progress()
        try:
            records.write_text(self.file, json.dumps(asdict(self._note)) + "\n")
        except OSError:
            # Nobody's work may depend on a note; a full disk is told where results are written.
            return
