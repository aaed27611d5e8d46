"""Notes about entries in the making: what a process leaves while it works, and after."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.errors import Terminated
from lightning_unlearn.storage import entry_status
from lightning_unlearn.storage.entry_status import (
    STALE,
    EntryStatus,
    Heartbeat,
    note_file,
    read_note,
)


def three() -> tuple[int, int]:
    return 3, 10


def write(store: Path, **changes: Any) -> Path:
    """A note of this process, as it would leave it."""
    note = EntryStatus("running", socket.gethostname(), os.getpid(), time.time(), 3, 10)
    note_file(store, "key").parent.mkdir(parents=True, exist_ok=True)
    note_file(store, "key").write_text(json.dumps({**vars(note), **changes}))
    return note_file(store, "key")


def test_a_note_is_there_while_an_entry_is_made(tmp_path: Path) -> None:
    before = time.time()
    with Heartbeat(tmp_path, "key", three) as pulse:
        note = read_note(tmp_path, "key")
        assert pulse.file == tmp_path / "notes" / "key.json"
    assert note is not None
    assert before <= note.began <= time.time()
    expected = EntryStatus("running", socket.gethostname(), os.getpid(), note.began, 3, 10, "")
    assert note == expected
    assert list((tmp_path / "notes").iterdir()) == []
    assert read_note(tmp_path, "key") is None


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (Terminated("stopped by SIGTERM"), "stopped", "stopped by SIGTERM"),
        (RuntimeError("out of [memory]"), "failed", "out of [memory]"),
        (AssertionError(), "failed", "AssertionError"),
    ],
)
def test_what_ends_it_is_kept_and_goes_on(
    tmp_path: Path, error: BaseException, state: str, text: str
) -> None:
    with pytest.raises(type(error)), Heartbeat(tmp_path, "key", three):
        raise error
    note = read_note(tmp_path, "key")
    assert note is not None
    assert (note.state, note.error, note.step, note.total) == (state, text, 3, 10)
    with Heartbeat(tmp_path, "key", three):
        again = read_note(tmp_path, "key")
        assert again is not None and (again.state, again.error) == ("running", "")
    assert read_note(tmp_path, "key") is None


def test_what_means_stopped_can_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), Heartbeat(tmp_path, "key", three, stops=(OSError,)):
        raise TimeoutError("late")
    note = read_note(tmp_path, "key")
    assert note is not None and note.state == "stopped"


def test_steps_are_kept_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_status, "BEAT", 0.01)
    asked = threading.Semaphore(0)
    steps = [0]

    def progress() -> tuple[int, int]:
        asked.release()
        return steps[0], 50

    with pytest.raises(KeyboardInterrupt), Heartbeat(tmp_path, "key", progress):
        for step in (7, 31):
            steps[0] = step
            # The beat that comes next may have asked before; the one after it has not.
            while asked.acquire(blocking=False):
                pass
            assert all(asked.acquire(timeout=120) for _ in range(2))
            note = read_note(tmp_path, "key")
            assert note is not None and (note.step, note.total) == (step, 50)
        steps[0] = 32
        raise KeyboardInterrupt
    note = read_note(tmp_path, "key")
    assert note is not None and (note.state, note.step) == ("stopped", 32)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("blocked", ["notes", "store"])
def test_a_folder_that_cannot_be_written_harms_nothing(tmp_path: Path, blocked: str) -> None:
    store = tmp_path / "store"
    if blocked == "store":
        store.write_text("a file")
    else:
        store.mkdir()
        (store / "notes").write_text("a file")
    with Heartbeat(store, "key", three):
        assert read_note(store, "key") is None
    with pytest.raises(RuntimeError, match=r"^mine$"), Heartbeat(store, "key", three):
        raise RuntimeError("mine")
    assert read_note(store, "key") is None


def test_a_note_of_a_process_that_is_gone_says_stopped(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, pid=gone.pid)
    note = read_note(tmp_path, "key")
    assert note is not None and (note.state, note.step) == ("stopped", 3)


def test_a_note_that_is_not_renewed_says_stopped(tmp_path: Path) -> None:
    for host in (socket.gethostname(), "elsewhere"):
        file = write(tmp_path, host=host)
        note = read_note(tmp_path, "key")
        assert note is not None and note.state == "running"
        old = time.time() - STALE - 1
        os.utime(file, (old, old))
        note = read_note(tmp_path, "key")
        assert note is not None and note.state == "stopped"


def test_another_machine_is_believed_for_a_while(tmp_path: Path) -> None:
    """Its process numbers mean nothing here."""
    write(tmp_path, host="elsewhere", pid=2**22 + 1)
    note = read_note(tmp_path, "key")
    assert note is not None and note.state == "running"


def test_how_it_ended_is_told_however_old(tmp_path: Path) -> None:
    file = write(tmp_path, state="failed", error="why", pid=1)
    os.utime(file, (0, 0))
    note = read_note(tmp_path, "key")
    assert note is not None and (note.state, note.error) == ("failed", "why")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"state": "running"}', "\x00"])
def test_what_is_no_note_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path).write_text(text)
    assert read_note(tmp_path, "key") is None
