"""KLoM and the statistics for few models, against naive second implementations."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import wasserstein_distance

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics.klom import (
    inflation,
    klom,
    noise_floor,
    standardized_difference,
    wasserstein,
)


def naive_klom(
    unlearned: list[float], oracle: list[float], bins: int, clip: float, floor: float
) -> float:
    """KLoM of one point with numpy's histogram, whose last bin includes the right edge."""
    own = [max(-clip, min(clip, x)) for x in unlearned]
    aim = [max(-clip, min(clip, x)) for x in oracle]
    edges = (min(own + aim), max(own + aim))
    shares = np.histogram(own, bins=bins, range=edges)[0] / len(own)
    aimed = np.histogram(aim, bins=bins, range=edges)[0] / len(aim)
    total = 0.0
    for p, q in zip(shares, aimed, strict=True):
        if p > 0:
            total += p * math.log(p / max(q, floor))
    return total


@pytest.mark.parametrize(("n", "m", "spread"), [(10, 10, 1), (30, 17, 3), (100, 100, 80)])
def test_klom_equals_a_naive_implementation(n: int, m: int, spread: float) -> None:
    random = np.random.default_rng(n)
    own, aim = random.normal(1, spread, (n, 40)), random.normal(0, spread, (m, 40))
    found = klom(own, aim, bins=12, clip=90, floor=1e-4)
    expected = [naive_klom(list(a), list(b), 12, 90, 1e-4) for a, b in zip(own.T, aim.T, strict=1)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_klom_of_single_values() -> None:
    """Equal margins at the top of the range are counted; unequal ones give the largest value."""
    same = np.full((10, 1), 3.0)
    other = np.full((10, 1), -2.0)
    highest = -math.log(1e-5)
    assert klom(same, same).tolist() == [0.0]
    assert klom(same, other) == pytest.approx(highest)
    assert klom(other, same) == pytest.approx(highest)
    # All margins beyond the clip on one side, or on both.
    assert klom(same * 1000, same * 2000).tolist() == [0.0]
    assert klom(same * np.inf, other * 1000) == pytest.approx(highest)


def test_klom_has_a_direction() -> None:
    """Bins with oracles only cost little; bins with unlearned models only cost much."""
    narrow = np.zeros((10, 1))
    wide = np.array([0.0] * 5 + [1.0] * 5)[:, None]
    assert klom(narrow, wide) == pytest.approx(math.log(2))
    assert klom(wide, narrow) == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-5))


def test_klom_ignores_order_and_position() -> None:
    random = np.random.default_rng(0)
    own, aim = random.normal(size=(20, 6)), random.normal(size=(15, 6))
    found = klom(own, aim)
    np.testing.assert_array_equal(found, klom(own[::-1], random.permutation(aim)))
    np.testing.assert_array_equal(found[::-1], klom(own[:, ::-1], aim[:, ::-1]))
    np.testing.assert_array_equal(found[2:3], klom(own[:, 2:3], aim[:, 2:3]))
    np.testing.assert_array_equal(found, klom(own * 4, aim * 4))


def test_klom_refuses_few_models() -> None:
    with pytest.raises(InputError, match=r"9 unlearned models and 12 oracles.*at least 10") as told:
        klom(np.zeros((9, 2)), np.zeros((12, 2)))
    assert "standardized_difference or wasserstein" in str(told.value)
    with pytest.raises(InputError, match="at least 10 of each"):
        klom(np.zeros((10, 2)), np.zeros((9, 2)))


