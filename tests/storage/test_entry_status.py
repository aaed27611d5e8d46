"""Status files of entries: while a process trains an entry, and after it ends."""

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
    read_status,
    status_file,
)


def three() -> tuple[int, int]:
    return 3, 10


def write(store: Path, **changes: Any) -> Path:
    """Write the status file that this process would write."""
    status = EntryStatus("running", socket.gethostname(), os.getpid(), time.time(), 3, 10)
    status_file(store, "key").parent.mkdir(parents=True, exist_ok=True)
    status_file(store, "key").write_text(json.dumps({**vars(status), **changes}))
    return status_file(store, "key")


def test_the_status_file_exists_while_an_entry_is_trained(tmp_path: Path) -> None:
    before = time.time()
    with Heartbeat(tmp_path, "key", three) as heartbeat:
        status = read_status(tmp_path, "key")
        assert heartbeat.file == tmp_path / "status" / "key.json"
    assert status is not None
    assert before <= status.began <= time.time()
    expected = EntryStatus("running", socket.gethostname(), os.getpid(), status.began, 3, 10, "")
    assert status == expected
    assert list((tmp_path / "status").iterdir()) == []
    assert read_status(tmp_path, "key") is None


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (Terminated("stopped by SIGTERM"), "stopped", "stopped by SIGTERM"),
        (RuntimeError("out of [memory]"), "failed", "out of [memory]"),
        (AssertionError(), "failed", "AssertionError"),
    ],
)
def test_the_status_keeps_the_error_until_the_next_try(
    tmp_path: Path, error: BaseException, state: str, text: str
) -> None:
    with pytest.raises(type(error)), Heartbeat(tmp_path, "key", three):
        raise error
    status = read_status(tmp_path, "key")
    assert status is not None
    assert (status.state, status.error, status.step, status.total) == (state, text, 3, 10)
    with Heartbeat(tmp_path, "key", three):
        again = read_status(tmp_path, "key")
        assert again is not None and (again.state, again.error) == ("running", "")
    assert read_status(tmp_path, "key") is None


def test_the_caller_chooses_exceptions_that_mean_stopped(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), Heartbeat(tmp_path, "key", three, stops=(OSError,)):
        raise TimeoutError("late")
    status = read_status(tmp_path, "key")
    assert status is not None and status.state == "stopped"


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
            # The next update may have read the old step; the one after it has not.
            while asked.acquire(blocking=False):
                pass
            assert all(asked.acquire(timeout=120) for _ in range(2))
            status = read_status(tmp_path, "key")
            assert status is not None and (status.step, status.total) == (step, 50)
        steps[0] = 32
        raise KeyboardInterrupt
    status = read_status(tmp_path, "key")
    assert status is not None and (status.state, status.step) == ("stopped", 32)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("blocked", ["status", "store"])
def test_training_does_not_need_the_status_file(tmp_path: Path, blocked: str) -> None:
    store = tmp_path / "store"
    if blocked == "store":
        store.write_text("a file")
    else:
        store.mkdir()
        (store / "status").write_text("a file")
    with Heartbeat(store, "key", three):
        assert read_status(store, "key") is None
    with pytest.raises(RuntimeError, match=r"^mine$"), Heartbeat(store, "key", three):
        raise RuntimeError("mine")
    assert read_status(store, "key") is None


def test_the_status_of_an_ended_process_is_stopped(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, pid=gone.pid)
    status = read_status(tmp_path, "key")
    assert status is not None and (status.state, status.step) == ("stopped", 3)


def test_a_stale_status_is_stopped(tmp_path: Path) -> None:
    for host in (socket.gethostname(), "elsewhere"):
        file = write(tmp_path, host=host)
        status = read_status(tmp_path, "key")
        assert status is not None and status.state == "running"
        old = time.time() - STALE - 1
        os.utime(file, (old, old))
        status = read_status(tmp_path, "key")
        assert status is not None and status.state == "stopped"


def test_a_recent_status_of_another_machine_is_running(tmp_path: Path) -> None:
    """This machine cannot look up its process number."""
    write(tmp_path, host="elsewhere", pid=2**22 + 1)
    status = read_status(tmp_path, "key")
    assert status is not None and status.state == "running"


def test_an_old_status_file_keeps_its_error(tmp_path: Path) -> None:
    file = write(tmp_path, state="failed", error="why", pid=1)
    os.utime(file, (0, 0))
    status = read_status(tmp_path, "key")
    assert status is not None and (status.state, status.error) == ("failed", "why")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"state": "running"}', "\x00"])
def test_an_invalid_status_file_is_ignored(tmp_path: Path, text: str) -> None:
    write(tmp_path).write_text(text)
    assert read_status(tmp_path, "key") is None
