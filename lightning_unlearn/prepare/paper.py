"""The four data sets of arXiv 2510.16629, from local copies or the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_unlearn.prepare import refusals, solutions
from lightning_unlearn.prepare.calls import Item
from lightning_unlearn.prepare.jobs import Job
from lightning_unlearn.prepare.tables import (
    Source,
    check_output,
    read_records,
    write_listed,
)

HELDOUT_SHARE, SPLIT_SEED = 0.3, 42


@dataclass(frozen=True)
class Place:
    """Where a data set of the paper comes from.

    Attributes:
        about: what it holds.
        source: name on the hub.
        split: of it.
        subset: of it.
    """

    about: str
    source: str
    split: str = "train"
    subset: str | None = None


PLACES = {
    "skillmix": Place("Instruct-SkillMix", "PrincetonPLI/Instruct-SkillMix-SDA"),
    "tofu": Place("TOFU, all authors", "locuslab/TOFU", subset="full"),
    "gsm8k": Place("GSM8K, training questions", "openai/gsm8k", subset="main"),
    "gsm8k-test": Place("GSM8K, test questions", "openai/gsm8k", "test", "main"),
    "sorry-bench": Place("SORRY-Bench prompts", "sorry-bench/sorry-bench-202503"),
}
# Output, its source, and the columns that become prompt and answer, unchanged.
CONVERTED = {
    "inst.jsonl": ("skillmix", "instruction", "output"),
    "tofu.jsonl": ("tofu", "question", "answer"),
    "math_test.jsonl": ("gsm8k-test", "question", "answer"),
}


def paper_jobs(sources: Mapping[str, str], folder: Path, limit: int | None) -> list[Job]:
    """Make the jobs that need a generator: rewritten solutions and refusals.

    70 % of the prompts become the stage's refusals and the others held-out ones, split as the
    paper's script splits them (`Dataset.train_test_split`, seed 42).

    Args:
        sources: of `PLACES`, by name.
        folder: where the files go.
        limit: only the first so many rows of each.

    Raises:
        InputError: rows that can't be used.
    """
    for name in ("math.jsonl", "safety.jsonl", "safety_heldout.jsonl", *CONVERTED):
        check_output(folder / name)
    math = _source(sources, "gsm8k", limit)
    items = solutions.solution_items(math)
    sampling = solutions.SAMPLING
    jobs = [Job("paper", math, folder / "math.jsonl", items, sampling, {"attempts": 5})]
    sorry = _source(sources, "sorry-bench", limit)
    prompts, excluded = refusals.refusal_items(sorry)
    options: dict[str, Any] = {"label": refusals.LABEL, "attempts": 3}
    for name, chosen in zip(("safety", "safety_heldout"), _split(prompts), strict=True):
        if chosen:
            file = folder / f"{name}.jsonl"
            jobs.append(Job("paper", sorry, file, chosen, refusals.SAMPLING, options, excluded))
    return jobs


def converted(sources: Mapping[str, str], limit: int | None) -> dict[str, list[dict[str, str]]]:
    """Read the data sets that are used as they are; return their rows by name of the output.

    Raises:
        InputError: rows that can't be used.
    """
    return {name: _convert(sources, name, limit) for name in CONVERTED}


def write_converted(
    found: Mapping[str, list[dict[str, str]]],
    sources: Mapping[str, str],
    folder: Path,
    limit: int | None,
) -> list[str]:
    """Write what `converted` has read; return a line on each file."""
    lines = []
    for name, rows in found.items():
        source, prompt, answer = CONVERTED[name]
        about = {"prompt": prompt, "answer": answer}
        write_listed(folder / name, _source(sources, source, limit), rows, about, "paper")
        lines.append(f"Written to {folder / name}: {len(rows)} rows.")
    return lines


def _convert(sources: Mapping[str, str], name: str, limit: int | None) -> list[dict[str, str]]:
    key, prompt, answer = CONVERTED[name]
    source = _source(sources, key, limit)
    return [
        {"question": record.text(prompt, source), "answer": record.text(answer, source)}
        for record in read_records(source, [prompt, answer])
    ]


def _source(sources: Mapping[str, str], name: str, limit: int | None) -> Source:
    """A source: its split and subset are those of the hub, which a file has not."""
    place = PLACES[name]
    source = Source(sources[name], f"--{name}", limit=limit)
    if sources[name] == place.source:
        source = replace(source, split=place.split, subset=place.subset)
    return source


def _split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Training and held-out items; too few to split all train."""
    import datasets

    if len(items) < 4:
        return list(items), []
    numbers = datasets.Dataset.from_dict({"number": list(range(len(items)))})
    parts = numbers.train_test_split(test_size=HELDOUT_SHARE, seed=SPLIT_SEED)
    return (
        [items[number] for number in parts["train"]["number"]],
        [items[number] for number in parts["test"]["number"]],
    )
