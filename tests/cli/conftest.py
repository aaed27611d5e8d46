"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest
from cli_runs import Workplace, make_workplace


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)
