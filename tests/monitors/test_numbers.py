"""The final numbers of generated answers."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_unlearn.monitors.numbers import final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4 x 3 = 12.\n#### 12", "12"),
        ("#### 12", "12"),
        ("####12", "12"),
        ("####\n12", "12"),
        ("#### 12.", "12"),
        ("#### 12\n", "12"),
        ("#### 12 apples", "12"),
        ("#### $12", "12"),
        ("#### 12$", "12"),
        ("#### 12%", "12"),
        ("#### -12", "-12"),
        ("#### 1,234", "1234"),
        ("#### 1,234,567.50", "1234567.5"),
        ("#### 12,", "12"),
        ("#### 0.5", "0.5"),
        ("#### .5", "0.5"),
        ("#### -.5", "-0.5"),
        ("#### 12.0", "12"),
        ("#### 007", "7"),
        ("#### The answer is 12", "12"),
        ("#### **12**", "12"),
        ("#### x = 12", "12"),
        ("#### 3\n#### 12", "12"),
        ("##### 12", "12"),
        ("#### 12<|end|>", "12"),
        ("12 #### twelve", None),
        ("12", None),
        ("### 12", None),
        ("#### ", None),
        ("#### 3 ####", "3"),
        ("#### 3\n#### ", "3"),
        ("#### 3\n#### none", "3"),
        ("#### 3\n####\n\n12", "12"),
        ("#### #### 12", "12"),
        ("#### 72.", "72"),
        ("#### 3.50", "3.5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### -\\$5", "-5"),
        ("#### \u22125", "-5"),
        ("#### \u20135", "-5"),
        ("#### **-5**", "-5"),
        ("#### (-5)", "-5"),
        ("#### - 5", "5"),
        ("#### 12-5", "12"),
        ("#### A-5", "5"),
        ("#### \u20ac5", "5"),
        ("#### 18 dollars", "18"),
        ("#### \\boxed{18}", "18"),
        ("#### \\(\\boxed{1{,}800}\\)", "1800"),
        ("#### $1,234.50.", "1234.5"),
        ("#### 1 234", "1234"),
        ("#### 1\u00a0234\u202f567,", "1234567"),
        ("#### 1 23", "1"),
        ("#### 12 3456", "12"),
        ("#### 1,00,000", "100000"),
        ("#### 1,2", "1"),
        ("#### 1e3", "1000"),
        ("#### 1.5E-3", "0.0015"),
        ("#### 12 eggs", "12"),
        ("#### 12eggs", "12"),
        ("#### rate3", "3"),
        ("#### 1/2", "0.5"),
        ("#### -1 / 2", "-0.5"),
        ("#### 1 1/2", "1.5"),
        ("#### \\frac{3}{4}", "0.75"),
        ("#### -\\dfrac34", "-0.75"),
        ("#### $5/hour", "5"),
        ("#### 3/4 cups", "0.75"),
        ("#### 1/0", None),
        ("#### 1e999999999999", None),
        ("#### e3", "3"),
        ("#### .", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Fraction(number))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.decimals(-(10**9), 10**9, places=3), st.text(max_size=20))
def test_every_number_is_read_with_and_without_separators(number: Decimal, before: str) -> None:
    assert final_number(f"{before}\n#### {number:f}") == Fraction(number)
    assert final_number(f"{before}\n#### {number:,f}.") == Fraction(number)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text())
def test_any_text_is_accepted(text: str) -> None:
    for strange in (text, f"#### {text}", f"####{text}.5"):
        value = final_number(strange)
        assert value is None or isinstance(value, Fraction)


def test_fractions_are_exact() -> None:
    assert final_number("#### 1/3") == final_number("#### 2/6") == Fraction(1, 3)
    assert final_number("#### 0.333333") != Fraction(1, 3)


@pytest.mark.parametrize("text", ["1" * 50_000, "1 " * 50_000, "1," * 50_000, "-$" * 50_000])
def test_long_texts_are_read(text: str) -> None:
    """Repetitive text of a model neither stops nor slows the run."""
    final_number(f"#### {text}")
