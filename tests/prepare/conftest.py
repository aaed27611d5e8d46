"""Commands of prepare in a folder of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import chat_server
from prepare_desk import Desk, refuses

from lightning_unlearn.prepare import calls


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    # Waits between retries are measured by tests of their own.
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with chat_server(refuses) as server:
        made = Desk(server, capsys)
        made.write([{"turns": [f"prompt {n}"], "prompt_style": "base"} for n in range(6)])
        yield made
