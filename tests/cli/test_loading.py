"""The line that fit and validate print before slow modules are imported."""

import sys
from typing import Any

import pytest

from lightning_unlearn.cli.loading import announce_loading

CONTENT: dict[str, Any] = {"model": {"base": "demo:tiny-llama"}}


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        (CONTENT, [], "Loading model demo:tiny-llama ...\n"),
        (CONTENT, ["--model.base", "a/b"], "Loading model a/b ...\n"),
        ({}, ["--model.base=a\x1b"], "Loading model a\\x1b ...\n"),
        (CONTENT, ["--print_config"], ""),
        (CONTENT, ["--trainer.enable_progress_bar=false"], ""),
        ({**CONTENT, "trainer": {"enable_progress_bar": False}}, [], ""),
        # Wrong configurations are refused later.
        ({"model": 3}, [], ""),
        ({"model": {"base": None}}, ["abc"], ""),
        (CONTENT, ["--data.forget"], "Loading model demo:tiny-llama ...\n"),
    ],
)
def test_a_terminal_shows_the_model_at_once(
    content: Any,
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announce_loading(content, arguments)
    assert capsys.readouterr().err == "", "not into a file: errors are one line"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    announce_loading(content, arguments)
    assert capsys.readouterr().err == expected
    monkeypatch.setenv("LOCAL_RANK", "1")
    announce_loading(content, arguments)
    assert capsys.readouterr().err == ""
