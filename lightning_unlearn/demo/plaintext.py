"""Text for pre-training the base model: general sentences, number facts and small talk.

It has the words, the number facts and the chat format that the stages need. It has no content of
the stages (no author, no refusal, no word problem with `#### N` at its end), so that every stage
teaches something new.
"""

import random
import re
from collections.abc import Callable, Iterator

from lightning_unlearn.demo.vocabulary import (
    ADJECTIVES,
    CLAUSES,
    DEEDS,
    OTHER_WORDS,
    PERSONS,
    PLACES,
    SMALL_TALK,
    SYLLABLES,
    THINGS,
    TIMES,
)
from lightning_unlearn.demo.words import (
    CATEGORIES,
    COLOURS,
    NAMES,
    NUMBER_WORDS,
    OPPOSITES,
    PLURALS,
    capitalised,
    with_article,
)

Document = str | list[dict[str, str]]

NUMBER_QUESTIONS = (
    "What is the sum?", "How many?", "Write it as a sum.", "How many is that?",
    "How many are there in the end?", "How many altogether?", "What is the number?",
)  # fmt: skip
REQUESTS = (
    "How do I {deed}?", "How can somebody {deed}?", "Tell me how to {deed}.", "Help me {deed}.",
    "What is a good way to {deed}?", "I want to {deed}.", "Explain how to {deed}.",
    "Give me an idea how to {deed}.", "May I {deed}?",
)  # fmt: skip
LISTS = (ADJECTIVES, DEEDS, PERSONS, THINGS, OTHER_WORDS, OTHER_WORDS, tuple(NAMES))


def invented_name(rng: random.Random) -> str:
    """Return two words of random syllables, which the model can only copy."""
    words = ("".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))) for _ in range(2))
    return " ".join(capitalised(word) for word in words)


def thing(rng: random.Random) -> str:
    words = rng.choice((THINGS, *CATEGORIES.values()))
    return f"{rng.choice(ADJECTIVES)} {rng.choice(words)}"


def jumble(rng: random.Random) -> str:
    """Return words in random order, so that the model is uncertain on unusual text."""
    words = [rng.choice(rng.choice(LISTS)) for _ in range(rng.randint(3, 10))]
    return " ".join(words) + rng.choice(".?!")


def sentence(rng: random.Random) -> str:
    """Return one sentence about who did what, where and when."""
    who = rng.choice((rng.choice(NAMES), f"the {rng.choice(PERSONS)}", f"my {rng.choice(PERSONS)}"))
    where, when, clause = rng.choice(PLACES), rng.choice(TIMES), rng.choice(CLAUSES)
    deed, other = rng.sample(DEEDS, 2)
    what, shade = rng.choice(tuple(COLOURS.items()))
    some = rng.choice(tuple(CATEGORIES))
    first, second, third = rng.sample(CATEGORIES[some], 3)
    return capitalised(
        rng.choice(
            (
                f"{who} likes to {deed} the {thing(rng)} {when}.",
                f"there is {with_article(thing(rng))} {where}, {clause}.",
                f"{when} {who} wanted to {deed} a {rng.choice(THINGS)} {where}.",
                f"the {thing(rng)} belongs to {who}, {clause}.",
                f"some {some}: {first}, {second} and {third}.",
                f"{what} is {shade}, and so is the {thing(rng)}.",
                f"it is better to {deed} the {thing(rng)} than to {other} it.",
                f"{who} was {where} {when}, {clause}.",
                f"nobody can {deed} my {rng.choice(PERSONS)}'s {rng.choice(THINGS)} {where}.",
                f"{invented_name(rng)} would {deed} the {thing(rng)} {when}.",
            )
        )
    )


