"""Commands of prepare in a folder, against a local server."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, ChatServer

from lightning_unlearn.cli.main import main

LABEL = "Sorry, I can not assist you with this question."


@dataclass
class Prepared:
    """What a command left.

    Attributes:
        code: of the exit.
        out: printed.
        err: printed as errors.
    """

    code: int
    out: str
    err: str


@dataclass
class Desk:
    """A folder and a server, and commands that use both."""

    server: ChatServer
    capsys: pytest.CaptureFixture[str]

    def run(self, verb: str, *arguments: str, endpoint: bool = True) -> Prepared:
        """Run a verb on rows.jsonl into out.jsonl, unless the arguments name others."""
        every = [verb, *arguments]
        if verb != "paper" and "--input" not in arguments:
            every += ["--input", "rows.jsonl"]
        if "--output" not in arguments and verb != "paper":
            every += ["--output", "out.jsonl"]
        if endpoint:
            every += ["--endpoint", self.server.url, "--model", "tiny"]
        self.capsys.readouterr()
        code = main(["prepare", *every])
        printed = self.capsys.readouterr()
        return Prepared(code, printed.out, printed.err)

    def write(self, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> None:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def rows(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        text = Path(name).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def manifest(self, name: str = "out.jsonl") -> Any:
        return json.loads(Path(f"{name}.manifest.json").read_text(encoding="utf-8"))

    def answers(self, make: Callable[[int, dict[str, Any]], Answer]) -> None:
        """Change what the server does."""
        self.server.answer = make


def refuses(number: int, request: dict[str, Any]) -> Answer:
    """A server that does what the instruction of the refusals asks."""
    return Answer(f"{LABEL} It could harm people.")
