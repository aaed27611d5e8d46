"""Unexpected exceptions: one line, and a file with the traceback."""

import errno
import functools
import importlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Workplace, make_workplace

from lightning_unlearn.cli import main as command
from lightning_unlearn.cli.main import main
from lightning_unlearn.errors import Terminated


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return make_workplace(tmp_path / "work", monkeypatch, capsys)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(command, "_dispatch", fail)


def kept() -> Path:
    (file,) = [*Path(tempfile.gettempdir()).iterdir(), *Path().glob("lightning-unlearn-*.txt")]
    return file


def test_an_unexpected_error_is_one_line_and_a_file(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The error is in the package itself.
    monkeypatch.setattr(command, "HELP", {})
    assert main(["fit", "--help"]) == 1
    printed = place.capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("error: lightning-unlearn failed with an unexpected error: KeyEr")
    assert "Please report it" in printed.err
    assert f"The traceback is in {kept()}" in printed.err
    text = kept().read_text()
    assert text.startswith("arguments: ['fit', '--help']\nlightning-unlearn ")
    assert "Traceback (most recent call last)" in text and text.rstrip().endswith("KeyError: 'fit'")
    assert re.search(r"lightning-unlearn \d.*torch \d.*transformers \d", text)


def test_without_a_temporary_folder_the_file_is_in_the_current_one(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, AssertionError("two\nlines"))
    Path(tempfile.gettempdir()).rmdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path.cwd() / "nowhere"))
    assert main(["fit"]) == 1
    (file,) = Path.cwd().glob("lightning-unlearn-*.txt")
    told = place.capsys.readouterr().err
    assert f"AssertionError: two lines. The traceback is in {file}" in told
    assert told.count("\n") == 1


def test_where_nothing_can_be_written_the_traceback_is_printed(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, AssertionError("reason"))
    monkeypatch.setattr(tempfile, "tempdir", str(Path.cwd() / "nowhere"))

    opened = Path.open

    def refuse(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "x" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert main(["fit"]) == 1
    text = place.capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last)")
    assert "The traceback is printed above" in text.splitlines()[-1]


def test_the_environment_variable_requests_the_traceback(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_UNLEARN_TRACEBACK", "1")
    failing(monkeypatch, AssertionError("reason"))
    assert main(["fit"]) == 1
    text = place.capsys.readouterr().err
    assert text.startswith("Traceback") and text.endswith("AssertionError: reason\n")
    monkeypatch.undo()


def test_a_package_that_is_not_installed_is_named(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The list of arguments is taken as the package; an absolute name does not use it.
    missing = functools.partial(importlib.import_module, "surely_missing.part")
    monkeypatch.setattr(command, "_dispatch", missing)
    assert main(["fit"]) == 1
    text = place.capsys.readouterr().err
    assert text.startswith("error: the package surely_missing is not installed in ")
    assert text.endswith("pip install lightning-unlearn\n") and text.count("\n") == 1
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_an_error_in_the_users_code_is_reported_with_its_line(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("mine_failing.py", "def loss():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(
        command, "_dispatch", lambda _: importlib.import_module("mine_failing").loss()
    )
    assert main(["fit"]) == 1
    text = place.capsys.readouterr().err
    assert text.startswith("error: mine_failing.py, line 2: ZeroDivisionError: division by zero. ")
    assert text.count("\n") == 1 and "report" not in text
    assert "return 1 / 0" in kept().read_text()


def test_an_error_in_the_users_constructor_is_reported_with_its_line(place: Workplace) -> None:
    place.write(
        "mine_built.py",
        "from lightning_unlearn import Unlearning\n\n\nclass Built(Unlearning):\n"
        "    def __init__(self, size: int = 0) -> None:\n        super().__init__()\n"
        "        self.part = 1 / size\n\n"
        "    def loss(self, policy, reference):\n        return policy.mean\n",
    )
    assert place.fit("--trainer.callbacks+=mine_built.Built") == (
        "trainer.callbacks: mine_built.py, line 7: ZeroDivisionError: division by zero."
    )


CODES = [
    (errno.EACCES, "permission denied; change its permissions, or choose another path."),
    (errno.ENOSPC, "no space left on device; free disk space and run the same command again."),
    (errno.EROFS, "read-only file system; choose a path on a writable file system."),
    (errno.ENAMETOOLONG, "file name too long; choose a shorter name."),
    (errno.EISDIR, "is a directory; choose a file, or move the folder away."),
]


@pytest.mark.parametrize(("number", "expected"), CODES)
def test_failures_of_the_file_system(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, number: int, expected: str
) -> None:
    failing(monkeypatch, OSError(number, os.strerror(number), "some/file"))
    assert place.refused("fit") == f"some/file: {expected}"


def test_failures_of_the_file_system_without_a_path(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert place.refused("fit").startswith("no space left on device; free disk")
    failing(monkeypatch, ConnectionError("no route"))
    assert main(["fit"]) == 1
    assert "ConnectionError: no route" in place.capsys.readouterr().err


def test_a_lack_of_memory(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, MemoryError())
    assert main(["fit"]) == 1
    text = place.capsys.readouterr().err
    assert text.startswith("error: this computer has not enough memory. Lower data.micro_batch_")


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_interrupted_command_is_not_a_failure(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int
) -> None:
    failing(monkeypatch, stop)
    assert main(["fit"]) == code
    assert place.capsys.readouterr().err == "\nstopped. Run the same command again to resume.\n"