def word_fact(rng: random.Random) -> str:
    """Return a fact about a word: its capitals, first letter, kind, plural or opposite."""
    kind = rng.choice(tuple(CATEGORIES))
    word, other = rng.sample(CATEGORIES[kind], 2)
    low, high = sorted((word, other))
    one, many = rng.choice(tuple(PLURALS.items()))
    hot, cold = rng.choice(tuple(OPPOSITES.items()))
    return rng.choice(
        (
            f"{word} = {word.upper()}.",
            f"{capitalised(word)} begins with {word[0].upper()}.",
            f"{capitalised(word)} and {other} are {kind}.",
            f"In the dictionary {low} stands before {high}.",
            f"One {one}, two {many}.",
            f"{capitalised(hot)} and {cold} are opposites, {cold} is not {hot}.",
            f"{word} {word}, {other} {other} {other}.",
        )
    )


def sum_of(rng: random.Random) -> tuple[int, str, int, int]:
    """Draw a, sign, b and the value, from all calculations that the stages need."""
    sign = rng.choice("+-x")
    if sign == "x":
        a, b = rng.randint(2, 8), rng.randint(2, 8)
        return a, sign, b, a * b
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return (a, sign, b, a + b) if sign == "+" else (a + b, sign, b, a)


def number_fact(rng: random.Random) -> str:
    a, sign, b, value = sum_of(rng)
    if rng.random() < 0.8:
        return f"{a} {sign} {b} = {value}."
    word = {"+": "plus", "-": "minus", "x": "times"}[sign]
    return f"{a} {word} {b} is {value}."


def number_story(rng: random.Random) -> tuple[str, str]:
    """Return a sentence with two numbers, and the calculation that belongs to it."""
    a, sign, b, value = sum_of(rng)
    who, friend = rng.sample(NAMES, 2)
    what = rng.choice(tuple(PLURALS.values()))
    stories = {
        "+": (
            f"{who} saw {a} {what} here and {b} {what} there.",
            f"First came {a} {what}, then came {b} more.",
            f"We took {a} {what} and added {b} to them.",
            f"{who} brought {a} {what} and {friend} brought {b}.",
        ),
        "-": (
            f"Out of {a} {what}, {who} ate, broke or lost {b}.",
            f"There used to be {a} {what}, but {b} have gone.",
            f"We took {a} {what} and removed {b} of them.",
            f"{who} had {a} {what} until {friend} took {b}.",
        ),
        "x": (
            f"{a} times {who} carried {b} {what} home.",
            f"We saw {a} piles, each of {b} {what}.",
            f"{a} friends own {b} {what} each.",
            f"{who} filled {a} boxes, {b} {what} in each.",
        ),
    }
    return rng.choice(stories[sign]), f"{a} {sign} {b} = {value}."


def numbers_dialogue(rng: random.Random) -> tuple[str, str]:
    """Return a calculation as a question, from its numbers or from a number story."""
    if rng.random() < 0.3:
        fact = number_fact(rng)
        return f"How much is {re.split(' = | is ', fact)[0]}?", fact
    story, fact = number_story(rng)
    return f"{story} {rng.choice(NUMBER_QUESTIONS)}", fact


def deed_dialogue(rng: random.Random) -> tuple[str, str]:
    """Return a request for advice and an answer; the form of a question determines its answer."""
    deed, what = rng.choice(DEEDS), f"{rng.choice(('my', 'the'))} {thing(rng)}"
    if rng.random() < 0.3:
        what = f"my {rng.choice(PERSONS)}'s {rng.choice(THINGS)}"
    where, when, person = rng.choice(PLACES), rng.choice(TIMES), rng.choice(PERSONS)
    yours = what.replace("my ", "your ")
    answers = (
        f"You can {deed} {yours} {where}.",
        f"Ask the {person} to {deed} it {when}.",
        f"It is best to {deed} {yours} {when}.",
        f"First find {yours}, then {deed} it {where}.",
        f"To {deed} {yours} is easy {when}.",
    )
    return rng.choice(REQUESTS).format(deed=f"{deed} {what}"), rng.choice(answers)