def test_tables_must_fit() -> None:
    with pytest.raises(InputError, match=r"unlearned \[10, 2\] and oracle \[10, 3\]"):
        klom(np.zeros((10, 2)), np.zeros((10, 3)))
    with pytest.raises(InputError, match=r"unlearned \[3\]"):
        wasserstein(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(InputError, match="both not empty"):
        standardized_difference(np.zeros((2, 0)), np.zeros((2, 0)))
    bad = np.zeros((10, 2))
    bad[4, 1] = np.nan
    with pytest.raises(InputError, match="oracle model 4 has nan at point 1"):
        klom(np.zeros((10, 2)), bad)
    bad[4, 1] = np.inf
    with pytest.raises(InputError, match="unlearned model 4 has inf at point 1"):
        wasserstein(bad, np.zeros((10, 2)))


@pytest.mark.parametrize(
    ("count", "mean", "percentile95"),
    [(100, 0.34, 0.66), (50, 0.87, 1.7), (20, 3.0, 5.0), (5, 8.0, 10.5)],
)
def test_noise_floor(count: int, mean: float, percentile95: float) -> None:
    floor = noise_floor(count)
    assert floor.mean == pytest.approx(mean, rel=0.06)
    assert floor.percentile95 == pytest.approx(percentile95, rel=0.06)
    assert (floor.count, floor.oracles) == (count, count)
    assert noise_floor(count) == floor


def test_noise_floor_of_unequal_numbers() -> None:
    assert noise_floor(20, 100).mean < noise_floor(20).mean
    random = np.random.default_rng(3)
    values = klom(random.normal(5, 2, (20, 4000)), random.normal(5, 2, (100, 4000)))
    assert values.mean() == pytest.approx(noise_floor(20, 100).mean, rel=0.05)
    with pytest.raises(InputError, match="0 unlearned models"):
        noise_floor(0)


def test_standardized_difference_in_closed_form() -> None:
    oracle = np.array([[0.0, 1.0, 7.0], [2.0, 5.0, 7.0]])
    unlearned = np.array([[3.0, 0.0, 7.0], [3.0, 0.0, 9.0], [3.0, 0.0, 9.0]])
    found = standardized_difference(unlearned, oracle)
    signed = [2 / math.sqrt(2), -3 / math.sqrt(8)]
    np.testing.assert_allclose(found.per_point, [*signed, math.nan])
    assert found.mean == pytest.approx(sum(signed) / 2)
    assert found.absolute == pytest.approx((signed[0] - signed[1]) / 2)
    assert (found.skipped, found.count, found.oracles) == (1, 3, 2)
    assert found.low <= found.mean <= found.high
    # Student's t with one degree of freedom has no mean.
    assert found.absolute_floor == math.inf


def naive_interval(unlearned: np.ndarray, oracle: np.ndarray) -> tuple[float, float]:
    """Return the mean over points of each model, in standard deviations of the oracles."""
    deviation = oracle.std(axis=0, ddof=1)
    own, aim = ([float(np.mean(model / deviation)) for model in x] for x in (unlearned, oracle))
    error = math.sqrt(stats.sem(own) ** 2 + stats.sem(aim) ** 2)
    half = stats.t.ppf(0.975, min(len(own), len(aim)) - 1) * error
    middle = float(np.mean(own) - np.mean(aim))
    return middle - half, middle + half


def test_interval_is_students_over_models() -> None:
    random = np.random.default_rng(1)
    own = random.normal(0.5, 1, (8, 30)) + random.normal(size=(8, 1))
    aim = random.normal(0, 2, (6, 30)) + random.normal(size=(6, 1))
    found = standardized_difference(own, aim)
    assert (found.low, found.high) == pytest.approx(naive_interval(own, aim))
    again = standardized_difference(own + 3, aim + 3)
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (4, 4), (8, 8), (4, 8)])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("difference", [0.0, 10.0])
def test_the_interval_contains_the_difference(
    n: int, m: int, alike: float, difference: float
) -> None:
    """The unit is that of the oracles; the points of a model are independent or equal."""
    random = np.random.default_rng(5)

    def models(count: int) -> np.ndarray:
        own, shared = random.normal(size=(count, 30)), random.normal(size=(count, 1))
        return math.sqrt(1 - alike) * own + math.sqrt(alike) * shared

    hits, trials = 0, 600
    for _ in range(trials):
        aim = models(m)
        found = standardized_difference(difference + models(n), aim)
        hits += found.low <= (difference / aim.std(axis=0, ddof=1)).mean() <= found.high
    # Three standard errors of the share below.
    assert hits / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("oracles", [4, 8])
def test_inflation_equals_that_of_simulated_oracles(oracles: int) -> None:
    aim = np.random.default_rng(6).normal(size=(oracles, 40000))
    found = standardized_difference(np.full((2, 40000), 10.0), aim)
    assert found.mean / 10 == pytest.approx(inflation(oracles), rel=0.03)
    assert inflation(2) == math.inf


@pytest.mark.parametrize(("n", "m"), [(4, 3), (10, 20)])
def test_absolute_floor_equals_that_of_simulated_samples(n: int, m: int) -> None:
    random = np.random.default_rng(2)
    found = standardized_difference(random.normal(size=(n, 40000)), random.normal(size=(m, 40000)))
    assert found.absolute == pytest.approx(found.absolute_floor, rel=0.05)
    assert abs(found.mean) < 0.05


def test_points_where_oracles_do_not_differ_are_skipped() -> None:
    # The mean of three times 0.1 is not exact: the computed deviation would be 1e-17, not 0.
    found = standardized_difference(np.zeros((2, 4)), np.full((3, 4), 0.1))
    assert found.skipped == 4 and math.isnan(found.mean) and math.isnan(found.absolute)
    assert np.isnan(found.per_point).all()
    with pytest.raises(InputError, match=r"models: 1, and of oracles: 3.*at least 2"):
        standardized_difference(np.zeros((1, 4)), np.zeros((3, 4)))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (7, 4), (1, 9)])
def test_wasserstein_equals_that_of_scipy(n: int, m: int) -> None:
    random = np.random.default_rng(n)
    own, aim = random.normal(size=(n, 9)), random.normal(2, 3, size=(m, 9))
    expected = [wasserstein_distance(a, b) for a, b in zip(own.T, aim.T, strict=True)]
    np.testing.assert_allclose(wasserstein(own, aim), expected)
    np.testing.assert_allclose(wasserstein(own, own + 2.5), 2.5)
