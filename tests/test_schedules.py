"""Schedules: a learning rate at every step, the documented ramps, very few steps."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_unlearn.schedules import ScheduleName, constant, cosine, schedule, wsd

NAMES: tuple[ScheduleName, ...] = ("wsd", "cosine", "constant")
exactly = settings(deadline=None, derandomize=True, max_examples=100)
totals = st.integers(1, 500)
shares = st.floats(0, 0.5)


def ramp(share: float, total: int) -> int:
    return 0 if share == 0 else max(1, round(share * total))


def factors(name: ScheduleName, total: int, warmup: float, decay: float) -> list[float]:
    factor = schedule(name, total, warmup, decay)
    return [factor(step) for step in range(total)]


@exactly
@given(st.sampled_from(NAMES), totals, st.floats(0, 1), st.floats(0, 1))
def test_every_step_has_a_factor_above_0_and_at_most_1(
    name: ScheduleName, total: int, warmup: float, decay: float
) -> None:
    assert all(0 < factor <= 1 for factor in factors(name, total, warmup, decay))


@exactly
@given(totals, shares, shares)
def test_wsd_has_linear_ramps_of_the_documented_length(
    total: int, warmup: float, decay: float
) -> None:
    up, down = ramp(warmup, total), ramp(decay, total)
    expected = [Fraction(1)] * total
    for step in range(total):
        if step < up:
            expected[step] = min(expected[step], Fraction(step + 1, up + 1))
        if step >= total - down:
            expected[step] = min(expected[step], Fraction(total - step, down + 1))
    assert factors("wsd", total, warmup, decay) == pytest.approx([float(f) for f in expected])


@exactly
@given(st.integers(20, 500), st.floats(0.02, 0.4), st.floats(0.02, 0.4))
def test_wsd_rises_stays_and_falls(total: int, warmup: float, decay: float) -> None:
    up, down = ramp(warmup, total), ramp(decay, total)
    values = factors("wsd", total, warmup, decay)
    assert values[:up] == sorted(set(values[:up])) and max(values[:up]) < 1
    assert set(values[up : total - down]) == {1.0}
    assert values[-down:] == sorted(set(values[-down:]), reverse=True) and values[-down] < 1


@exactly
@given(totals, shares)
def test_cosine_warms_up_and_falls_to_just_above_zero(total: int, warmup: float) -> None:
    up = ramp(warmup, total)
    values = factors("cosine", total, warmup, 0.3)
    rest = total - up
    expected = [(step + 1) / (up + 1) for step in range(up)]
    expected += [(1 + math.cos(math.pi * place / rest)) / 2 for place in range(rest)]
    assert values == pytest.approx(expected)
    assert values[up:] == sorted(values[up:], reverse=True)


@exactly
@given(totals)
def test_without_ramps_wsd_is_constant(total: int) -> None:
    assert factors("wsd", total, 0, 0) == factors("constant", total, 0.5, 0.5) == [1.0] * total


@pytest.mark.parametrize(
    ("name", "total", "expected"),
    [
        ("wsd", 1, [1 / 2]),
        ("wsd", 2, [1 / 2, 1 / 2]),
        ("wsd", 3, [1 / 2, 1, 1 / 2]),
        ("wsd", 4, [1 / 2, 1, 1, 1 / 2]),
        ("wsd", 100, [1 / 3, 2 / 3, *[1] * 96, 2 / 3, 1 / 3]),
        ("cosine", 1, [1 / 2]),
        ("cosine", 2, [1 / 2, 1]),
        ("cosine", 3, [1 / 2, 1, 1 / 2]),
        ("cosine", 4, [1 / 2, 1, 3 / 4, 1 / 4]),
        ("constant", 1, [1]),
        ("constant", 3, [1, 1, 1]),
    ],
)
def test_known_values_with_the_shares_of_the_paper(
    name: ScheduleName, total: int, expected: list[float]
) -> None:
    assert factors(name, total, 0.02, 0.02) == pytest.approx(expected)


def test_default_shares_are_those_of_the_paper() -> None:
    for step in range(200):
        assert wsd(step, 200) == wsd(step, 200, 0.02, 0.02)
        assert cosine(step, 200) == cosine(step, 200, 0.02)
        assert constant(step, 200) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_the_optimizer_sees_factor_times_peak_at_every_step(name: ScheduleName) -> None:
    total, peak = 30, 0.25
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], peak)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(name, total, 0.1, 0.2))
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([peak * factor for factor in factors(name, total, 0.1, 0.2)])
    # The scheduler also computes a factor after the last step.
    assert 0 <= schedule(name, total, 0.1, 0.2)(total) <= 1
