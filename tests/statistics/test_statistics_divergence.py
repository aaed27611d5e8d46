"""Distances between models, their growth, and the best steps to stop at."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_unlearn.errors import InputError
from lightning_unlearn.statistics import (
    best_steps,
    complete_seeds,
    mean_interval,
    mean_over_seeds,
    pairwise_distance,
    squared_distance,
)


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


def test_best_steps_by_hand():
    curves = np.array(
        [
            [[4.0, 1.0, 2.0, 5.0], [4.0, 1.0, 4.0, 5.0]],
            [[4.0, 4.0, 1.0, 2.0], [4.0, 3.0, 2.0, 2.0]],
        ]
    )
    found = best_steps(curves)
    # Means are 4 1 3 5 and 4 3.5 1.5 2; their means over paths are 4, 2.25, 2.25, 3.5.
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
    # The second seed has large values but no last step, so a mean over both would fall there.
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
