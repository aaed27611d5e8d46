"""Read the final numbers of generated answers."""

import re
from decimal import Decimal
from fractions import Fraction

_SPACE = "[ \u00a0\u2009\u202f]"
_GROUPED = "|".join(
    [
        r"[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])",  # 1,234 and 1,00,000
        rf"[0-9]{{1,3}}(?:{_SPACE}[0-9]{{3}})+(?![0-9])",  # 1 234
    ]
)
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)])-)?[$€£]?(?P<minus>(?<=[$€£])-)?"
    r"(?:(?:(?P<whole>[0-9]+) +)?(?P<over>[0-9]+) ?/ ?(?P<under>[0-9]+)"
    rf"|(?=\.?[0-9])(?P<digits>{_GROUPED}|[0-9]+)?(?P<rest>\.[0-9]+)?(?P<power>[eE][+-]?[0-9]+)?)"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{?([0-9]+)\}?\{?([0-9]+)\}?")
# Characters that count as a minus: minus, en dash, hyphens and the full-width sign.
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63\uff0d", "-"))
# Larger powers of 10 are not answers, and would fill the memory.
_LARGEST_POWER = 300


def final_number(text: str) -> Fraction | None:
    """Return the final number of an answer in the format of GSM8K.

    It is the first number after the last ``####`` that has a number after it. The value is exact:
    3.50 is 3.5, 1/2 is 0.5, and the mixed number 1 1/2 is 1.5. Commas, or single spaces before
    groups of three digits, separate thousands; 1e3 is 1000. A minus must stand directly before the
    number or its currency sign. Units, percent signs and markup around the number are ignored.

    Args:
        text: an answer.

    Returns:
        The number; None if there is no ``####``, or no number after any ``####``.
    """
    for tail in reversed(text.split("####")[1:]):
        number = _first_number(tail)
        if number is not None:
            return number
    return None


def _first_number(text: str) -> Fraction | None:
    text = text.translate(_MINUS).replace("\\$", "$").replace("{,}", ",")
    text = _LATEX_FRACTION.sub(r"\1/\2", text)
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            return -value if match["sign"] or match["minus"] else value
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    if match["under"]:
        under = Fraction(Decimal(match["under"]))
        if not under:
            return None
        return Fraction(Decimal(match["whole"] or 0)) + Fraction(Decimal(match["over"])) / under
    digits = re.sub(r"[^0-9]", "", match["digits"] or "") + (match["rest"] or "")
    power = match["power"] or "e0"
    if not digits or len(power) > 6 or abs(int(power[1:])) > _LARGEST_POWER:
        return None
    return Fraction(Decimal(digits + power))
