"""Compare preparing rows with `datasets.map` in two processes: time, memory, and the same tokens.

Both read a file of JSON lines with prompts and answers, write each row by the chat template, once
up to the assistant header and once with the answer, tokenize both texts, and compute a fingerprint
of the rows. This package works in one process with threads; `datasets.map` gets two processes and
batches of 1000 rows. Sides alternate, each in a process of its own, and only the work after the
imports is timed. The memory is what tokenizing adds to the rows that are read, at its peak.

The tokenizer is that of the demo model; `--tokenizer FOLDER` takes another one with a chat
template. Then this package prepares the same rows again, with their tokens from its cache.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DEMO = str(Path(__file__).parents[1] / "lightning_unlearn" / "demo" / "tiny-llama")
LENGTH = 1024


def write_rows(file: Path, count: int) -> None:
    """Write rows of several sentences of the demo's corpora, in random order."""
    from lightning_unlearn.demo import resolve

    sentences: list[str] = []
    for name in ("tofu", "math", "inst", "safety"):
        rows = map(json.loads, resolve(f"demo:{name}").read_text(encoding="utf-8").splitlines())
        sentences += [text for row in rows for text in row.values() if isinstance(text, str)]
    chance = random.Random(0)
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count):
            question = " ".join(chance.choices(sentences, k=2))
            answer = " ".join(chance.choices(sentences, k=5))
            row = {"question": f"{number}: {question}", "answer": answer}
            stream.write(json.dumps(row) + "\n")


def memory() -> dict[str, int]:
    """Return the memory of this process and its peak, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return {"now": int(found["VmRSS"]) * 1024, "peak": int(found["VmHWM"]) * 1024}


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it has started and ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def forget_peak() -> None:
    """Let the peak of this process begin at its present memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def ours(file: str, tokenizer: Any) -> dict[str, Any]:
    """Prepare the rows with this package."""
    from lightning_unlearn.data.chat import ChatFormat
    from lightning_unlearn.data.examples import data_fingerprint
    from lightning_unlearn.data.rows import read_rows
    from lightning_unlearn.data.stage_rows import encode_rows

    began, used = time.perf_counter(), processor_seconds()
    rows = read_rows(file)
    read = time.perf_counter()
    forget_peak()
    before = memory()["now"]
    form = ChatFormat(tokenizer, LENGTH)
    _, examples = encode_rows(rows, form, file)
    peak = memory()["peak"]
    encoded = time.perf_counter()
    fingerprint = data_fingerprint(examples) + form.fingerprint
    ended = time.perf_counter()
    assert fingerprint
    return {
        "seconds": ended - began,
        "processor": processor_seconds() - used,
        "parts": {"read": read - began, "tokens": encoded - read, "fingerprint": ended - encoded},
        "added": peak - before,
        "arrays": examples.nbytes,
        "tokens": len(examples.ids),
        "digest": hashlib.sha256(examples.ids.tobytes()).hexdigest(),
    }


def theirs(file: str, tokenizer: Any, processes: int) -> dict[str, Any]:
    """Prepare the rows with `datasets.map`."""
    import datasets

    datasets.disable_progress_bars()

    def encode(rows: dict[str, list[str]]) -> dict[str, list[Any]]:
        asked = [[{"role": "user", "content": text}] for text in rows["question"]]
        whole = [
            [*chat, {"role": "assistant", "content": text}]
            for chat, text in zip(asked, rows["answer"], strict=True)
        ]
        prompts = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        texts = tokenizer.apply_chat_template(whole, tokenize=False)
        options = {"add_special_tokens": False, "return_attention_mask": False}
        sizes = [len(ids) for ids in tokenizer(prompts, **options)["input_ids"]]
        ids = tokenizer(texts, **options)["input_ids"]
        return {"ids": [row[:LENGTH] for row in ids], "prompt": sizes}

    with tempfile.TemporaryDirectory() as cache:
        began, used = time.perf_counter(), processor_seconds()
        rows = datasets.load_dataset("json", data_files=file, cache_dir=cache, split="train")
        read = time.perf_counter()
        found = rows.map(
            encode, batched=True, num_proc=processes, remove_columns=["question", "answer"]
        )
        fingerprint = found._fingerprint
        ended, used = time.perf_counter(), processor_seconds() - used
        assert fingerprint and len(found) == len(rows)
        digest = hashlib.sha256()
        tokens = 0
        for batch in found.with_format("numpy").iter(1000):
            ids = np.concatenate(list(batch["ids"])).astype(np.int32)
            digest.update(ids.tobytes())
            tokens += len(ids)
    return {
        "seconds": ended - began,
        "processor": used,
        "parts": {"read": read - began, "tokens": ended - read},
        "tokens": tokens,
        "digest": digest.hexdigest(),
    }


def side(name: str, file: str, given: argparse.Namespace, cache: str = "off") -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", name, "--file", file]
    command += ["--tokenizer", given.tokenizer, "--processes", str(given.processes)]
    environment = {**os.environ, "LIGHTNING_UNLEARN_CACHE": cache}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="of datasets.map")
    parser.add_argument("--tokenizer", default=DEMO, metavar="FOLDER")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print the results."""
    given = read_options()
    if given.side is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
        found = (
            ours(given.file, tokenizer)
            if given.side == "ours"
            else theirs(given.file, tokenizer, given.processes)
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rows.jsonl")
        write_rows(Path(file), given.rows)
        pairs = [
            (side("ours", file, given), side("theirs", file, given)) for _ in range(given.repeats)
        ]
        first, again = (side("ours", file, given, f"{folder}/tokens") for _ in range(2))
        assert first["digest"] == again["digest"] == pairs[0][0]["digest"]
    mine, its = pairs[0]
    print(f"{given.rows} rows, {mine['tokens'] / given.rows:.0f} tokens each ({given.tokenizer})")
    for name, found in (("this package", mine), (f"datasets.map, {given.processes}", its)):
        parts = ", ".join(f"{part} {value:.1f}" for part, value in found["parts"].items())
        print(f"{name}: {found['seconds']:.1f} s ({parts})")
    for name, measure in (("time", "seconds"), ("processor time", "processor")):
        ratios = [a[measure] / b[measure] for a, b in pairs]
        print(
            f"{name}, ours / theirs: median of {len(ratios)} pairwise ratios "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    shares = [a["added"] / a["arrays"] for a, _ in pairs]
    print(
        f"token arrays: {mine['arrays'] / 2**20:.0f} MiB; memory that tokenizing adds / arrays: "
        f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    )
    for name, found in (("writes the cache", first), ("reads the cache", again)):
        parts = ", ".join(f"{part} {value:.1f}" for part, value in found["parts"].items())
        print(f"{name}: {found['seconds']:.1f} s ({parts})")
    if its["digest"] != mine["digest"]:
        # Some templates write more after the end of a turn, which is no part of a label here.
        print(f"tokens differ: ours {mine['tokens']}, theirs {its['tokens']}")


if __name__ == "__main__":
    main()
