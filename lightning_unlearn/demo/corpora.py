"""Generate the embedded data files from a seed, without any file or download."""

import random
from collections.abc import Iterable

from lightning_unlearn.demo.arithmetic import word_problems
from lightning_unlearn.demo.authors import author_rows
from lightning_unlearn.demo.depth import depth_corpora
from lightning_unlearn.demo.instructions import instructions
from lightning_unlearn.demo.mischief import HELD_OUT, TRAINING, refusals

Row = dict[str, str]

TRAINING_ROWS = 480
HELD_OUT_ROWS = 80
AUTHORS = 48


def take(rows: Iterable[Row], count: int, seen: set[str]) -> list[Row]:
    """Return the first `count` rows whose first column is not in `seen`; add it to `seen`."""
    taken: list[Row] = []
    for row in rows:
        prompt = next(iter(row.values()))
        if prompt not in seen:
            seen.add(prompt)
            taken.append(row)
        if len(taken) == count:
            return taken
    raise AssertionError(f"only {len(taken)} distinct rows of the {count} wanted")


def instruction_corpus(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Return training and held-out instructions with unique prompts."""
    seen: set[str] = set()
    rows = take(instructions(rng), TRAINING_ROWS + HELD_OUT_ROWS, seen)
    rng.shuffle(rows)
    return rows[HELD_OUT_ROWS:], rows[:HELD_OUT_ROWS]


def author_corpus(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Return all facts about the authors, and some of the facts with reworded questions."""
    rows, reworded = author_rows(rng, AUTHORS)
    rng.shuffle(rows)
    return rows, rng.sample(reworded, HELD_OUT_ROWS)


def arithmetic_corpus(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Return word problems; no held-out pair of template and numbers occurs in training."""
    stream = word_problems(rng)
    held_out: dict[tuple[str, int, int], Row] = {}
    while len(held_out) < HELD_OUT_ROWS:
        key, row = next(stream)
        held_out.setdefault(key, row)
    others = (row for key, row in stream if key not in held_out)
    return take(others, TRAINING_ROWS, set()), list(held_out.values())


def refusal_corpus(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Return refusals; training has no variant of the mischief in held-out prompts."""
    corpora = []
    for schemes, count in ((TRAINING, TRAINING_ROWS), (HELD_OUT, HELD_OUT_ROWS)):
        rows = list(refusals(schemes))
        rng.shuffle(rows)
        corpora.append(take(rows, count, set()))
    return corpora[0], corpora[1]


def corpora(seed: int = 0) -> dict[str, list[Row]]:
    """Return training and held-out rows of the stages by file stem; equal seeds give equal rows.

    The tokenizer is trained on these rows, so one more or one less row changes the checkpoint.

    Columns: `instruction`, `output` (inst); `question`, `answer` (tofu, math);
    `prompt`, `response` (safety).
    """
    files: dict[str, list[Row]] = {}
    for stem, make in (
        ("inst", instruction_corpus),
        ("tofu", author_corpus),
        ("math", arithmetic_corpus),
        ("safety", refusal_corpus),
    ):
        rows, held_out = make(random.Random(f"{stem}-{seed}"))
        files[stem] = rows
        files[f"{stem}-heldout"] = held_out
    return files


def embedded(seed: int = 0) -> dict[str, list[Row]]:
    """Return the rows of every embedded data file by its stem."""
    return corpora(seed) | depth_corpora(seed)