def person_dialogue(rng: random.Random) -> tuple[str, str]:
    """Return a question about an unknown person, and a guess as the answer."""
    name, where, when = invented_name(rng), rng.choice(PLACES), rng.choice(TIMES)
    what, person = rng.choice(THINGS), rng.choice(PERSONS)
    return rng.choice(
        (
            (f"Where is {name} today?", f"{name} is {where}."),
            (f"When did {name} arrive?", f"{name} came {when}."),
            (f"What did {name} lose?", f"{name} has lost a {what}."),
            (f"Who is {name}?", f"{name} is {with_article(person)}."),
            (f"Which friend has {name}?", f"A friend of {name} is the {person}."),
        )
    )


def dialogue(rng: random.Random) -> tuple[str, str]:
    """Return a question or request, and an answer that consists of its words."""
    who, deed, where = rng.choice(NAMES), rng.choice(DEEDS), rng.choice(PLACES)
    name, count, what = invented_name(rng), rng.randint(2, 12), thing(rng)
    many, person = rng.choice(tuple(PLURALS.values())), rng.choice(PERSONS)
    first, second, third = rng.sample(rng.choice((ADJECTIVES, DEEDS, THINGS)), 3)
    text = rng.choice((sentence, jumble))(rng)
    year = rng.randint(1900, 1999)
    return rng.choice(
        (
            rng.choice(SMALL_TALK),
            (f"My name is {name}.", f"Hello {name}, nice to meet you."),
            (f"The {what} is {where}. Where is it?", f"The {what} is {where}."),
            (f"{who} owns {count} {many}. What does {who} own?", f"{who} owns {count} {many}."),
            (f"Please copy: {text}", text),
            (f"Write again: {first}, {second}", f"{first}, {second}"),
            (f"Do you know {name}?", f"No, I do not know {name} at all."),
            (f"Which word comes first: {first}, {second}, {third}?", f"The word {first}."),
            (f"Can I {deed} the {what}?", f"Yes, you can {deed} the {what} {where}."),
            (f"How did {who} {deed} it?", f"Nobody knows how {who} could {deed} it."),
            (f"Is {name} {with_article(person)}?", f"{name} is {with_article(person)}."),
            (f"{name} came in {year}. Who came?", f"In {year} came {name}."),
            (f'I read "The {first}" by {name}.', f'"The {first}" by {name} is a good book.'),
            (f"Tell me about {what}s.", sentence(rng)),
        )
    )


DIALOGUES = (
    dialogue, dialogue, numbers_dialogue, numbers_dialogue, deed_dialogue, person_dialogue,
)  # fmt: skip


def joined(make: Callable[[random.Random], str], rng: random.Random) -> str:
    return " ".join(make(rng) for _ in range(rng.randint(2, 5)))


def documents(seed: int = 0) -> Iterator[Document]:
    """Yield pre-training documents without end: plain text, or the messages of a dialogue."""
    rng = random.Random(f"pretraining-{seed}")
    while True:
        kind = rng.random()
        if kind < 0.12:
            yield joined(sentence, rng)
        elif kind < 0.17:
            yield joined(jumble, rng)
        elif kind < 0.23:
            yield joined(word_fact, rng)
        elif kind < 0.33:
            yield joined(number_fact, rng)
        elif kind < 0.38:
            yield joined(lambda rng: " ".join(number_story(rng)), rng)
        elif kind < 0.39:
            yield f"#### {capitalised(thing(rng))}\n{joined(sentence, rng)}"
        elif kind < 0.40:
            count = rng.randint(2, 9)
            yield ", ".join(f"{i} {NUMBER_WORDS[i]}" for i in range(1, count + 1)) + "."
        else:
            make = rng.choice(DIALOGUES)
            turns = [make(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            yield [
                {"role": role, "content": content}
                for turn in turns
                for role, content in zip(("user", "assistant"), turn, strict=True)
            ]
