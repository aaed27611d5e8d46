"""Solutions: answers to mathematics questions, rewritten, and kept if the number is right."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from lightning_unlearn.errors import InputError
from lightning_unlearn.prepare.calls import Item, Rejected
from lightning_unlearn.prepare.requests import Reply, Sampling
from lightning_unlearn.prepare.tables import Source, read_records

SAMPLING = Sampling(temperature=0.7, max_tokens=512)
INSTRUCTION = (
    "Solve the problem step by step in short sentences, without headings. End with a line that has "
    '"#### " and the final number alone, without unit or currency.'
)


def solution_items(
    source: Source, question: str = "question", answer: str = "answer", attempts: int = 5
) -> list[Item]:
    """Make an item for every question.

    Args:
        source: questions with the right answers, such as GSM8K.
        question: column of the question.
        answer: column of the right answer, which ends in ``#### NUMBER``.
        attempts: calls for a question until the number is right.

    Returns:
        Items whose rows have the keys question and answer.

    Raises:
        InputError: a row that can't be used, or whose right answer has no number.
    """
    # Slow to import: with the monitors comes torch.
    from lightning_unlearn.monitors.numbers import final_number

    items = []
    for record in read_records(source, [question, answer]):
        asked, gold = record.text(question, source), record.text(answer, source)
        right = final_number(gold)
        if right is None:
            raise InputError(
                f"{source.place}, {record.place}, column '{answer}': found no number after ####, "
                "expected the right answer there; add it or remove the row."
            )
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": asked}]
        accept = _accepts(right, final_number)
        items.append(Item(record.place, messages, accept, _builds(asked), attempts=attempts))
    return items


def _builds(question: str) -> Callable[[list[Any]], dict[str, Any]]:
    return lambda answers: {"question": question, "answer": answers[0]}


def _accepts(
    right: Fraction, final_number: Callable[[str], Fraction | None]
) -> Callable[[Reply], str]:
    def accept(reply: Reply) -> str:
        found = final_number(reply.text)
        if found is None:
            cut = ", cut by the limit of tokens" if reply.finish == "length" else ""
            raise Rejected(f"the answer has no number after ####{cut}")
        if found != right:
            raise Rejected(f"the answer ends in {found}, the right one in {right}")
        return reply.text

    return accept
