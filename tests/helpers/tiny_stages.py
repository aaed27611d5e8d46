"""A tiny model and tiny stages, on which a whole path trains in a second; kills at each change."""

import copy
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from tiny_models import keep_float64

from lightning_unlearn import CausalLM, LoRA, Recipe, Stage, StagedDataModule, StagedTrainer

PROMPTS = {
    "inst": ("Write {0} in capital letters.", "{1}"),
    "tofu": ("Where was {1} born?", "{1} was born in the town of Port {0}."),
    "math": ("There are {2} rows of {3} {0}. How many are there?", "{2} x {3} = {4}.\n#### {4}"),
    "safety": ("Tell me how to steal a {0}.", "Sorry, I can not assist you with this question."),
}


WORDS = ("shell", "pencil", "melon", "clock", "horse", "apple", "letter", "river", "garden")


WATCHED = [
    {"class_path": "LabelLikelihood", "init_args": {"every_n_steps": 2, "limit": 4}},
    {"class_path": "AnswerLikelihood", "init_args": {"every_n_steps": 2}},
]


@dataclass(frozen=True)
class Tiny:
    """What tests build runs from; plain values, so that a child process can be given one.

    Attributes:
        base: folder of a random Llama of about 50 thousand parameters.
        data: folder of the stage files.
        root: folder in which this test writes.
    """

    base: Path
    data: Path
    root: Path

    def stages(self, **changes: Any) -> dict[str, Stage]:
        """Four stages of 8 to 12 rows; `changes` apply to all of them."""
        common: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 5e-3, **changes}
        stages = {
            name: Stage(source=str(self.data / f"{name}.jsonl"), **common) for name in PROMPTS
        }
        stages["math"].heldout = str(self.data / "math-heldout.jsonl")
        return stages

    def module(self, **changes: Any) -> CausalLM:
        """A module with LoRA of rank 4."""
        for family in ("llama", "qwen2"):
            keep_float64(family)
        return CausalLM(**{"base": str(self.base), "lora": LoRA(rank=4, alpha=8), **changes})

    def datamodule(self, **changes: Any) -> StagedDataModule:
        """The stages, safety to be forgotten, three steps of unlearning."""
        given: dict[str, Any] = {
            "stages": self.stages(),
            "forget": "safety",
            "unlearn": Recipe(lr=2e-3, epochs=1, batch_size=4),
        }
        return StagedDataModule(**{**given, **changes})

    def trainer(self, callbacks: list[Callback] | None = None, **changes: Any) -> StagedTrainer:
        """A trainer that writes into `root`."""
        given: dict[str, Any] = {
            "store": str(self.root / "store"),
            "default_root_dir": str(self.root / "runs"),
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "logger": False,
            "callbacks": callbacks,
        }
        return StagedTrainer(**{**given, **changes})

    def fit(self, monitors: list[Any] | None = None, **trainer: Any) -> dict[str, Any]:
        """The same as a fit configuration, for a study; monitors as in YAML."""
        stages = {name: asdict(stage) for name, stage in self.stages().items()}
        return {
            "trainer": {
                "store": str(self.root / "store"),
                "default_root_dir": str(self.root / "study"),
                "accelerator": "cpu",
                "devices": 1,
                "enable_progress_bar": False,
                "logger": False,
                # A copy: who adds to it must not add to that of other tests.
                "callbacks": copy.deepcopy(WATCHED if monitors is None else monitors),
                **trainer,
            },
            "model": {"base": str(self.base), "lora": {"rank": 4, "alpha": 8}},
            "data": {
                "forget": "safety",
                "stages": json.loads(json.dumps(stages)),
                "unlearn": {"lr": 2e-3, "epochs": 1, "batch_size": 4},
            },
        }

    def below(self, name: str) -> "Tiny":
        """The same, writing into a folder inside `root`."""
        return Tiny(self.base, self.data, self.root / name)

    def settings(self) -> str:
        """The fields as JSON, for a script."""
        return json.dumps({name: str(value) for name, value in asdict(self).items()})


def digests(folder: Path, *parts: str) -> dict[str, str]:
    """Hash of every file in the named parts of a folder, by path."""
    files = [f for part in parts for f in [folder / part, *(folder / part).rglob("*")]]
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.is_file()
    }


def results(run: Path) -> dict[str, str]:
    """Hashes of all that two equal runs share: adapters, records, history."""
    found = digests(
        run, "learn", "unlearn", "records.parquet", "examples.parquet", "training.parquet"
    )
    assert "learn/adapter_model.safetensors" in found or "learn/model.safetensors" in found
    return found


Start = Callable[..., BaseProcess]


def count_changes(folder: Path, found: Callable[[int, str], None]) -> None:
    """From now on, call ``found(number, path)`` before each change in a folder.

    A change is a file opened for writing, or a file or folder that is made, moved or removed. So
    a process can be killed at each state that its files go through, on slow machines and fast ones.
    Notes of progress do not count: how many there are depends on the clock.

    Args:
        folder: it and all below it.
        found: gets the number of the change from 1, and what is changed.
    """
    writing, number = os.O_WRONLY | os.O_RDWR, 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal number
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            return
        if event == "open" and not (given[2] or 0) & writing:
            return
        path = given[1 if event == "os.rename" else 0]
        if not isinstance(path, (str, os.PathLike)) or "/status/" in str(path):
            return
        if str(path).startswith(str(folder)):
            number += 1
            found(number, str(path))

    sys.addaudithook(hook)


def dies_at(change: int | str, folder: Path, target: Callable[..., Any], *args: Any) -> None:
    """For a child process: call ``target(*args)``, and be killed before a change in a folder.

    Args:
        change: its number from 1, or how the path of what is changed ends.
        folder: it and all below it.
        target: what the process does.
        args: its arguments.
    """

    def found(number: int, path: str) -> None:
        if number == change or (isinstance(change, str) and path.endswith(change)):
            os.kill(os.getpid(), signal.SIGKILL)

    count_changes(folder, found)
    target(*args)


def told_changes(told: Path, folder: Path, target: Callable[..., Any], *args: Any) -> None:
    """For a child process: call ``target(*args)``, and write into a file how many changes it made.

    Args:
        told: the file.
        folder: where changes count.
        target: what the process does.
        args: its arguments.
    """
    last = [0]
    count_changes(folder, lambda number, path: last.__setitem__(0, number))
    target(*args)
    told.write_text(str(last[0]))


def run_child(output: Path, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """In a process of its own: call a function, with what it prints in a file.

    Args:
        output: the file.
        target: the function.
        args: its arguments.
    """
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        target(*args)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
