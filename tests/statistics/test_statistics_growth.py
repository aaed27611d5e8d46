"""Exponential growth: the properties that its docstring states, also for other curves."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics import Growth, NoGrowth, exponential_growth
from lightning_unlearn.statistics.growth import EVIDENCE, other_curves

STEPS = np.arange(0, 50, 5)


@pytest.mark.parametrize("rho", [0.02, 0.3, -0.1])
def test_the_growth_of_the_linear_theory(rho):
    found = exponential_growth(STEPS, 1e-3 * (1 + rho) ** (2 * STEPS))
    assert isinstance(found, Growth)
    assert found.rate == pytest.approx(2 * math.log(1 + rho))
    assert found.doubling == pytest.approx(math.log(2) / (2 * math.log(1 + rho)))
    assert (found.first, found.last, found.points) == (0, 45, 10)
    assert found.r_squared == pytest.approx(1) and found.error == pytest.approx(0, abs=1e-9)
    assert found.factor == pytest.approx((1 + rho) ** 90) and found.evidence > 1e6


@pytest.mark.parametrize("power", [0.5, 1, 2, 3])
@pytest.mark.parametrize("steps", [np.arange(0, 31, 5), np.arange(31), np.arange(0, 31, 2)])
def test_powers_of_the_step_are_not_exponential(power, steps):
    for slope in (0.03, 0.1, 1.0):
        for values in (1 + (slope * steps) ** power, (1 + slope * steps) ** power):
            for curve in (values, 1 / values, values.max() + 0.1 - values):
                assert isinstance(exponential_growth(steps, curve), NoGrowth)


def naive_line(steps, values):
    """Find the last range that is a line, with `scipy.stats.linregress` on each range."""
    ranges = [(s, e) for e in range(len(steps), 4, -1) for s in range(e - 4)]
    for start, end in ranges:
        x, d = steps[start:end], values[start:end]
        if not all(v > 0 and math.isfinite(v) for v in d):
            continue
        line = stats.linregress(x, np.log(d))
        factor = math.exp(abs(line.slope) * (x[-1] - x[0]))
        if line.rvalue**2 < 0.95 or line.pvalue * len(ranges) > 0.05 or factor < 2:
            continue
        parabola = np.polynomial.Polynomial.fit(x, np.log(d), 2)
        rss = ((np.log(d) - line.intercept - line.slope * x) ** 2).sum()
        less = ((np.log(d) - parabola(x)) ** 2).sum()
        p = stats.f.sf((rss - less) / (less / (len(x) - 3)), 1, len(x) - 3)
        slopes = parabola.deriv()(x[[0, -1]])
        if p >= 0.05 or abs(np.diff(slopes)[0]) <= 0.2 * abs(line.slope):
            left = other_curves(x, d, line.slope, steps[0])
            evidence = (min(left.values()) / rss) ** (len(x) / 2)
            return start, end, line, slopes, left, evidence
    return None


def test_fits_equal_those_of_a_naive_search():
    draw = np.random.default_rng(4)
    fitted = others = 0
    for _ in range(150):
        rate, saturation = draw.uniform(-0.1, 0.3), draw.uniform(0.5, 8)
        noise = draw.choice([0.02, 0.1]) * draw.normal(size=10)
        values = 0.01 * np.exp(np.minimum(rate * STEPS, saturation) + noise)
        if draw.random() < 0.4:
            values[draw.integers(10)] = draw.choice([0.0, math.nan, math.inf, -1.0])
        found, wanted = exponential_growth(STEPS, values), naive_line(STEPS, values)
        if wanted is None:
            assert isinstance(found, NoGrowth) and found.cause in ("curved", "level")
            continue
        start, end, line, slopes, left, evidence = wanted
        if evidence < EVIDENCE:
            others += 1
            assert isinstance(found, NoGrowth) and found.cause == "other"
            continue
        fitted += 1
        half = stats.t.ppf(0.975, end - start - 2) * line.stderr
        assert isinstance(found, Growth)
        assert (found.first, found.last, found.points) == (
            STEPS[start],
            STEPS[end - 1],
            end - start,
        )
        assert (found.rate, found.error) == pytest.approx((line.slope, line.stderr))
        assert found.r_squared == pytest.approx(line.rvalue**2)
        assert found.evidence == pytest.approx(evidence)
        assert left[found.other] == min(left.values())
        assert found.low == pytest.approx(min(line.slope, *slopes) - half)
        assert found.high == pytest.approx(max(line.slope, *slopes) + half)
    assert fitted > 20 and others > 10


def naive_left(function, x, d, starts):
    """Minimize the sum of squared relative errors with the simplex method."""

    def loss(parameters):
        return float(((1 - function(x, *parameters) / d) ** 2).sum())

    options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-12}
    return min(optimize.minimize(loss, s, method="Nelder-Mead", options=options).fun
               for s in starts)  # fmt: skip


def test_other_curves_are_fitted_optimally():
    draw = np.random.default_rng(1)
    x = np.arange(5.0, 40, 5)
    for rate in (0.04, -0.05):
        d = 0.02 * np.exp(rate * x + 0.05 * draw.normal(size=7))
        left = other_curves(x, d, rate, 0.0)
        scale, s = d.mean(), np.sign(rate)
        starts = [(scale, 0.0), (scale, s * scale / 10)]
        naive = {
            "a straight line": naive_left(lambda x, a, b: a + b * x / 40, x, d, starts),
            "the power 2 of the step": naive_left(
                lambda x, a, b: a + b * (x / 40) ** 2, x, d, starts
            ),
            "a parabola": naive_left(
                lambda x, a, b, c: a + b * x / 40 + c * (x / 40) ** 2,
                x, d, [(*start, extra) for start in starts for extra in (0.0, scale, -scale)],
            ),
        }  # fmt: skip
        for name, wanted in naive.items():
            assert left[name] == pytest.approx(wanted, rel=1e-4)
        # With the same values of k; for the power, a grid search.
        level = min(
            naive_left(lambda x, a, b, k=s * k: a + b * np.exp(-k * (x - 5) / 30), x, d, starts)
            for k in np.geomspace(0.5, 8, 5)
        )
        assert left["a curve that levels off"] == pytest.approx(level, rel=1e-4)
        power = min(
            ((np.log(d) - p * z - (np.log(d) - p * z).mean()) ** 2).sum()
            for z in (np.log(x - 5 + 30 * shift) for shift in np.geomspace(1e-3, 30, 60))
            for p in np.linspace(-3, 3, 121)
        )
        assert 0.9 * power <= left["a power of the step"] <= 1.001 * power


def draws(curve, error, trials):
    """Return the result for a curve with log-normal errors."""
    draw = np.random.default_rng(2)
    steps = np.arange(len(curve))
    return [
        exponential_growth(steps, curve * np.exp(error * draw.normal(size=len(curve))))
        for _ in range(trials)
    ]


def share_with_growth(curve, error, trials=100):
    """Count the draws in which a curve with log-normal errors has an exponential range."""
    return np.mean([isinstance(found, Growth) for found in draws(curve, error, trials)])


@pytest.mark.parametrize("points", [7, 31])
def test_noise_is_rarely_growth(points):
    for error in (0.01, 0.1, 1.0):
        assert share_with_growth(np.ones(points), error) <= 0.02


@pytest.mark.parametrize(("points", "factor"), [(7, 4), (7, 10), (7, 30), (13, 10), (31, 10)])
def test_other_curves_are_rarely_exponential(points, factor):
    u, rise = np.linspace(0, 1, points), factor - 1
    for curve in (
        1 + rise * u,
        1 + rise * u**2,
        1 + rise * u**3,
        (1 + (factor**0.5 - 1) * u) ** 2,
        1 + rise * -np.expm1(-3 * u) / -np.expm1(-3),
        factor - rise * u,
        1 / (1 + (factor**0.5 - 1) * u) ** 2,
    ):
        for error in (0.02, 0.1):
            assert share_with_growth(curve, error, 20) <= 0.05


@pytest.mark.parametrize("points", [7, 13])
def test_an_exponential_is_found_and_its_interval_contains_the_rate(points):
    for factor, error, least in ((10, 0.02, 0.95), (30, 0.05, 0.95), (1 / 100, 0.1, 0.85)):
        found = draws(factor ** np.linspace(0, 1, points), error, 150)
        fits = [fit for fit in found if isinstance(fit, Growth)]
        assert len(fits) >= least * len(found)
        rate = math.log(factor) / (points - 1)
        assert np.mean([fit.low <= rate <= fit.high for fit in fits]) >= 0.95


@pytest.mark.parametrize(("points", "apart"), [(7, 5), (13, 5), (31, 1), (31, 5)])
@pytest.mark.parametrize("error", [0.0, 0.02, 0.1])
def test_the_interval_contains_the_rate_at_the_last_step(points, apart, error):
    """The rate of d = |D|^2 with D' = (I + M) D rises to that of the largest eigenvalue."""
    draw = np.random.default_rng(1)
    steps = apart * np.arange(float(points))
    held, late = list[bool](), 0
    for _ in range(100):
        logs, squares = 2 * np.log1p(draw.uniform(-0.1, 0.15, 6)), draw.normal(size=6) ** 2
        weights = squares * np.exp(logs * steps[:, None])
        values = weights.sum(axis=1) * np.exp(error * draw.normal(size=points))
        found = exponential_growth(steps, values)
        if isinstance(found, Growth):
            at_last = weights[steps == found.last][0]
            held.append(found.low <= (at_last * logs).sum() / at_last.sum() <= found.high)
            late += found.last == steps[-1]
    assert len(held) >= 25 and np.mean(held) >= 0.92 and late >= 0.8 * len(held)


