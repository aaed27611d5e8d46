"""Signals that stop a command: SIGTERM and SIGHUP end it as Ctrl-C does."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning_unlearn.errors import HungUp, Terminated

# The exception that each signal raises. Windows has no SIGHUP.
ENDS: dict[int, type[KeyboardInterrupt]] = {
    int(signal.SIGINT): KeyboardInterrupt,
    int(signal.SIGTERM): Terminated,
}
if hasattr(signal, "SIGHUP"):
    ENDS[int(signal.SIGHUP)] = HungUp
# Outside of a stage, Python's own handler handles Ctrl-C.
CAUGHT = [number for number in ENDS if number != signal.SIGINT]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM and `HungUp` on SIGHUP.

    A stage in training installs its own handlers, which take precedence. A signal that the process
    ignores stays ignored, such as SIGHUP under nohup.
    """

    def end(number: int, frame: FrameType | None) -> None:
        leave_terminal()
        raise ENDS[number]

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in CAUGHT}
    caught = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


def leave_terminal() -> None:
    """Redirect output to the null device if its terminal is gone: every write would be an error."""
    for descriptor in (1, 2):
        try:
            if not stat.S_ISCHR(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
                continue
        except OSError:
            pass  # The descriptor is closed: redirect it to the null device.
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
