"""Estimate of the time that the rest of a study takes."""

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest
from planned import RATE
from study_plans import hand_plan

from lightning_unlearn.study.estimate import Estimate
from lightning_unlearn.study.plan import StudyPlan, Task


def left_of(plan: StudyPlan, seconds: dict[str, float], **given: Any) -> float | None:
    left = [task for task in plan.tasks if task.key not in seconds]
    return Estimate(plan, seconds).left(left, **given)


def test_there_is_no_estimate_without_finished_tasks() -> None:
    plan = hand_plan(methods=["GA", "oracle"])
    assert left_of(plan, {}) is None
    # An oracle run trains nothing, so its duration gives no estimate for a training.
    tokens = {"a": 10, "b": 10, "unlearn": 10, "oracle": 0}
    plan = hand_plan(methods=["GA", "oracle"], tokens=tokens)
    assert left_of(plan, {"s0_a_oracle": 5.0}) is None
    assert Estimate(plan).left([]) == 0


def test_a_task_takes_as_long_as_finished_tasks_of_its_kind() -> None:
    plan = hand_plan(methods=["GA", "NPO"], tokens={"a": 10, "b": 30, "unlearn": 20})
    estimate = Estimate(plan, {"s0_a": 1.0, "s0_a-b": 6.0, "s0_a-b_GA": 9.0})
    assert estimate.of(plan.task["s0_b-a"]) == 1.0
    assert estimate.of(plan.task["s0_b"]) == 6.0
    assert estimate.of(plan.task["s0_b-a_GA"]) == 9.0
    # No NPO run is finished: estimate by its tokens, at 60 tokens in 16 seconds.
    assert estimate.of(plan.task["s0_a-b_NPO"]) == pytest.approx(20 * 16 / 60)
    estimate.seconds["s0_b"] = 2.0
    assert estimate.of(plan.task["s0_a-b"]) == 4.0


def test_workers_run_independent_tasks_at_the_same_time() -> None:
    plan = hand_plan(paths=[("a", "b"), ("b", "a")], methods=["GA", "NPO"])
    seconds = {"s0_a": 4.0, "s0_a-b": 4.0, "s0_a-b_GA": 4.0}
    # Five tasks are left: NPO on a-b, the stages b and b-a, and both methods on b-a.
    assert left_of(plan, seconds) == 20
    assert left_of(plan, seconds, workers=2) == 12
    assert left_of(plan, seconds, workers=100) == 12
    assert left_of(plan, seconds, begun={"s0_b": 0.75}) == 17
    assert left_of(plan, seconds, begun={"s0_b": 0.75}, workers=2) == 9


def naive_left(
    plan: StudyPlan,
    seconds: dict[str, float],
    left: Iterable[Task],
    begun: dict[str, float],
    workers: int,
) -> float | None:
    """Compute the estimate in another way: from the root of the tree, with means over lists."""
    methods = {key: trial.method for trial in plan.trials for key in trial.keys[-1:]}
    costs: dict[str, float] = {}
    for task in left:
        alike = [
            seconds[other.key]
            for other in plan.tasks
            if other.key in seconds
            and (other.stage, other.tokens, methods.get(other.key))
            == (task.stage, task.tokens, methods.get(task.key))
        ]
        training = [n for n in plan.tasks if n.key in seconds and n.tokens > 0]
        if alike:
            whole = sum(alike) / len(alike)
        elif training:
            pace = sum(seconds[n.key] for n in training) / sum(n.tokens for n in training)
            whole = pace * task.tokens
        else:
            return None
        costs[task.key] = whole * (1 - begun.get(task.key, 0))
    walks = [sum(costs.get(key, 0) for key in trial.keys) for trial in plan.trials]
    return max(sum(costs.values()) / workers, *walks)


@pytest.mark.parametrize("seed", range(20))
def test_the_estimate_equals_that_of_a_naive_implementation(seed: int) -> None:
    draws = random.Random(seed)
    stages = ["a", "b", "c"]
    plan = hand_plan(
        paths=draws.sample(list(itertools.permutations(stages)), 4),
        methods=draws.sample(["GA", "NPO", "oracle"], 2),
        seeds=[0, 1],
        sweep={RATE: [1, 2]},
        tokens={name: draws.choice([0, 10, 20]) for name in [*stages, "unlearn", "oracle"]},
    )
    # The parents of a finished task are finished.
    done: dict[str, float] = {}
    for task in plan.tasks:
        if (task.parent is None or task.parent in done) and draws.random() < 0.6:
            done[task.key] = draws.uniform(1, 100)
    left = [task for task in plan.tasks if task.key not in done]
    begun = {task.key: draws.random() for task in left if draws.random() < 0.3}
    for workers in (1, 3):
        expected = naive_left(plan, done, left, begun, workers)
        assert Estimate(plan, done).left(left, begun, workers) == pytest.approx(expected)
