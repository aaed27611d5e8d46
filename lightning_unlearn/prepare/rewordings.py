"""Further answers to the rows of a stage: paraphrases of the right one, and alternates to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.prepare.calls import Item, Rejected
from lightning_unlearn.prepare.requests import Reply, Sampling
from lightning_unlearn.prepare.tables import Source, read_records

PARAPHRASE_SAMPLING = Sampling(temperature=0.0, max_tokens=512)
ALTERNATE_SAMPLING = Sampling(temperature=1.0, max_tokens=512)
PARAPHRASE = (
    "Write the answer again in other words. Keep every fact, name and number, and about the same "
    "length. Write only the new answer."
)
ALTERNATE = (
    "Write another answer to the question, as plausible as the given one and of about the same "
    "length and style, but with other facts. Write only the new answer."
)


def paraphrase_items(
    source: Source,
    prompt: str = "question",
    answer: str = "answer",
    column: str = "paraphrased_answer",
    attempts: int = 3,
) -> list[Item]:
    """Make an item for every row: the row with its answer in other words.

    Args:
        source: prompts and answers.
        prompt: column of the prompt.
        answer: column of the answer.
        column: that the paraphrase is written to.
        attempts: calls for a row until a paraphrase differs from the answer.

    Raises:
        InputError: rows that can't be used.
    """
    return [
        Item(
            place, _chat(PARAPHRASE, asked, given), _differs(given), _adds(row, column), 1, attempts
        )
        for place, row, asked, given in _rows(source, prompt, answer, column)
    ]


def alternate_items(
    source: Source,
    prompt: str = "question",
    answer: str = "answer",
    column: str = "alternates",
    count: int = 5,
) -> list[Item]:
    """Make an item for every row: the row with several other answers, for AltPO and its like.

    Args:
        source: prompts and answers.
        prompt: column of the prompt.
        answer: column of the answer.
        column: that the list of alternates is written to.
        count: alternates for each row; arXiv 2409.13474 takes 5, at temperature 1.

    Raises:
        InputError: rows that can't be used.
    """
    return [
        Item(
            place,
            _chat(ALTERNATE, asked, given),
            _differs(given),
            _adds(row, column, many=True),
            count,
            3 * count,
        )
        for place, row, asked, given in _rows(source, prompt, answer, column)
    ]


def listed_alternates(
    source: Source,
    texts: Sequence[str],
    prompt: str = "question",
    answer: str = "answer",
    column: str = "alternates",
    count: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Choose alternates from a list, such as ways to say "I don't know"; nothing is generated.

    The choice for a row depends on the seed and its prompt alone.

    Args:
        source: prompts and answers.
        texts: the list.
        prompt: column of the prompt.
        answer: column of the answer.
        column: that the list of alternates is written to.
        count: alternates for each row.
        seed: of the choice.

    Raises:
        InputError: rows that can't be used, or a list that is too short.
    """
    rows = []
    for place, row, asked, given in _rows(source, prompt, answer, column):
        others = [text for text in dict.fromkeys(texts) if text.strip() != given.strip()]
        if len(others) < count:
            raise InputError(
                f"--list: found {len(others)} texts that differ from the answer of {place}, "
                f"expected {count} or more; add texts or lower --count."
            )
        others.sort(key=lambda text: _digest(f"{seed}\0{asked}\0{text}"))
        rows.append({**row, column: others[:count]})
    return rows


def _rows(
    source: Source, prompt: str, answer: str, column: str
) -> list[tuple[str, Mapping[str, Any], str, str]]:
    """Place, all columns, prompt and answer of every row; none of them has the new column."""
    records = read_records(source, [prompt, answer], whole=True)
    if any(record.values.get(column) not in (None, "", []) for record in records):
        raise InputError(
            f"--column: found '{column}', a column that the rows of {source.name} have already, "
            "expected a new name; name another one."
        )
    return [
        (
            record.place,
            record.writable(source),
            record.text(prompt, source),
            record.text(answer, source),
        )
        for record in records
    ]


def _chat(instruction: str, question: str, answer: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": f"Question: {question}\n\nAnswer: {answer}"},
    ]


def _differs(given: str) -> Callable[[Reply], str]:
    plain = " ".join(given.lower().split())

    def accept(reply: Reply) -> str:
        text = reply.text.removeprefix("Answer:").strip()
        if not text or " ".join(text.lower().split()) == plain:
            raise Rejected("the answer was repeated")
        if reply.finish == "length":
            raise Rejected("the limit of tokens cut the answer; raise --max-tokens")
        return text

    return accept


def _adds(
    row: Mapping[str, Any], column: str, many: bool = False
) -> Callable[[list[Any]], dict[str, Any]]:
    return lambda answers: {**row, column: answers if many else answers[0]}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
