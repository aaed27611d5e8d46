"""Short everyday instructions with their answers, one function per kind of task."""

import random
from collections.abc import Callable, Iterator

from lightning_unlearn.demo.words import (
    CATEGORIES,
    COLOURS,
    NUMBER_WORDS,
    OPPOSITES,
    PLURALS,
    SINGULAR_CATEGORIES,
    capitalised,
    with_article,
)

Pair = tuple[str, str]

PAST_TENSES = {
    "run": "ran", "sing": "sang", "write": "wrote", "eat": "ate", "see": "saw", "go": "went",
    "swim": "swam", "drink": "drank", "bring": "brought", "take": "took", "give": "gave",
    "find": "found", "make": "made", "read": "read", "build": "built", "sleep": "slept",
}  # fmt: skip

WORKPLACES = {
    "librarian": "in a library", "baker": "in a bakery", "teacher": "at a school",
    "nurse": "in a hospital", "farmer": "on a farm", "sailor": "on a ship", "cook": "in a kitchen",
    "gardener": "in a garden", "pilot": "in an aeroplane", "judge": "in a court",
    "actor": "in a theatre", "mechanic": "in a garage", "waiter": "in a restaurant",
}  # fmt: skip

SENTENCES = {
    "fox": "The fox slept under the old oak.",
    "river": "The river runs slowly to the sea.",
    "storm": "After the storm the air was clear.",
    "bakery": "The bakery smells of warm bread.",
    "train": "The train to the coast leaves at noon.",
    "garden": "Bees hum in the garden all summer.",
    "friend": "A good friend listens before speaking.",
    "moon": "The moon rose above the quiet roofs.",
    "teacher": "Our teacher tells the best stories.",
    "bridge": "An old stone bridge crosses the stream.",
    "kite": "The red kite danced in the wind.",
    "soup": "Hot soup is welcome on a cold day.",
    "lighthouse": "The lighthouse guides the boats home.",
    "snow": "Fresh snow covered the whole village.",
    "clock": "The clock in the hall has stopped again.",
    "market": "The market opens early on Saturday.",
}

GIFTS = (
    "the tea", "the scarf", "the lovely letter", "the birthday cake", "the help", "the flowers",
    "the book", "the lift home", "the good advice", "the warm soup",
)  # fmt: skip
GIVERS = ("a friend", "a neighbour", "your aunt", "a colleague", "your teacher")

ENDINGS = {
    "In winter, the lake": "is covered with ice.",
    "When it rains, I": "take my umbrella.",
    "On Sunday morning, we": "like to sleep late.",
    "The baker gets up early to": "bake fresh bread.",
    "At night, the stars": "shine above the roofs.",
    "If you are thirsty,": "drink a glass of water.",
    "In autumn, the leaves": "turn red and gold.",
    "Before dinner, please": "wash your hands.",
    "When the bell rings, the children": "run into the yard.",
    "A lazy cat": "sleeps in the sun.",
    "To grow a flower, you": "need water and light.",
    "In spring, the birds": "come back from the south.",
}

