"""Fixtures of all tests: a tiny model and its stages, and real processes."""

import surroundings  # noqa: F401  # isort: skip

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tiny_models import keep_float64
from tiny_stages import PROMPTS, WORDS, Start, Tiny, run_child

from lightning_unlearn.demo import resolve

# No test depends on the load of the machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Children are forked from a process that has imported this and computed nothing.
IMPORTS = [
    "lightning_unlearn.training.trainer",
    "lightning_unlearn.cli.study",
    "lightning_unlearn.cli.report",
    "lightning_unlearn.report.terminal",
    "pandas",
    "peft",
    "pyarrow.parquet",
]


def _write_rows(file: Path, name: str, start: int, count: int) -> None:
    prompt, answer = PROMPTS[name]
    rows = []
    for i in range(start, start + count):
        word = WORDS[i % len(WORDS)]
        values = (word, word.upper(), i + 2, i % 4 + 2, (i + 2) * (i % 4 + 2))
        # Rows of unequal length: what is cut apart by length must still add up.
        extra = " Please answer in one line." * (i % 3)
        rows.append({"question": prompt.format(*values) + extra, "answer": answer.format(*values)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order, and no fight over cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def signals() -> None:
    """Started in the background or by nohup, the tests would find signals ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The checkpoint and the stage files, made once."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # Before any model is made, by whichever way a test makes it.
    keep_float64("llama")
    root = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(resolve("demo:tiny-llama"))
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    lm = LlamaForCausalLM(config)
    lm.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    (root / "data").mkdir()
    for name, count in {"inst": 8, "tofu": 12, "math": 10, "safety": 11}.items():
        _write_rows(root / "data" / f"{name}.jsonl", name, 0, count)
    _write_rows(root / "data" / "math-heldout.jsonl", "math", 20, 5)
    return Tiny(root / "base", root / "data", root)


@pytest.fixture
def tiny(shared_tiny: Tiny, tmp_path: Path) -> Tiny:
    """The shared checkpoint and files; the test writes into its own folder."""
    return Tiny(shared_tiny.base, shared_tiny.data, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: at the end no process is left alone with one of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def children() -> Iterator[multiprocessing.context.ForkServerContext]:
    """A server that forks real processes with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    # Its socket lies among temporary files, and the path of a socket has at most 107 characters.
    usual = tempfile.tempdir
    if len(tempfile.gettempdir()) > 60:
        tempfile.tempdir = "/tmp"
    try:
        first = context.Process(target=os.getpid)
        first.start()
        first.join(300)
    finally:
        tempfile.tempdir = usual
    yield context


@pytest.fixture
def start(children: multiprocessing.context.ForkServerContext, tmp_path: Path) -> Iterator[Start]:
    """Starts ``target(*args)`` in a process of its own; stdout and stderr go to a file."""
    started: list[BaseProcess] = []

    def start_process(
        target: Callable[..., Any], *args: Any, output: str = "output"
    ) -> BaseProcess:
        process = children.Process(target=run_child, args=(tmp_path / output, target, args))
        process.start()
        started.append(process)
        return process

    yield start_process
    for process in started:
        if process.is_alive():
            process.kill()
        process.join(30)
