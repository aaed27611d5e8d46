"""Studies with path-aware methods: what they share, train and report."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from study_runs import PATHS, outcome, spec_of, studied
from tiny_stages import WATCHED, Tiny

from lightning_unlearn.storage.records import STEPS, read_table
from lightning_unlearn.study.executors.local import LocalExecutor
from lightning_unlearn.study.plan import StudyPlan
from lightning_unlearn.study.runner import Study
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_runner import TaskRunner
from lightning_unlearn.study.tree_view import draw

METHODS: dict[str, dict[str, Any]] = {
    "NPO": {"class_path": "NPO"},
    "negation": {"class_path": "StageNegation"},
    "rewind": {"class_path": "Rewind"},
    "replay": {"class_path": "Replay", "init_args": {"fraction": 0.5}},
    "blind": {"class_path": "TaskNegation"},
}


def spec(tiny: Tiny) -> StudySpec:
    watched = [*WATCHED, {"class_path": "OracleDistance"}]
    methods = {label: {"callback": callback} for label, callback in METHODS.items()}
    return spec_of(tiny, fit=tiny.fit(watched), methods=methods, oracle=True)


def test_what_methods_use_is_in_the_tree_once_and_is_needed_by_their_runs(tiny: Tiny) -> None:
    plan = TaskRunner(spec(tiny)).plan()
    out = io.StringIO()
    Console(file=out, width=100).print(draw(plan, list(plan.trials), set()), highlight=False)
    assert out.getvalue() == (
        "small: 7 stage trainings instead of 17, 10 unlearnings, 1 oracle\n"
        "├── tofu\n"
        "│   ├── → oracle\n"
        "│   └── safety\n"
        "│       ├── → NPO, negation, rewind, replay, blind\n"
        "│       └── safety\n"
        "├── safety\n"
        "│   └── tofu\n"
        "│       ├── → NPO, negation, rewind, replay, blind\n"
        "│       └── safety\n"
        "└── tofu (2 steps)\n"
    )
    run = {(trial.path[0], trial.method): plan.task[trial.keys[-1]] for trial in plan.trials}
    oracle = plan.task[run["safety", "rewind"].history[0]]
    assert plan.label(oracle) == "tofu (seed 0)"
    assert StudyPlan.read(plan_values(plan)) == plan


def plan_values(plan: StudyPlan) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(plan)


def test_a_study_trains_each_model_once_and_rewinding_ends_at_the_oracle(tiny: Tiny) -> None:
    result, said = studied(spec(tiny), tiny, figures=True)
    assert not result.failed, said
    table = read_table(tiny.root / "study" / STEPS)
    last = table[table["step"] > 0].groupby(["method", "path", "metric"])["value"].last()
    for path in map("-".join, PATHS):
        assert abs(last["rewind", path, "kl/forget"]) < 1e-6
        # An oracle has no step.
        values = table[table["method"] == "oracle"].groupby("metric")["value"].first()
        assert last["rewind", path, "answers/safety"] == values["answers/safety"]
    assert (tiny.root / "study" / "report" / "index.html").is_file()


@pytest.mark.long
@pytest.mark.slow
def test_workers_give_the_results_of_one_process(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).parents[1]
    sought = (tests / "helpers", tests, tests.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sought)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone, together = tiny.below("alone"), tiny.below("together")
    studied(spec(alone), alone)
    together.root.mkdir()
    workers = LocalExecutor(spec(together), 2)
    Study(spec(together), workers, Console(file=io.StringIO()), figures=False).run()
    assert outcome(alone) == outcome(together)
