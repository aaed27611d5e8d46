"""Plans: shared tasks, counts, order, names, and time estimates."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planned import GA, GRID, MATH_RATE, NPO, ONE, RATE, keys, planned
from study_plans import hand_plan
from tiny_stages import Tiny

from lightning_unlearn.errors import InputError
from lightning_unlearn.study.estimate import Estimate
from lightning_unlearn.study.plan import FILE, StudyPlan
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_queue import TaskQueue, TaskResult


def names(plan: StudyPlan) -> list[str]:
    """Return the stage trainings, each as the prefix that it completes."""
    return [plan.label(task).split(" ")[0] for task in plan.stages]


COUNTS: list[tuple[dict[str, Any], str]] = [
    ({}, "13 stage trainings instead of 16, 8 unlearnings"),
    ({"paths": "permutations"}, "64 stage trainings instead of 96, 48 unlearnings"),
    ({"oracle": True}, "13 stage trainings instead of 19, 8 unlearnings, 1 oracle"),
    (
        {"paths": "permutations", "methods": {}, "oracle": True},
        "15 stage trainings instead of 18, 6 oracles",
    ),
    ({"seeds": [0, 1, 5]}, "39 stage trainings instead of 48, 24 unlearnings"),
    ({"paths": [["safety"]], "methods": {"GA": GA}}, "1 stage training, 1 unlearning"),
    ({"sweep": {RATE: [1e-4, 1e-3]}}, "13 stage trainings instead of 16, 16 unlearnings"),
    (
        {"sweep": {RATE: [1e-4, 1e-3]}, "oracle": True, "seeds": [0, 1]},
        "26 stage trainings instead of 38, 32 unlearnings, 2 oracles",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), COUNTS, ids=lambda value: str(value)[:40])
def test_shared_tasks_are_counted_once(
    shared_tiny: Tiny, changes: dict[str, Any], expected: str
) -> None:
    assert str(planned(shared_tiny, **changes)) == expected


def test_the_stages_are_the_prefixes_of_the_paths(shared_tiny: Tiny) -> None:
    plan = planned(shared_tiny, paths="permutations", methods={"GA": GA})
    paths = list(itertools.permutations(["inst", "tofu", "math", "safety"]))
    assert [trial.path for trial in plan.trials] == paths
    assert [trial.place for trial in plan.trials] == list(range(1, 25))
    assert [trial.position for trial in plan.trials] == [path.index("safety") + 1 for path in paths]
    prefixes = {"-".join(path[:end]) for path in paths for end in range(1, 5)}
    assert sorted(names(plan)) == sorted(prefixes)


def test_a_swept_recipe_of_unlearning_trains_no_stage_twice(shared_tiny: Tiny) -> None:
    alone = planned(shared_tiny, methods={"GA": GA}, oracle=True)
    swept = planned(shared_tiny, methods={"GA": GA}, oracle=True, sweep={RATE: [2e-3, 1e-2]})
    assert [task.key for task in swept.stages] == [task.key for task in alone.stages]
    # One value is that of the fit configuration, and the oracle is the same for both.
    assert {trial.keys[-1] for trial in alone.trials} < {trial.keys[-1] for trial in swept.trials}
    assert len(swept.runs()) == 9


def test_a_swept_recipe_of_a_stage_splits_the_tree_at_that_stage(shared_tiny: Tiny) -> None:
    plan = planned(shared_tiny, methods={"GA": GA}, sweep={MATH_RATE: [1e-3, 1e-2]})
    for path in {trial.path for trial in plan.trials}:
        one, other = (trial for trial in plan.trials if trial.path == path)
        same = [a == b for a, b in zip(one.keys, other.keys, strict=True)]
        place = path.index("math")
        assert same == [True] * place + [False] * (5 - place)
    # safety / inst / inst-safety / inst-tofu / ...: prefixes with math appear twice.
    found = names(plan)
    assert all(found.count(name) == 1 + ("math" in name) for name in found)


def test_oracles_of_several_trials_are_one_run_in_one_folder(shared_tiny: Tiny) -> None:
    sweep = {RATE: [1e-4, 1e-3], "data.stages.safety.lr": [1e-3, 1e-2]}
    paths = [["safety", "math"], ["math", "safety"]]
    plan = planned(shared_tiny, paths=paths, methods={"GA": GA}, oracle=True, sweep=sweep)
    oracles = [trial for trial in plan.trials if trial.method == "oracle"]
    assert len(oracles) == 2 * 4
    assert {trial.run for trial in oracles} == {"oracle/math_s0"}
    assert len({trial.keys for trial in oracles}) == 1
    assert {trial.position for trial in oracles} == {1, 2}
    (task,) = (task for task in plan.tasks if task.stage == "oracle")
    assert task.is_run and task.tokens == 0
    assert plan.trials[task.trial] == oracles[0]
    assert [trial for trial in plan.runs() if trial.method == "oracle"] == [oracles[0]]


def test_a_swept_stage_changes_the_oracle(shared_tiny: Tiny) -> None:
    plan = planned(shared_tiny, methods={}, oracle=True, sweep={MATH_RATE: [1e-3, 1e-2]})
    runs = {trial.run for trial in plan.trials}
    assert runs == {f"oracle/lr={value}/inst-tofu-math_s0" for value in ("0.001", "0.01")}


def test_an_argument_of_the_method_does_not_change_the_oracle(shared_tiny: Tiny) -> None:
    sweep = {"trainer.callbacks.beta": [0.5, 2.0]}
    plan = planned(shared_tiny, paths=ONE, methods={"NPO": NPO}, oracle=True, sweep=sweep)
    assert [trial.run for trial in plan.runs()] == [
        "oracle/tofu-math_s0",
        "NPO/beta=0.5/p2_tofu-safety-math_s0",
        "NPO/beta=2/p2_tofu-safety-math_s0",
    ]


def test_a_swept_value_without_effect_adds_no_run(shared_tiny: Tiny) -> None:
    sweep = {"data.unlearn.schedule": ["wsd", "constant"], "data.unlearn.decay": [0.1, 0.2]}
    plan = planned(shared_tiny, paths=ONE, methods={"GA": GA}, sweep=sweep)
    assert len(plan.trials) == 4
    assert [trial.run.split("/")[1] for trial in plan.runs()] == [
        "schedule=wsd,decay=0.1",
        "schedule=wsd,decay=0.2",
        "schedule=constant",
    ]


def test_values_may_be_lists_and_null(shared_tiny: Tiny) -> None:
    sweep = {"data.unlearn.betas": [[0.9, 0.99], [0.8, 0.9]], "data.unlearn.gradient_clip": [None]}
    plan = planned(shared_tiny, paths=ONE, methods={"GA": GA}, sweep=sweep)
    assert [trial.run.split("/")[1] for trial in plan.trials] == [
        "betas=_0.9,0.99_,gradient_clip=null",
        "betas=_0.8,0.9_,gradient_clip=null",
    ]
    chosen = plan.select("betas=[0.8, 0.9],gradient_clip=null")
    assert [trial.sweep[0][1] for trial in chosen] == [[0.8, 0.9]]


def test_trials_have_distinct_folders(shared_tiny: Tiny) -> None:
    plan = planned(
        shared_tiny,
        paths=[["safety", "math"], ["math", "safety"]],
        seeds=[0, 7],
        sweep={RATE: [3e-5, 1e-3]},
        oracle=True,
        methods={"GA": GA},
    )
    assert [trial.run for trial in plan.runs()] == [
        "oracle/math_s0",
        "GA/lr=3e-5/p1_safety-math_s0",
        "GA/lr=0.001/p1_safety-math_s0",
        "GA/lr=3e-5/p2_math-safety_s0",
        "GA/lr=0.001/p2_math-safety_s0",
        "oracle/math_s7",
        "GA/lr=3e-5/p1_safety-math_s7",
        "GA/lr=0.001/p1_safety-math_s7",
        "GA/lr=3e-5/p2_math-safety_s7",
        "GA/lr=0.001/p2_math-safety_s7",
    ]


def test_keys_with_equal_last_parts_are_distinguished(shared_tiny: Tiny) -> None:
    sweep = {RATE: [1e-3], MATH_RATE: [1e-2]}
    plan = planned(shared_tiny, paths=ONE, methods={"GA": GA}, sweep=sweep)
    assert plan.trials[0].run == "GA/unlearn.lr=0.001,math.lr=0.01/p2_tofu-safety-math_s0"


def test_parents_come_first_and_trials_that_share_are_neighbors(shared_tiny: Tiny) -> None:
    sweep = {"model.lora.rank": [4, 2], RATE: [1e-4, 1e-3]}
    given: dict[str, Any] = {"seeds": [0, 1], "oracle": True, "methods": {"GA": GA}}
    plan = planned(shared_tiny, paths=ONE, sweep=sweep, **given)
    seen: set[str | None] = {None}
    for task in plan.tasks:
        assert task.parent in seen and task.key not in seen
        seen.add(task.key)
        trial = plan.trials[task.trial]
        assert trial.keys[task.number] == task.key
        assert task.key not in {key for c in plan.trials[: task.trial] for key in c.keys}
    assert seen == {None} | {key for trial in plan.trials for key in trial.keys}
    # The model changes least often, then the seed, then the path.
    ranks = [dict(trial.sweep)["model.lora.rank"] for trial in plan.trials]
    assert ranks == [4] * 8 + [2] * 8
    assert [trial.seed for trial in plan.trials] == ([0] * 4 + [1] * 4) * 2
    assert [trial.method for trial in plan.trials[:4]] == ["oracle"] * 2 + ["GA"] * 2


def test_tokens_are_those_that_training_processes(shared_tiny: Tiny) -> None:
    fit = shared_tiny.fit()
    fit["data"]["stages"]["tofu"]["epochs"] = 3
    fit["data"]["stages"]["math"] |= {"steps": 5, "batch_size": 4}
    plan = planned(shared_tiny, fit, paths=ONE, methods={"GA": GA})
    data = shared_tiny.datamodule()
    module = shared_tiny.module()
    data.load_rows(module.pretrained.tokenizer(), module.pretrained.context_length)
    sizes = {name: [len(example) for example in data.examples[name]] for name in data.stages}
    assert [(task.stage, task.tokens) for task in plan.tasks] == [
        ("tofu", 3 * sum(sizes["tofu"])),
        ("safety", sum(sizes["safety"])),
        ("math", 20 * sum(sizes["math"]) // len(sizes["math"])),
        ("unlearn", sum(sizes["safety"])),
    ]


def test_truncated_answers_are_reported_once(shared_tiny: Tiny) -> None:
    fit = shared_tiny.fit()
    fit["data"]["max_length"] = 48
    plan = planned(shared_tiny, fit, paths=[["safety"], ["tofu", "safety"]], seeds=[0, 1])
    found = [own for own in plan.remarks if " answers are truncated at 48 tokens" in own]
    assert found and len(set(found)) == len(found) <= 2


def test_nothing_is_written_and_the_plan_is_always_the_same(shared_tiny: Tiny) -> None:
    before = sorted(shared_tiny.root.rglob("*"))
    one, other = (planned(shared_tiny, paths=ONE, oracle=True) for _ in range(2))
    assert one == other
    assert sorted(shared_tiny.root.rglob("*")) == before


CONDITIONS: list[tuple[str | None, int, str]] = [
    (None, 48, "True"),
    ("path=2", 24, "c.place == 2"),
    ("path=a-b", 24, "c.place == 2"),
    ("path=1,path=a-b", 48, "True"),
    ("position=1", 24, "c.path == ('b', 'a')"),
    ("method=NPO", 16, "c.method == 'NPO'"),
    ("method=GA, method=oracle", 32, "c.method != 'NPO'"),
    ("seed=1", 24, "c.seed == 1"),
    ("data.unlearn.lr=3e-5", 24, "c.sweep[0][1] == 3e-5"),
    ("lr=0.00003", 24, "c.sweep[0][1] == 3e-5"),
    ("unlearn.lr=3.0e-05", 24, "c.sweep[0][1] == 3e-5"),
    ("lr=1", 24, "c.sweep[0][1] == 1"),
    ("schedule=cosine", 24, "c.sweep[1][1] == 'cosine'"),
    ("path=2,method=NPO,seed=0,lr=1,lr=3e-5", 4, "(c.place, c.method, c.seed) == (2, 'NPO', 0)"),
]


@pytest.mark.parametrize(("only", "count", "rule"), CONDITIONS)
def test_trials_are_selected_by_conditions(only: str | None, count: int, rule: str) -> None:
    chosen = GRID.select(only)
    assert chosen == [trial for trial in GRID.trials if eval(rule, {"c": trial})]
    assert len(chosen) == count


KEYS = "path, position, method, seed, data.unlearn.lr, data.unlearn.schedule"


REFUSED = [
    ("pth=1", f"--only: found 'pth=1', expected KEY=VALUE with a key of {KEYS}."),
    ("method", f"--only: found 'method', expected KEY=VALUE with a key of {KEYS}."),
    ("seed=0,", f"--only: found '', expected KEY=VALUE with a key of {KEYS}."),
    ("r=1", f"--only: found 'r=1', expected KEY=VALUE with a key of {KEYS}."),
    ("path=3", "--only: found path=3, expected one of 1, 2, a-b, b-a."),
    ("method=npo", "--only: found method=npo, expected one of GA, NPO, oracle."),
    ("seed=", "--only: found seed=, expected one of 0, 1."),
    ("lr=2", "--only: found data.unlearn.lr=2, expected one of 1, 3e-5."),
    (
        "path=1,position=2",
        "--only: found 'path=1,position=2', expected conditions that at least one trial of the "
        "study fulfills.",
    ),
]


@pytest.mark.parametrize(("only", "message"), REFUSED)
def test_conditions_that_no_trial_fulfills(only: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        GRID.select(only)
    assert str(refused.value) == message


def test_an_ambiguous_short_name_of_a_swept_key_is_refused() -> None:
    plan = hand_plan(sweep={RATE: [1.0], MATH_RATE: [2.0]})
    expected = "--only: found 'lr=1', expected KEY=VALUE with a key of path, position, method, seed"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}, {RATE}, {MATH_RATE}.$"):
        plan.select("lr=1")
    assert plan.select("unlearn.lr=1,math.lr=2") == list(plan.trials)


def test_selected_trials_need_their_tasks_and_the_parents_of_these() -> None:
    found = [task.key for task in GRID.needed(GRID.select("path=1,method=oracle,seed=1"))]
    assert found == ["s1_a", "s1_a_oracle"]


def with_oracle() -> StudyPlan:
    """Return a plan with runs on b-a and a-b; their oracle is the model trained on a alone."""
    plan = hand_plan(methods=("oracle", "GA"))
    tasks = tuple(
        replace(task, oracle="s0_a" if task.stage == "unlearn" else None) for task in plan.tasks
    )
    return replace(plan, tasks=tasks)


def test_a_run_needs_its_oracle_too() -> None:
    plan = with_oracle()
    found = [task.key for task in plan.needed(plan.select("path=2,method=GA"))]
    assert found == ["s0_a", "s0_b", "s0_b-a", "s0_b-a_GA"]
    queue = TaskQueue(plan.needed(plan.select("path=2,method=GA")))
    for key in ("s0_b", "s0_b-a"):
        queue.take(key)
        queue.close(TaskResult(key, "done"))
    assert keys(queue.ready()) == ["s0_a"]
    queue.take("s0_a")
    lost = queue.close(TaskResult("s0_a", "failed", error="why"))
    assert [(o.key, o.state, o.error) for o in lost] == [("s0_b-a_GA", "skipped", "why")]
    assert queue.is_over


def test_a_run_starts_after_its_oracle() -> None:
    plan = with_oracle()
    seconds = {"s0_a": 50.0, "s0_b": 1.0, "s0_b-a": 1.0, "s0_b-a_GA": 1.0}
    tasks = [plan.task[key] for key in seconds]
    tokens = {key: int(100 * value) for key, value in seconds.items()}
    plan = replace(plan, tasks=tuple(replace(n, tokens=tokens.get(n.key, 1)) for n in plan.tasks))
    tasks = [plan.task[key] for key in seconds]
    known = Estimate(plan, dict(seconds))
    assert known.left(tasks, workers=4) == pytest.approx(51.0)


def test_a_written_plan_is_read_unchanged(tmp_path: Path, shared_tiny: Tiny) -> None:
    sweep = {RATE: [1e-4, 1e-3], "data.unlearn.gradient_clip": [None, 1]}
    for plan in (GRID, planned(shared_tiny, paths=ONE, seeds=[3], oracle=True, sweep=sweep)):
        plan.write(tmp_path / "deep" / "folder")
        read = StudyPlan.read(json.loads((tmp_path / "deep" / "folder" / FILE).read_text()))
        assert read == plan and str(read) == str(plan)


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    GRID.write(tmp_path)
    values = {**json.loads((tmp_path / FILE).read_text()), "format": 0}
    message = (
        "found format 0 of another version of lightning-unlearn, expected 2. Write it again with: "
        "lightning-unlearn study --config FILE"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        StudyPlan.read(values)


def test_a_written_spec_is_read_unchanged(shared_tiny: Tiny) -> None:
    spec = StudySpec("s", shared_tiny.fit(), {"GA": GA}, [["a"]], [1], {RATE: [None, 1e-4]}, True)
    assert StudySpec.read(spec.write()) == spec


def test_a_task_is_named_by_its_prefix_or_its_folder() -> None:
    plan = hand_plan(methods=["GA", "oracle"], seeds=[3], sweep={RATE: [1e-3]})
    assert [plan.label(task) for task in plan.tasks] == [
        "a (seed 3, lr = 0.001)",
        "a-b (seed 3, lr = 0.001)",
        "GA,0.001/a-b_s3",
        "oracle/a_s3",
        "b (seed 3, lr = 0.001)",
        "b-a (seed 3, lr = 0.001)",
        "GA,0.001/b-a_s3",
    ]
