"""Word problems of one step; an answer has the calculation and, on its own line, `#### N`."""

import random
from collections.abc import Iterator

from lightning_unlearn.demo.words import NAMES, PLURALS

SIGNS = {"add": "+", "subtract": "-", "multiply": "x"}

TEMPLATES = {
    "add": (
        "{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?",
        "{name} buys {a} {things} on Monday and {b} {things} on Tuesday. "
        "How many {things} is that in all?",
        "There are {a} {things} in a box and {b} {things} in a bag. "
        "How many {things} are there together?",
        "{name} has {a} {things}. {other} has {b} {things}. How many do they have together?",
        "A shelf holds {a} {things}. {name} puts {b} more on it. "
        "How many {things} are on the shelf?",
        "{name} counted {a} {things} in the morning and {b} in the evening. "
        "What is the total number of {things}?",
        "{other} gives {b} {things} to {name}, who already had {a}. "
        "How many {things} does {name} have?",
    ),
    "subtract": (
        "{name} has {a} {things} and loses {b} of them. How many {things} are left?",
        "There were {a} {things} on the table. {name} took {b} away. "
        "How many {things} remain on the table?",
        "{name} had {a} {things} and gave {b} to {other}. "
        "How many {things} does {name} still have?",
        "A shop had {a} {things} and sold {b}. How many {things} are left in the shop?",
        "{name} wants {a} {things} but has only {b}. How many {things} are missing?",
        "{name} has {a} {things}. {other} has {b}. How many more {things} does {name} have?",
        "Of the {a} {things} in the basket, {b} belong to {other}. "
        "How many {things} belong to somebody else?",
    ),
    "multiply": (
        "{name} has {a} bags with {b} {things} in each bag. How many {things} is that?",
        "There are {a} rows of {b} {things}. How many {things} are there in the rows?",
        "{name} packs {b} {things} into each of {a} boxes. How many {things} are packed?",
        "Each of {a} children brings {b} {things}. How many {things} do the children bring?",
        "{name} collects {b} {things} every day. How many {things} is that after {a} days?",
        "One basket holds {b} {things}. How many {things} do {a} baskets hold?",
    ),
}


def result(operation: str, a: int, b: int) -> int:
    """Return `a + b`, `a - b` or `a x b`."""
    return {"add": a + b, "subtract": a - b, "multiply": a * b}[operation]


def numbers(rng: random.Random, operation: str) -> tuple[int, int]:
    """Draw two numbers of at least two whose result is at least two and at most 40."""
    if operation == "multiply":
        return rng.randint(2, 5), rng.randint(2, 8)
    if operation == "add":
        return rng.randint(2, 12), rng.randint(2, 12)
    a = rng.randint(5, 20)
    return a, rng.randint(2, min(a - 2, 12))


def word_problems(
    rng: random.Random,
) -> Iterator[tuple[tuple[str, int, int], dict[str, str]]]:
    """Yield pairs without end: template and numbers, and the row generated from them.

    With the first value, the caller excludes the combination of a held-out row from the training
    rows. Excluding equal strings would not be enough: with other names it is the same problem.
    """
    while True:
        operation = rng.choice(tuple(TEMPLATES))
        template = rng.choice(TEMPLATES[operation])
        a, b = numbers(rng, operation)
        name, other = rng.sample(NAMES, 2)
        things = rng.choice(tuple(PLURALS.values()))
        question = template.format(name=name, other=other, things=things, a=a, b=b)
        value = result(operation, a, b)
        answer = f"{a} {SIGNS[operation]} {b} = {value}.\n#### {value}"
        yield (template, a, b), {"question": question, "answer": answer}
