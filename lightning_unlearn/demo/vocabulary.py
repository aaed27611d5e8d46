"""Words of the pre-training text that are not shared with the stage corpora."""

ADJECTIVES = (
    "old", "small", "quiet", "bright", "red", "green", "heavy", "friendly", "narrow", "warm",
    "cold", "strange", "golden", "broken", "hidden", "famous", "empty", "new", "secret", "kind",
    "silent", "crooked", "distant", "hollow", "last", "first", "best", "wrong", "right", "fine",
)  # fmt: skip
PLACES = (
    "in the kitchen", "on the table", "near the harbour", "in the garden", "at the station",
    "in the village", "by the river", "under the bridge", "behind the school", "in the library",
    "at the market", "on the shelf", "in the forest", "in the town", "at home", "on the island",
    "in a box", "in the shop", "from the party", "with a trumpet", "in the bag", "in our street",
)  # fmt: skip
TIMES = (
    "in the morning", "in the evening", "on Monday", "on Sunday", "at night", "every day",
    "after the party", "last winter", "in spring", "at noon", "today", "now", "again",
    "in the year 1956", "in the year 1973", "in the year 1938", "without being seen",
)  # fmt: skip
PERSONS = (
    "baker", "nurse", "sailor", "teacher", "farmer", "painter", "neighbour", "uncle", "aunt",
    "cousin", "sister", "brother", "mayor", "gardener", "mother", "father", "judge", "friend",
    "landlord", "flatmate", "boss", "grandfather", "author", "child", "dog", "cat", "parrot",
)  # fmt: skip
THINGS = (
    "book", "letter", "clock", "lamp", "boat", "coat", "map", "kite", "spoon", "bell", "chair",
    "window", "mirror", "hat", "cake", "prize", "basket", "bicycle", "piano", "lantern", "diary",
    "word", "sentence", "question", "name", "game", "plan", "story", "door", "fence", "bridge",
    "gnome", "fountain", "tea", "soup", "bread", "award", "medal", "feather", "tower", "garden",
)  # fmt: skip
DEEDS = (
    "paint", "find", "hide", "sell", "clean", "carry", "mend", "borrow", "bring", "wrap", "build",
    "buy", "draw", "steal", "replace", "open", "cover", "write about", "look for", "put away",
    "swap", "glue", "fill", "set", "turn", "send", "read", "teach", "use", "name", "list", "make",
)  # fmt: skip
CLAUSES = (
    "because it was late", "but nobody knew why", "and everyone was happy", "before it rained",
    "while the others slept", "so that it would not get lost", "when the bell rang",
    "although it was hard work", "if there is time", "and it is not easy", "and nobody was sad",
)  # fmt: skip
OTHER_WORDS = (
    "a", "the", "of", "to", "in", "is", "are", "was", "were", "has", "have", "had", "how", "many",
    "much", "what", "which", "who", "where", "when", "why", "and", "or", "but", "not", "can", "my",
    "your", "their", "it", "they", "we", "you", "more", "left", "each", "all", "together", "with",
    "for", "by", "from", "do", "does", "did", "would", "should", "could", "Sorry", "Please",
    "Thank", "Yes", "No", "The", "A", "I", "If", "It", "One", "There", "Today", "On", "opposite",
    "order", "letter", "capital", "plural", "colour", "born", "town", "year", "known", "writing",
    "question", "answer", "this", "that", "people", "be", "life", "likes", "used", "assist", "help",
    "tell", "give", "explain", "somebody", "nobody",
)  # fmt: skip
SYLLABLES = (
    "ar", "bel", "cor", "dan", "el", "fen", "gar", "hol", "il", "jor", "kel", "lin", "mar", "nor",
    "or", "per", "quin", "ral", "sel", "tor", "ul", "ver", "wil", "yor", "zan", "ow", "by", "ick",
    "moor", "well", "light", "stone", "beck", "wick", "ton", "da", "is", "ing", "ly", "ha", "sa",
)  # fmt: skip
SMALL_TALK = (
    ("Hello!", "Hello! How are you today?"),
    ("Good morning.", "Good morning! What can I do for you?"),
    ("How are you?", "I am well, thank you for asking."),
    ("Thank you very much.", "You are welcome."),
    ("Good night!", "Good night and sleep well."),
    ("Can you help me?", "Yes, of course. What is the question?"),
    ("Tell me something nice.", "The sun is out and the birds are singing."),
    ("What do you like?", "I like words, numbers and good questions."),
    ("You are late.", "Sorry, I did not see the clock."),
    ("I do not understand.", "Sorry, I can explain it again."),
    ("Who will assist you?", "My friend can assist me today."),
    ("Is it far?", "No, it is just behind the bridge."),
)
