"""Status files of entries that are not finished: the process, its progress, or its error."""

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

# Seconds between two updates of a status file.
BEAT = 2.0
# If a status file is older than so many seconds, its process has ended.
STALE = 30.0
# Step counts, process numbers and seconds since 1970 are smaller than this.
LARGEST = 1e11
State = Literal["running", "stopped", "failed"]


@dataclass
class EntryStatus:
    """Status of an entry that is not in the store.

    Attributes:
        state: "running", "stopped" (by a signal or a kill), or "failed".
        host: name of the machine.
        pid: number of the process that trains or trained the entry.
        began: start of the process, in seconds since 1970.
        step: optimizer steps that are done.
        total: optimizer steps of the stage.
        error: message of the exception that ended the process; "" if there was none.
    """

    state: State
    host: str
    pid: int
    began: float
    step: int
    total: int
    error: str = ""


def status_file(store: Path, key: str) -> Path:
    """Return the path of the status file of an entry."""
    return store / "status" / f"{key}.json"


def read_status(store: Path, key: str) -> EntryStatus | None:
    """Read the status of an entry.

    Args:
        store: folder of the stage store.
        key: key of the entry.

    Returns:
        The status; None if there is no valid status file. If the file says "running" but its
        process has ended, the state is "stopped".
    """
    file = status_file(store, key)
    try:
        values = read_json(file)
        age = time.time() - file.stat().st_mtime
        status = EntryStatus(**{f.name: values[f.name] for f in fields(EntryStatus)})
    except (OSError, Damage, KeyError):
        return None
    if not _is_valid(status):
        return None
    if status.state == "running" and (age > STALE or not _is_alive(status)):
        status.state = "stopped"
    return status


def _is_valid(status: EntryStatus) -> bool:
    """Return whether all values have the types and ranges that a process writes."""
    texts = (status.host, status.error)
    numbers = (status.pid, status.began, status.step, status.total)
    return (
        status.state in get_args(State)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(n, (int, float)) and 0 <= n < LARGEST for n in numbers)
    )


def _is_alive(status: EntryStatus) -> bool:
    """Return whether the process may be running.

    The processes of another machine are not visible here, so the result is True for them. The
    caller then decides by the age of the file.
    """
    if status.host != socket.gethostname():
        return True
    try:
        os.kill(int(status.pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class Heartbeat:
    """Context manager that updates the status file of an entry while this process trains it.

    On exit it deletes the file, or, after an exception, writes "stopped" or "failed" into it.

    Args:
        store: folder of the stage store.
        key: key of the entry.
        progress: returns the number of finished optimizer steps and the total number.
        stops: exceptions that mean "stopped" instead of "failed".
    """

    def __init__(
        self,
        store: Path,
        key: str,
        progress: Callable[[], tuple[int, int]],
        stops: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit),
    ) -> None:
        self.file = status_file(store, key)
        self._progress = progress
        self._stops = stops
        self._status = EntryStatus("running", socket.gethostname(), os.getpid(), time.time(), 0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None:
            with suppress(OSError):
                self.file.unlink()
            return
        self._status.state = "stopped" if issubclass(kind, self._stops) else "failed"
        self._status.error = str(error) or kind.__name__
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._write()

    def _write(self) -> None:
        self._status.step, self._status.total = self._progress()
        try:
            records.write_text(self.file, json.dumps(asdict(self._status)) + "\n")
        except OSError:
            # Training does not need the status file. If the disk is full, writing the results
            # raises the error.
            return