def test_too_small_a_change_is_no_growth():
    for curve in (np.full(10, 0.3), 3 * np.exp(np.linspace(0, math.log(1.06), 10))):
        assert isinstance(exponential_growth(STEPS, curve), NoGrowth)
    found = exponential_growth(STEPS, curve)
    assert isinstance(found, NoGrowth) and found.cause == "level"
    assert "over steps 0 to 45" in found.reason
    assert "a factor of 1.06, not 2 or 1/2" in found.reason


def test_the_range_is_the_latest():
    values = np.exp(np.maximum(0.3 * (STEPS - 15.0), 0))
    found = exponential_growth(STEPS, values)
    assert isinstance(found, Growth) and found.last == 45 and 10 <= found.first <= 15
    assert found.low <= 0.3 <= found.high and found.r_squared > 0.95
    # If the curve is level at the end, an earlier range is tested.
    found = exponential_growth(
        np.arange(0, 100, 5), np.minimum(np.exp(0.4 * np.arange(0, 100, 5)), 1e6)
    )
    assert found.last <= 45 if isinstance(found, Growth) else found.cause == "other"


def test_why_there_is_no_fit():
    zeros = exponential_growth(STEPS[:6], [0, 0, 0.1, 0.2, 0.4, 0.8])
    assert zeros == NoGrowth("4 of 6 distances are positive; a fit takes 5", "few")
    assert exponential_growth([0], [1.0]) == NoGrowth(
        "1 of 1 distances are positive; a fit takes 5", "few"
    )
    apart = exponential_growth(STEPS[:9], [1, 2, 4, 6, math.nan, 8, 16, 32, 64])
    assert apart == NoGrowth(
        "no 5 neighboring steps or more over which log d is a line (R^2 >= 0.95, and more than "
        "noise has, at a steady rate)",
        "curved",
    )
    found = exponential_growth(range(0, 31, 5), 1 + (0.1 * np.arange(0, 31, 5)) ** 2)
    assert isinstance(found, NoGrowth) and found.cause == "other"
    assert found.reason.startswith("over steps 0 to 30, where d changes by a factor of 11.4, it is")
    assert "under the power 2 of the step, not 20 times" in found.reason
    with pytest.raises(InputError, match="expected ascending steps with a value each"):
        exponential_growth([0, 0, 5], [1, 2, 3])


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e250])
def test_values_of_any_size_are_compared(scale):
    found = exponential_growth(STEPS, scale * np.exp(0.3 * STEPS))
    assert isinstance(found, Growth) and found.rate == pytest.approx(0.3)
    huge = exponential_growth(np.arange(10), 10.0 ** (60.0 * np.arange(10) - 300))
    assert isinstance(huge, Growth) and math.isfinite(huge.factor)
    assert isinstance(exponential_growth(STEPS, scale * (1.0 + STEPS)), NoGrowth)


@given(st.floats(0.1, 10), st.floats(0.5, 4))
def test_the_rate_does_not_depend_on_the_unit_of_the_distance(unit, stretch):
    values = 0.01 * np.exp(0.1 * STEPS + 0.02 * np.sin(STEPS))
    one, other = (
        exponential_growth(steps, scaled)
        for steps, scaled in ((STEPS, values), (stretch * STEPS, unit * values))
    )
    assert isinstance(one, Growth) and isinstance(other, Growth)
    assert other.rate * stretch == pytest.approx(one.rate)
    assert other.r_squared == pytest.approx(one.r_squared)
    assert other.evidence == pytest.approx(one.evidence, rel=1e-6)


def test_the_chance_of_noise_covers_all_ranges():
    ranges = [(s, e) for s, e in itertools.combinations(range(14), 2) if e - s >= 5]
    assert len(ranges) == (13 - 4) * (13 - 3) / 2
