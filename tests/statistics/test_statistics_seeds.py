"""Intervals over seeds, the share of the variance between paths, and the recency effect."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics import half_width, icc1, mean_interval, recency_effect
from lightning_unlearn.statistics.intervals import wilson

# Shrout and Fleiss 1979, table 2: four judges rate six targets.
RATINGS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
GROUPS = st.integers(2, 5).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-100, 100).map(lambda v: round(v, 3)), min_size=size, max_size=size),
        min_size=2,
        max_size=6,
    )
)


@pytest.mark.parametrize("count", [2, 3, 4, 30])
def test_an_interval_is_students(count):
    values = np.random.default_rng(count).normal(3, 2, count)
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.count == count and found.half == pytest.approx((high - low) / 2)
    assert half_width([values.std(ddof=1)], [count]) == pytest.approx([found.half])


def test_an_interval_ignores_missing_values():
    found = mean_interval([1.0, math.nan, 3.0, math.inf, -math.inf])
    assert found == mean_interval([1.0, 3.0]) and found.count == 2


def test_one_value_has_a_mean_and_no_interval():
    found = mean_interval([2.5])
    assert (found.mean, found.count) == (2.5, 1)
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.half)
    assert mean_interval([]).count == 0 and math.isnan(mean_interval([math.nan]).mean)
    assert np.isnan(half_width([0.0, 1.0], [0, 1])).all()


def test_equal_values_have_an_interval_of_no_width():
    found = mean_interval([0.1] * 3)
    assert found.low == found.mean == found.high


def naive_icc1(groups):
    """Compute index and F by the analysis of variance, value by value."""
    every = [value for group in groups for value in group]
    grand = sum(every) / len(every)
    between = within = 0.0
    for group in groups:
        mean = sum(group) / len(group)
        between += len(group) * (mean - grand) ** 2
        within += sum((value - mean) ** 2 for value in group)
    k, n = len(groups), len(every)
    between, within = between / (k - 1), within / (n - k)
    n0 = (n - sum(len(group) ** 2 for group in groups) / n) / (k - 1)
    return (between - within) / (between + (n0 - 1) * within), between / within


def test_the_index_of_shrout_and_fleiss():
    found = icc1(RATINGS)
    assert found is not None and found.balanced and found.size == 4
    assert (found.between, found.within) == (5, 18)
    assert found.index == pytest.approx(0.1657, abs=5e-5)
    # Mean squares 11.24 and 6.26 in their table 3; bounds by the formula of McGraw and Wong.
    assert found.f == pytest.approx(11.24 / 6.26, abs=2e-3)
    assert (found.low, found.high) == pytest.approx((-0.1329, 0.7226), abs=5e-5)
    assert found.p == pytest.approx(stats.f_oneway(*RATINGS).pvalue)


def test_the_index_of_unequal_groups_equals_a_naive_implementation():
    draw = np.random.default_rng(1)
    for _ in range(20):
        groups = [draw.normal(draw.normal(), 1, size) for size in (1, 2, 4, 3)]
        found = icc1(groups)
        assert found is not None and not found.balanced
        assert (found.index, found.f) == pytest.approx(naive_icc1(groups))
        test = stats.f_oneway(*groups[1:], groups[0])
        assert (found.f, found.p) == pytest.approx((test.statistic, test.pvalue))


@given(GROUPS, st.floats(-1000, 1000), st.floats(0.1, 10))
def test_the_index_does_not_depend_on_unit_order_and_origin(groups, origin, unit):
    found = icc1(groups)
    every = np.array(groups)
    assume(found is not None and 1e-3 < found.f < 1e6 and np.ptp(every) > 0.1)
    moved = icc1([origin + unit * np.array(group[::-1]) for group in groups[::-1]])
    assert moved is not None
    assert (moved.index, moved.p) == pytest.approx((found.index, found.p), rel=1e-4, abs=1e-6)
    size = len(groups[0])
    assert -1 / (size - 1) - 1e-9 <= found.low <= found.index <= found.high <= 1
    assert found.index == pytest.approx(naive_icc1(groups)[0])


def test_the_interval_has_its_stated_coverage():
    draw = np.random.default_rng(0)
    share, hits, trials = 0.6, 0, 2000
    for _ in range(trials):
        paths = draw.normal(0, math.sqrt(share), (4, 1))
        found = icc1(list(paths + draw.normal(0, math.sqrt(1 - share), (4, 4))))
        hits += found.low <= share <= found.high
    assert hits / trials == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    "groups",
    [[], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [math.nan, math.inf]], [[3.0, 3.0], [3.0]]],
    ids=["nothing", "one group", "one seed", "one group known", "all equal"],
)
def test_no_index_without_two_groups_and_a_spread(groups):
    assert icc1(groups) is None


def test_groups_that_do_not_vary():
    found = icc1([[0.1, 0.1, 0.1], [0.7, 0.7, math.nan]])
    assert found is not None
    # There is no estimate of the noise, so neither p nor the interval is defined.
    assert found.index == 1 and found.f == math.inf and found.within == 3
    assert all(math.isnan(value) for value in (found.low, found.high, found.p))


def test_a_share_is_not_negative():
    found = icc1([[1.0, 3.0], [3.0, 1.0]])
    assert found is not None and found.index == pytest.approx(-1)
    assert found.share == (0, 0, pytest.approx(max(0, found.high)))


def test_the_recency_effect_is_paired_by_seed():
    values = np.array([[1.0, 11.0, 101.0], [3.0, 13.0, 103.0], [1.5, 11.5, 101.6]])
    found = recency_effect(values)
    wanted = mean_interval([-0.5, -0.5, -0.4])
    ends = (wanted.mean, wanted.low, wanted.high)
    assert (found.mean, found.low, found.high) == pytest.approx(ends) and found.count == 3
    values[0, 1] = math.nan
    fewer = recency_effect(values)
    assert fewer.mean == pytest.approx(-0.45) and fewer.count == 2
    with pytest.raises(InputError, match=r"shape \(1, 3\), expected \[positions, seeds\]"):
        recency_effect(values[:1])


@given(
    st.lists(st.floats(-10, 10), min_size=4, max_size=4),
    st.lists(st.floats(-1000, 1000), min_size=4, max_size=4),
)
def test_an_effect_of_a_seed_on_all_positions_cancels(last, seeds):
    values = np.array([[0.0] * 4, [1.0] * 4, last])
    found, moved = recency_effect(values), recency_effect(values + seeds)
    ends = (found.mean, found.low, found.high)
    assert (moved.mean, moved.low, moved.high) == pytest.approx(ends, abs=1e-9)


def test_wilsons_interval():
    # Newcombe 1998, table I: 15 of 148, and 0 of 20.
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert all(map(math.isnan, wilson(math.nan, 0)))
