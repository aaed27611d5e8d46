"""Fixtures of the tests of data."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from row_files import Write


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file in the current directory and return its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, content: Any) -> str:
        if isinstance(content, dict):
            with open(name, "wb") as file:
                pyarrow.parquet.write_table(pyarrow.table(content), file)
        else:
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write_file
