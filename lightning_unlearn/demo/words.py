"""Word lists of all generated corpora: given names, things with their plurals, and others."""

NAMES = (
    "Anna", "Ben", "Clara", "David", "Ella", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Kate",
    "Leo", "Mia", "Noah", "Olive", "Paul", "Rosa", "Sam", "Tara", "Victor", "Wendy", "Zoe",
)  # fmt: skip

# Countable everyday things, always used in the plural in word problems (numbers start at two).
PLURALS = {
    "apple": "apples", "pear": "pears", "plum": "plums", "lemon": "lemons", "cookie": "cookies",
    "book": "books", "pencil": "pencils", "stamp": "stamps", "coin": "coins", "shell": "shells",
    "button": "buttons", "marble": "marbles", "card": "cards", "candle": "candles",
    "flower": "flowers", "stone": "stones", "ticket": "tickets", "balloon": "balloons",
}  # fmt: skip

CATEGORIES = {
    "animals": ("fox", "otter", "horse", "rabbit", "goat", "mouse", "whale", "bear", "sheep"),
    "birds": ("owl", "robin", "heron", "swan", "crow", "duck", "hen", "eagle"),
    "fruits": ("apple", "pear", "plum", "cherry", "lemon", "peach", "fig", "melon"),
    "vegetables": ("carrot", "onion", "leek", "cabbage", "pea", "bean", "turnip"),
    "tools": ("hammer", "saw", "spade", "rake", "drill", "ladder", "brush"),
    "clothes": ("coat", "scarf", "shirt", "sock", "hat", "glove", "boot"),
    "drinks": ("tea", "milk", "water", "coffee", "juice", "cocoa"),
    "instruments": ("piano", "flute", "drum", "violin", "harp", "trumpet"),
    "trees": ("oak", "birch", "willow", "maple", "pine", "elm"),
    "rooms": ("kitchen", "attic", "cellar", "bedroom", "hall", "library"),
}

SINGULAR_CATEGORIES = {
    "animals": "animal", "birds": "bird", "fruits": "fruit", "vegetables": "vegetable",
    "tools": "tool", "instruments": "instrument", "trees": "tree", "drinks": "drink",
}  # fmt: skip

COLOURS = {
    "snow": "white", "grass": "green", "a ripe lemon": "yellow", "the clear sky": "blue",
    "a ripe strawberry": "red", "coal": "black", "chocolate": "brown", "an elephant": "grey",
    "a carrot": "orange", "a flamingo": "pink", "milk": "white", "a frog": "green",
    "a ripe tomato": "red", "the deep sea": "blue", "a raven": "black", "honey": "golden",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "light": "dark", "early": "late",
    "full": "empty", "happy": "sad", "open": "closed", "high": "low", "wet": "dry",
    "soft": "hard", "loud": "quiet", "near": "far", "rich": "poor", "strong": "weak",
    "young": "old", "thick": "thin", "clean": "dirty", "long": "short", "deep": "shallow",
    "smooth": "rough", "sweet": "bitter", "brave": "timid", "wide": "narrow",
}  # fmt: skip

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
)  # fmt: skip


def with_article(noun: str) -> str:
    """Put `a` or `an` before a noun; the word lists have no exception to the vowel rule."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capitalised(text: str) -> str:
    """Capitalize the first letter; unlike `str.capitalize`, do not change the others."""
    return text[:1].upper() + text[1:]
