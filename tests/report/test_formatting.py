"""Numbers as text."""

import math

import pytest

from lightning_unlearn.report.formatting import short_number, short_range


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00672831, "0.00673"),
        (2.5, "2.5"),
        (1234.5, "1234"),
        (-99950.0, "-99950"),
        (2.1e-7, "2.1e-7"),
        (1e9, "1e9"),
        (math.nan, "n/a"),
    ],
)
def test_numbers_of_any_size_are_short(value, text):
    assert short_number(value) == text
    assert short_range([value, value]) == text
