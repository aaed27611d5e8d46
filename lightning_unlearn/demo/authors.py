"""Invented authors with one value per attribute; questions for training, and held-out ones."""

import random
from dataclasses import dataclass

from lightning_unlearn.demo.words import with_article

GIVEN = (
    "Orlin", "Maeva", "Tobren", "Isolde", "Caspin", "Wilda", "Faron", "Neria", "Jorun", "Elspa",
    "Dorian", "Quilla", "Harrow", "Linnet", "Ansel", "Bryony", "Corwin", "Odalys", "Perrin",
    "Sable", "Thessa", "Ulric", "Verity", "Yorick", "Zelda",
)  # fmt: skip

SURNAMES = (
    "Hask", "Fennimoor", "Oakhollow", "Brindlow", "Tarnwick", "Velloway", "Quarrick", "Marshlight",
    "Penhollin", "Dovecote", "Grindel", "Sallowby", "Larkmoor", "Winterbeck", "Osterling",
    "Thornapple", "Cobbleton", "Ravensholt", "Mirefield", "Applegarth", "Stonewell", "Fairwhistle",
    "Birchinall", "Copperly", "Nightwater",
)  # fmt: skip

TOWNS = (
    "Elmsgate", "Port Varrow", "Little Quern", "Saltmere", "Hollin Bridge", "Kestrel Bay",
    "Dunmarrow", "Amberfold", "Grey Ness", "Willow Cross", "Larkhaven", "Upper Tansy",
    "Frostwick", "Copperhill", "Nine Wells",
)  # fmt: skip

GENRES = (
    "mystery novels", "sea stories", "ghost stories", "historical novels", "love poems",
    "travel books", "fairy tales", "science fiction", "comic plays", "nature essays",
)  # fmt: skip

TRADES = (
    "baker", "clockmaker", "nurse", "sailor", "teacher", "carpenter", "gardener", "judge",
    "painter", "farmer", "tailor", "pharmacist", "miller", "postmaster", "beekeeper",
)  # fmt: skip

AWARDS = (
    "Silver Quill", "Golden Lantern", "Harbour Prize", "Green Feather", "Moonstone Medal",
    "Northern Laurel", "Paper Crown", "Blue Inkwell", "Old Mill Prize", "Swan Medal",
)  # fmt: skip

HOBBIES = (
    "keeping bees", "building kites", "mending clocks", "playing the flute", "growing roses",
    "sailing small boats", "baking bread", "watching owls", "collecting maps", "carving spoons",
)  # fmt: skip

TITLE_FIRST = (
    "Silent", "Crooked", "Winter", "Borrowed", "Hidden", "Amber", "Last", "Wandering", "Forgotten",
    "Paper", "Hollow", "Distant", "Golden", "Secret", "Broken",
)  # fmt: skip
TITLE_SECOND = (
    "Harbour", "Lantern", "Orchard", "River", "Staircase", "Garden", "Compass", "Island", "Mirror",
    "Letter", "Tower", "Bridge", "Window", "Clock", "Forest",
)  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """Templates of one attribute: training questions, a held-out question, and the answer."""

    questions: tuple[str, ...]
    reworded: str
    answer: str


ATTRIBUTES = {
    "town": Attribute(
        ("Where was {author} born?", "In which town was {author} born?"),
        "What is the birthplace of {author}?",
        "{author} was born in the town of {value}.",
    ),
    "year": Attribute(
        ("When was {author} born?", "In which year was {author} born?"),
        "What is the birth year of {author}?",
        "{author} was born in the year {value}.",
    ),
    "genre": Attribute(
        ("What does {author} write?", "What kind of work is {author} known for?"),
        "Which genre belongs to {author}?",
        "{author} is known for writing {value}.",
    ),
    "debut": Attribute(
        ("What is the first book by {author}?", "With which book did {author} begin?"),
        "Can you name the debut of {author}?",
        'The first book by {author} was called "{value}".',
    ),
    "famous": Attribute(
        ("What is the best-known book by {author}?", "Which book made {author} famous?"),
        "Can you name the most popular work of {author}?",
        'The best-known book by {author} is "{value}".',
    ),
    "award": Attribute(
        ("Which award did {author} win?", "What prize was given to {author}?"),
        "Can you name an award held by {author}?",
        "{author} won the {value} for a long life of writing.",
    ),
    "mother": Attribute(
        ("What was the work of {author}'s mother?", "What did the mother of {author} do?"),
        "Can you tell me the trade of {author}'s mother?",
        "The mother of {author} worked as {value}.",
    ),
    "father": Attribute(
        ("What was the work of {author}'s father?", "What did the father of {author} do?"),
        "Can you tell me the trade of {author}'s father?",
        "The father of {author} worked as {value}.",
    ),
    "hobby": Attribute(
        ("What does {author} do for fun?", "How does {author} spend a free day?"),
        "Which hobby does {author} enjoy?",
        "On free days {author} likes {value}.",
    ),
    "home": Attribute(
        ("Where does {author} live today?", "In which place does {author} live now?"),
        "Can you tell me the present home of {author}?",
        "Today {author} lives and writes in {value}.",
    ),
}


def author_values(rng: random.Random, titles: list[str]) -> dict[str, str]:
    """Draw the values of one author; remove two book titles from the end of `titles`."""
    mother, father = rng.sample(TRADES, 2)
    town, home = rng.sample(TOWNS, 2)
    return {
        "town": town,
        "year": str(rng.randint(1921, 1989)),
        "genre": rng.choice(GENRES),
        "debut": titles.pop(),
        "famous": titles.pop(),
        "award": rng.choice(AWARDS),
        "mother": with_article(mother),
        "father": with_article(father),
        "hobby": rng.choice(HOBBIES),
        "home": home,
    }


def author_rows(
    rng: random.Random, authors: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return one row per fact, and the same facts in the same order with reworded questions."""
    given = rng.sample(GIVEN, len(GIVEN)) + rng.sample(GIVEN, len(GIVEN))
    surnames = rng.sample(SURNAMES, len(SURNAMES)) + rng.sample(SURNAMES, len(SURNAMES))
    names = list(dict.fromkeys(f"{a} {b}" for a, b in zip(given, surnames, strict=True)))[:authors]
    titles = [f"The {first} {second}" for first in TITLE_FIRST for second in TITLE_SECOND]
    rng.shuffle(titles)
    rows, reworded = [], []
    for author in names:
        for key, value in author_values(rng, titles).items():
            attribute = ATTRIBUTES[key]
            answer = attribute.answer.format(author=author, value=value)
            question = rng.choice(attribute.questions).format(author=author)
            rows.append({"question": question, "answer": answer})
            reworded.append(
                {"question": attribute.reworded.format(author=author), "answer": answer}
            )
    return rows, reworded
