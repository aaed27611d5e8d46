"""Signals during a run: a checkpoint is written, and the message says how to resume."""

import os
import re
import select
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from path_runs import check_no_half_written_run
from tiny_stages import Start, Tiny

from lightning_unlearn.cli.main import main


class Tells(Callback):
    """A callback that creates a file at the fifth step of the second stage."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.stage == "safety" and pl_module.step == 5:
            Path(self.file).touch()


def command(config: str) -> None:
    """Run the command line in a child process."""
    sys.stderr.flush()
    os._exit(main(["fit", "--config", config]))


def in_terminal(terminal: str, config: str) -> None:
    """Run the command line in a child process with its own terminal."""
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)  # becomes the terminal of the session
    for descriptor in (0, 1, 2):
        os.dup2(handle, descriptor)
    os.close(handle)
    command(config)


def long_stage(tiny: Tiny) -> str:
    """Write a configuration; its second stage is in training when the file "on" exists."""
    stage = {"batch_size": 4, "lr": 1e-3}
    sources = {name: str(tiny.data / f"{name}.jsonl") for name in ("tofu", "safety")}
    config = {
        "trainer": {
            "default_root_dir": str(tiny.root / "runs"),
            "store": str(tiny.root / "store"),
            "accelerator": "cpu",
            "callbacks": [
                {"class_path": "GA"},
                {
                    "class_path": "test_interrupting.Tells",
                    "init_args": {"file": str(tiny.root / "on")},
                },
            ],
        },
        "model": {"base": str(tiny.base), "lora": {"rank": 4}},
        "data": {
            "forget": "safety",
            "stages": {
                "tofu": {"source": sources["tofu"], "steps": 2, **stage},
                "safety": {"source": sources["safety"], "steps": 100000, **stage},
            },
            "unlearn": stage,
        },
    }
    file = tiny.root / "run.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(file)


def wait_until_on(tiny: Tiny, child: BaseProcess) -> None:
    end = time.monotonic() + 300
    while not (tiny.root / "on").exists():
        assert time.monotonic() < end and child.is_alive(), (tiny.root / "output").read_text()
        time.sleep(0.02)


def test_closing_the_terminal_writes_a_checkpoint(tiny: Tiny, start: Start) -> None:
    """The progress bar writes to that terminal, and every write fails after it is closed."""
    own, terminal = os.openpty()
    child = start(in_terminal, os.ttyname(terminal), long_stage(tiny))
    shown = []
    while not (tiny.root / "on").exists():
        # Read the terminal's output: otherwise its buffer fills and the child waits.
        if select.select([own], [], [], 0.02)[0]:
            shown.append(os.read(own, 4096))
        assert child.is_alive(), (tiny.root / "output").read_text()
    assert b"safety" in b"".join(shown)
    os.close(own)
    os.close(terminal)
    child.join(300)
    assert child.exitcode == 129, (tiny.root / "output").read_text()
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    assert int(kept.name.rpartition("-")[2]) >= 5
    check_no_half_written_run(tiny)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_interrupting_says_how_to_resume(tiny: Tiny, start: Start, number: int, code: int) -> None:
    child = start(command, long_stage(tiny))
    wait_until_on(tiny, child)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(300)
    output = (tiny.root / "output").read_text()
    assert child.exitcode == code, output
    said = " ".join(output.split())
    assert "stopped in stage safety at step" in said
    step = re.search(r"at step (\d+) of 100000; a checkpoint of step (\d+) is stored", said)
    assert step is not None and step[1] == step[2], said
    assert "Stored stages of this path: tofu. Run the same command again to resume." in said
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    assert kept.name.endswith(f"-{step[1]}")
    assert "Traceback" not in output
    check_no_half_written_run(tiny)


def test_interrupting_between_stages_says_how_to_resume_too(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_unlearn.cli.main._lightning", interrupted)
    assert main(["fit", "--config", "some.yaml"]) == 130
    assert "stopped. Run the same command again to resume." in capsys.readouterr().err
