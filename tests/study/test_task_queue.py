"""Order of tasks, also after failures."""

from planned import GRID, keys
from study_plans import hand_plan

from lightning_unlearn.study.task_queue import TaskQueue, TaskResult


def test_a_task_is_ready_when_the_tasks_it_needs_are_finished() -> None:
    plan = hand_plan(methods=["GA", "NPO"])
    frontier = TaskQueue(plan.tasks)
    assert keys(frontier.ready()) == ["s0_a", "s0_b"]
    frontier.take("s0_a")
    assert keys(frontier.ready()) == ["s0_b"]
    assert frontier.close(TaskResult("s0_a", "done")) == []
    assert keys(frontier.ready()) == ["s0_a-b", "s0_b"]
    for key in ("s0_a-b", "s0_b"):
        frontier.take(key)
    frontier.close(TaskResult("s0_a-b", "done"))
    assert keys(frontier.ready()) == ["s0_a-b_GA", "s0_a-b_NPO"]
    assert not frontier.is_over


def test_the_first_ready_task_is_the_first_of_the_plan() -> None:
    frontier = TaskQueue(GRID.tasks)
    order = []
    while not frontier.is_over:
        order.append(frontier.ready()[0].key)
        frontier.take(order[-1])
        frontier.close(TaskResult(order[-1], "done"))
    assert order == keys(GRID.tasks)
    assert frontier.ready() == []


def test_a_parent_that_is_not_in_the_queue_counts_as_finished() -> None:
    plan = hand_plan()
    frontier = TaskQueue([plan.task["s0_a-b"], plan.task["s0_a-b_GA"]])
    assert keys(frontier.ready()) == ["s0_a-b"]


def test_a_failure_skips_only_the_tasks_that_depend_on_it() -> None:
    frontier = TaskQueue(GRID.tasks)
    frontier.take("s0_a")
    skipped = frontier.close(TaskResult("s0_a", "failed", error="no luck"))
    lost = [task for task in GRID.tasks if task.key.startswith(("s0_a-", "s0_a_"))]
    assert skipped == [TaskResult(task.key, "skipped", error="no luck") for task in lost]
    order = []
    while ready := frontier.ready():
        order.append(ready[0].key)
        frontier.take(order[-1])
        frontier.close(TaskResult(order[-1], "done"))
    assert order == [n.key for n in GRID.tasks if n not in lost and n.key != "s0_a"]
    assert frontier.is_over


def test_a_task_that_is_given_back_is_the_first_one() -> None:
    plan = hand_plan()
    frontier = TaskQueue(plan.tasks)
    frontier.take("s0_a")
    frontier.take("s0_b")
    assert frontier.ready() == [] and not frontier.is_over
    frontier.give_back(plan.task["s0_b"])
    assert keys(frontier.ready()) == ["s0_b"]
    frontier.take("s0_b")
    frontier.close(TaskResult("s0_b", "done"))
    frontier.give_back(plan.task["s0_a"])
    assert keys(frontier.ready()) == ["s0_a", "s0_b-a"]
