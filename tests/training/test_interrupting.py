"""Signals during a run: the step is kept, and the message says how to resume."""

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
    """Makes a file at the fifth step of the second stage."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.stage == "safety" and pl_module.step == 5:
            Path(self.file).touch()


def command(config: str) -> None:
    """For a child process: the command line."""
    sys.stderr.flush()
    os._exit(main(["fit", "--config", config]))


def in_terminal(terminal: str, config: str) -> None:
    """For a child process: the command line, in a terminal of its own."""
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)  # becomes the terminal of the session
    for descriptor in (0, 1, 2):
        os.dup2(handle, descriptor)
    os.close(handle)
    command(config)


def long_stage(tiny: Tiny) -> str:
    """A configuration whose second stage is at work when the file "on" appears."""
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


def test_a_closed_terminal_keeps_the_step(tiny: Tiny, start: Start) -> None:
    """Progress is drawn into that terminal, where every write fails from then on."""
    own, terminal = os.openpty()
    child = start(in_terminal, os.ttyname(terminal), long_stage(tiny))
    shown = []
    while not (tiny.root / "on").exists():
        # What nobody reads fills the terminal, and who writes into a full one waits.
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
def test_interrupting_says_how_to_go_on(tiny: Tiny, start: Start, number: int, code: int) -> None:
    child = start(command, long_stage(tiny))
    wait_until_on(tiny, child)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(300)
    output = (tiny.root / "output").read_text()
    assert child.exitcode == code, output
    said = " ".join(output.split())
    assert "stopped in stage safety at step" in said
    step = re.search(r"at step (\d+) of 100000; step (\d+) is kept", said)
    assert step is not None and step[1] == step[2], said
    assert "Stored stages of this path: tofu. The same command goes on from there." in said
    (kept,) = (tiny.root / "store" / "checkpoints").iterdir()
    assert kept.name.endswith(f"-{step[1]}")
    assert "Traceback" not in output
    check_no_half_written_run(tiny)


def test_interrupting_between_stages_says_so_too(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_unlearn.cli.main._lightning", interrupted)
    assert main(["fit", "--config", "some.yaml"]) == 130
    assert "stopped; the same command goes on from here." in capsys.readouterr().err
