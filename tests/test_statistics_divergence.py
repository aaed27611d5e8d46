"""Distances between models, their growth, and the best steps to stop at."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics import (
    Growth,
    NoGrowth,
    best_steps,
    complete_seeds,
    exponential_growth,
    mean_interval,
    mean_over_seeds,
    pairwise_distance,
    squared_distance,
)

STEPS = np.arange(0, 50, 5)


def naive_distance(one, other):
    squares = [(a - b) ** 2 for a, b in zip(one, other, strict=True)]
    known = [square for square in squares if math.isfinite(square)]
    return sum(known) / len(known) if known else math.nan


def test_pairwise_distances_equal_those_of_loops():
    models = np.random.default_rng(0).normal(size=(4, 2, 3, 5))
    models[0, 0, 0, 1] = math.nan
    models[1, 0, 1, :4] = -math.inf
    models[2, 1, 2] = math.nan
    found = pairwise_distance(models)
    assert found.shape == (6, 2, 3)
    for place, (one, other) in enumerate(itertools.combinations(range(4), 2)):
        for seed, step in itertools.product(range(2), range(3)):
            wanted = naive_distance(models[one, seed, step], models[other, seed, step])
            assert found[place, seed, step] == pytest.approx(wanted, nan_ok=True)
    assert pairwise_distance(models[:1]).shape == (0, 2, 3)
    with pytest.raises(InputError, match=r"shape \(3,\), expected \[models, ..., examples\]"):
        pairwise_distance([1.0, 2.0, 3.0])


@given(st.lists(st.tuples(*[st.floats(-50, 0)] * 3), min_size=1, max_size=8))
def test_the_root_of_the_distance_is_a_metric(rows):
    one, two, three = np.array(rows).T
    root = lambda a, b: math.sqrt(squared_distance(a, b))  # noqa: E731
    assert squared_distance(one, one) == 0
    assert squared_distance(one, two) == squared_distance(two, one)
    assert root(one, three) <= root(one, two) + root(two, three) + 1e-9


@pytest.mark.parametrize("rho", [0.02, 0.3, -0.1])
def test_the_growth_of_the_linear_theory(rho):
    found = exponential_growth(STEPS, 1e-3 * (1 + rho) ** (2 * STEPS))
    assert isinstance(found, Growth)
    assert found.rate == pytest.approx(2 * math.log(1 + rho))
    assert found.doubling == pytest.approx(math.log(2) / (2 * math.log(1 + rho)))
    assert (found.first, found.last, found.points) == (0, 45, 10)
    assert found.r_squared == pytest.approx(1) and found.error == pytest.approx(0, abs=1e-9)
    assert found.factor == pytest.approx((1 + rho) ** 90)
    line = stats.linregress(STEPS, (1 + rho) ** (2.0 * STEPS))
    assert found.line_r_squared == pytest.approx(line.rvalue**2)


def test_a_constant_distance_does_not_grow():
    assert isinstance(exponential_growth(STEPS, np.full(10, 0.3)), NoGrowth)


def naive_growth(steps, values):
    """The longest range that is a line by `scipy.stats.linregress`, range by range."""
    best, ranges = None, list(itertools.combinations(range(len(steps) + 1), 2))
    ranges = [(start, end) for start, end in ranges if end - start >= 4]
    for start, end in ranges:
        if not all(v > 0 and math.isfinite(v) for v in values[start:end]):
            continue
        line = stats.linregress(steps[start:end], np.log(values[start:end]))
        chance = line.pvalue * len(ranges)
        factor = math.exp(abs(line.slope) * (steps[end - 1] - steps[start]))
        key = (end - start, line.rvalue**2)
        fits = line.rvalue**2 >= 0.95 and chance <= 0.05 and factor >= 2
        if fits and (best is None or key > best[0]):
            best = (key, start, end, line)
    if best is None:
        return None
    straight = stats.linregress(steps[best[1] : best[2]], values[best[1] : best[2]]).rvalue ** 2
    return *best, straight


def test_fits_equal_those_of_linregress():
    draw = np.random.default_rng(4)
    fitted = straight = 0
    for _ in range(150):
        rate, saturation = draw.uniform(-0.1, 0.3), draw.uniform(0.5, 3)
        values = 0.01 * np.exp(np.minimum(rate * STEPS, saturation) + 0.1 * draw.normal(size=10))
        if draw.random() < 0.4:
            values[draw.integers(10)] = draw.choice([0.0, math.nan, math.inf, -1.0])
        found, wanted = exponential_growth(STEPS, values), naive_growth(STEPS, values)
        if wanted is None:
            assert isinstance(found, NoGrowth) and found.cause in ("curved", "level")
            continue
        (points, r_squared), start, end, line, of_line = wanted
        if 1 - r_squared > (1 - of_line) / 2:
            straight += 1
            assert isinstance(found, NoGrowth) and found.cause == "straight"
            assert f"of log d {r_squared:.3f}, of d {of_line:.3f}" in found.reason
            continue
        fitted += 1
        half = stats.t.ppf(0.975, points - 2) * line.stderr
        assert isinstance(found, Growth)
        assert (found.first, found.last, found.points) == (STEPS[start], STEPS[end - 1], points)
        assert (found.r_squared, found.line_r_squared) == pytest.approx((r_squared, of_line))
        assert (found.rate, found.error) == pytest.approx((line.slope, line.stderr))
        assert (found.low, found.high) == pytest.approx((line.slope - half, line.slope + half))
    assert fitted > 10 and straight > 10


def share_with_growth(curve, error, trials=400):
    """In how many draws a curve with log-normal errors has an exponential range."""
    draw = np.random.default_rng(2)
    steps = np.arange(len(curve))
    drawn = [curve * np.exp(error * draw.normal(size=len(curve))) for _ in range(trials)]
    return np.mean([isinstance(exponential_growth(steps, d), Growth) for d in drawn])


@pytest.mark.parametrize("points", [7, 13, 31])
def test_noise_is_hardly_ever_growth(points):
    for error in (0.01, 0.1, 1.0):
        assert share_with_growth(np.ones(points), error) <= 0.05


@pytest.mark.parametrize("points", [7, 13])
@pytest.mark.parametrize("factor", [2, 4, 10, 30])
def test_a_straight_line_is_hardly_ever_exponential(points, factor):
    line = np.linspace(1, factor, points)
    for curve in (line, line[::-1]):
        assert share_with_growth(curve, 1e-6, 1) == 0
        assert share_with_growth(curve, 0.05) <= 0.06
        assert share_with_growth(curve, 0.1) <= 0.17


@pytest.mark.parametrize("points", [7, 13])
def test_an_exponential_is_found(points):
    for factor, error, least in ((4, 0.05, 0.9), (10, 0.1, 0.95), (1 / 10, 0.1, 0.95)):
        assert share_with_growth(factor ** np.linspace(0, 1, points), error) >= least


def test_too_small_a_change_is_no_growth():
    found = exponential_growth(STEPS, 3 * np.exp(np.linspace(0, math.log(1.06), 10)))
    assert isinstance(found, NoGrowth) and found.cause == "level"
    assert "over steps 0 to 45" in found.reason
    assert "a factor of 1.06, not 2 or 1/2" in found.reason


def test_growth_ends_where_it_saturates():
    found = exponential_growth(STEPS, np.minimum(np.exp(0.4 * STEPS), np.exp(8)))
    assert isinstance(found, Growth) and (found.first, found.last) == (0, 25)
    assert found.rate < 0.4 and found.r_squared > 0.95


def test_why_there_is_no_fit():
    zeros = exponential_growth(STEPS[:5], [0, 0, 0.1, 0.2, 0.4])
    assert zeros == NoGrowth("3 of 5 distances are positive; a fit takes 4", "few")
    assert exponential_growth([0], [1.0]) == NoGrowth(
        "1 of 1 distances are positive; a fit takes 4", "few"
    )
    apart = exponential_growth(STEPS[:7], [1, 2, 4, math.nan, 8, 16, 32])
    assert apart == NoGrowth(
        "no 4 neighbouring steps or more over which log d is a line (R^2 >= 0.95, and more than "
        "noise has)",
        "curved",
    )
    with pytest.raises(InputError, match="expected ascending steps with a value each"):
        exponential_growth([0, 0, 5], [1, 2, 3])


@given(st.floats(0.1, 10), st.floats(0.5, 4))
def test_the_rate_does_not_depend_on_the_unit_of_the_distance(unit, stretch):
    values = 0.01 * np.exp(0.1 * STEPS + 0.1 * np.sin(STEPS))
    one, other = (
        exponential_growth(steps, scaled)
        for steps, scaled in ((STEPS, values), (stretch * STEPS, unit * values))
    )
    assert isinstance(one, Growth) and isinstance(other, Growth)
    assert other.rate * stretch == pytest.approx(one.rate)
    assert other.r_squared == pytest.approx(one.r_squared)


def test_best_steps_by_hand():
    curves = np.array(
        [
            [[4.0, 1.0, 2.0, 5.0], [4.0, 1.0, 4.0, 5.0]],
            [[4.0, 4.0, 1.0, 2.0], [4.0, 3.0, 2.0, 2.0]],
        ]
    )
    found = best_steps(curves)
    # Means are 4 1 3 5 and 4 3.5 1.5 2, so those over paths 4, 2.25, 2.25, 3.5.
    assert found.own.tolist() == [1, 2] and found.common == 1
    assert found.regret == [mean_interval([0.0, 0.0]), mean_interval([3.0, 1.0])]


def test_best_steps_of_curves_with_gaps():
    nan, inf = math.nan, math.inf
    curves = np.array([[[4, 1, nan], [4, nan, nan]], [[3, nan, 0.5], [3, inf, 0.1]]])
    found = best_steps(curves)
    assert found.own.tolist() == [1, 2] and found.common == 0
    assert found.complete.tolist() == [[True, False], [True, True]]
    assert found.falling.tolist() == [True, True]
    assert (found.regret[0].mean, found.regret[0].count) == (3, 1)
    np.testing.assert_equal(mean_over_seeds(curves), [[4, 1, nan], [3, nan, 0.3]])
    none = best_steps([[[1.0, nan]], [[nan, 1.0]]])
    assert none.own.tolist() == [0, 1] and none.common is None and none.regret == []
    assert not none.falling.any()
    with pytest.raises(InputError, match="no seed with a finite value at every step on path 1 of"):
        best_steps([[[1.0]], [[nan]]])
    with pytest.raises(InputError, match=r"shape \(2,\), expected \[paths, seeds, steps\]"):
        best_steps([1.0, 2.0])


def test_seeds_that_lack_a_step_do_not_move_the_best_one():
    # The second seed is far off throughout; without its last step the mean would fall there.
    curves = np.array([[[3.0, 1.0, 2.0], [9.0, 8.0, math.nan]]])
    assert mean_over_seeds(curves)[0].argmin() == 2
    found = best_steps(curves)
    assert found.own.tolist() == [1] and found.falling.tolist() == [False]
    assert complete_seeds(curves).tolist() == found.complete.tolist() == [[True, False]]
    assert complete_seeds([[[math.nan]], [[1.0]]]).tolist() == [[False], [True]]


@given(st.integers(0, 10_000))
def test_no_common_step_beats_a_paths_own(seed):
    curves = np.random.default_rng(seed).uniform(size=(3, 2, 5))
    found = best_steps(curves)
    means = curves.mean(axis=1)
    assert found.common is not None
    assert all(regret.mean >= -1e-12 for regret in found.regret)
    totals = [sum(means[path, step] for path in range(3)) for step in range(5)]
    assert totals[found.common] == min(totals)