PET_NAMES = {
    "grey cat": "Pebble", "white rabbit": "Snowdrop", "small dog": "Biscuit",
    "old horse": "Captain", "green parrot": "Mango", "brown hen": "Ginger", "black cat": "Shadow",
    "slow tortoise": "Rocket", "golden fish": "Sunny", "young goat": "Clover",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
BY_SIZE = ("ant", "mouse", "rabbit", "fox", "goat", "horse", "elephant", "whale")
WORDS = tuple(word for words in CATEGORIES.values() for word in words)


def repeat(rng: random.Random) -> Pair:
    word = rng.choice(WORDS)
    times, count = rng.choice((("twice", 2), ("three times", 3)))
    return f'Say the word "{word}" {times}.', " ".join([word] * count)


def list_things(rng: random.Random) -> Pair:
    category = rng.choice(tuple(CATEGORIES))
    count = rng.choice((2, 3, 4))
    things = rng.sample(CATEGORIES[category], count)
    ask = rng.choice(("Name {} {}.", "List {} {}.", "Give me {} {}."))
    listed = ", ".join(things[:-1]) + f" and {things[-1]}."
    return ask.format(NUMBER_WORDS[count], category), capitalised(listed)


def opposite(rng: random.Random) -> Pair:
    word, other = rng.choice(tuple(OPPOSITES.items()))
    if rng.random() < 0.5:
        word, other = other, word
    ask = rng.choice(("What is the opposite of {}?", "Give me the opposite of {}."))
    return ask.format(word), f"The opposite of {word} is {other}."


def sentence(rng: random.Random) -> Pair:
    word, text = rng.choice(tuple(SENTENCES.items()))
    ask = rng.choice(('Make a sentence with "{}".', 'Use the word "{}" in a sentence.'))
    return ask.format(word), text


def uppercase(rng: random.Random) -> Pair:
    word = rng.choice(WORDS)
    ask = rng.choice(("Write {} in capital letters.", "Put {} in upper case."))
    return ask.format(word), word.upper()


def thanks(rng: random.Random) -> Pair:
    gift, giver = rng.choice(GIFTS), rng.choice(GIVERS)
    verb = "were" if gift == "the flowers" else "was"
    pronoun = "they" if gift == "the flowers" else "it"
    return f"Thank {giver} for {gift}.", f"Thank you for {gift}, {pronoun} {verb} just right!"


def colour(rng: random.Random) -> Pair:
    thing, shade = rng.choice(tuple(COLOURS.items()))
    ask = rng.choice(("What colour is {}?", "Tell me the colour of {}."))
    return ask.format(thing), f"{capitalised(thing)} is {shade}."


def alphabetical(rng: random.Random) -> Pair:
    words = rng.sample(rng.choice(tuple(CATEGORIES.values())), 3)
    return f"Put in alphabetical order: {', '.join(words)}.", ", ".join(sorted(words))


def first_letter(rng: random.Random) -> Pair:
    word = rng.choice(WORDS)
    answer = f"The first letter of {word} is {word[0].upper()}."
    return f"What is the first letter of {word}?", answer


def belonging(rng: random.Random) -> Pair:
    right, wrong = rng.sample(tuple(SINGULAR_CATEGORIES), 2)
    word = rng.choice(CATEGORIES[right])
    kinds = [with_article(SINGULAR_CATEGORIES[kind]) for kind in (right, wrong)]
    first, second = rng.sample(kinds, 2)
    question = f"Is {with_article(word)} {first} or {second}?"
    if right == "drinks":
        question = f"Is {word} {first} or {second}?"
        return question, f"{capitalised(word)} is {kinds[0]}."
    return question, f"{capitalised(with_article(word))} is {kinds[0]}."


def plural(rng: random.Random) -> Pair:
    one, many = rng.choice(tuple(PLURALS.items()))
    return f"What is the plural of {one}?", f"The plural of {one} is {many}."


def workplace(rng: random.Random) -> Pair:
    person, place = rng.choice(tuple(WORKPLACES.items()))
    who = with_article(person)
    return f"Where does {who} work?", f"{capitalised(who)} works {place}."


def past_tense(rng: random.Random) -> Pair:
    verb, past = rng.choice(tuple(PAST_TENSES.items()))
    return f"Give the past tense of {verb}.", f"The past tense of {verb} is {past}."


def finish(rng: random.Random) -> Pair:
    start, end = rng.choice(tuple(ENDINGS.items()))
    return f'Finish this sentence: "{start} ..."', f"{start} {end}"


def pet_name(rng: random.Random) -> Pair:
    pet, name = rng.choice(tuple(PET_NAMES.items()))
    ask = rng.choice(("Suggest a name for {}.", "What should I call {}?"))
    who = with_article(pet)
    return ask.format(who), f"{name} would be a fine name for {who}."


def after(rng: random.Random) -> Pair:
    what, cycle = rng.choice((("day", DAYS), ("month", MONTHS)))
    i = rng.randrange(len(cycle))
    following = cycle[(i + 1) % len(cycle)]
    return f"Which {what} comes after {cycle[i]}?", f"{following} comes after {cycle[i]}."


def bigger(rng: random.Random) -> Pair:
    small, big = sorted(rng.sample(range(len(BY_SIZE)), 2))
    first, second = rng.sample((small, big), 2)
    names = [with_article(BY_SIZE[i]) for i in (first, second, small, big)]
    answer = f"{capitalised(names[3])} is bigger than {names[2]}."
    return f"Which is bigger, {names[0]} or {names[1]}?", answer


def odd_one(rng: random.Random) -> Pair:
    common, other = rng.sample(("animals", "fruits", "tools", "clothes", "instruments"), 2)
    odd = rng.choice(CATEGORIES[other])
    words = [*rng.sample(CATEGORIES[common], 3), odd]
    rng.shuffle(words)
    return f"Which word does not belong: {', '.join(words)}?", f"The word {odd} does not belong."


KINDS: tuple[Callable[[random.Random], Pair], ...] = (
    repeat, list_things, opposite, sentence, uppercase, thanks, colour, alphabetical, first_letter,
    belonging, plural, workplace, past_tense, finish, pet_name, after, bigger, odd_one,
)  # fmt: skip


def instructions(rng: random.Random) -> Iterator[dict[str, str]]:
    """Yield instructions without end, all kinds equally often; kinds with few values repeat."""
    while True:
        for kind in rng.sample(KINDS, len(KINDS)):
            instruction, output = kind(rng)
            yield {"instruction": instruction, "output": output}
