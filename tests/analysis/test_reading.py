"""Oracles of runs."""

import math

from lightning_unlearn.analysis.reading import Oracles


def test_the_oracle_that_names_more_of_the_setting_is_taken():
    rows = [("m", "a-f", 2, 0, (None, None), 1.0), ("m", "a-f", 2, 0, (1, None), 2.0)]
    for order in (rows, rows[::-1]):
        oracles = Oracles(order)
        assert oracles.value("m", "a-f", 2, (1, 5), 0) == 2.0
        assert oracles.value("m", "a-f", 2, (3, 5), 0) == 1.0
        assert math.isnan(oracles.value("m", "a-f", 2, (1, 5), 1))
    several = Oracles([*rows, ("m", "a-f", 2, 7, (None, None), 4.0)])
    assert several.value("m", "a-f", 2, (1, 5)) == 3.0
