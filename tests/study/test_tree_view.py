"""The printed tree of a study."""

import io
from collections.abc import Iterable
from dataclasses import replace

from planned import GA, MATH_RATE, ONE, RATE, planned
from rich.console import Console
from study_plans import hand_plan
from tiny_stages import Tiny

from lightning_unlearn.study.plan import StudyPlan
from lightning_unlearn.study.tree_view import draw


def drawn(plan: StudyPlan, only: str | None = None, made: Iterable[str] = ()) -> str:
    """Return the tree as a terminal shows it."""
    out = io.StringIO()
    Console(file=out, width=100).print(draw(plan, plan.select(only), set(made)), highlight=False)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_the_tree_of_positions(shared_tiny: Tiny) -> None:
    assert drawn(planned(shared_tiny, oracle=True)) == (
        "small: 13 stage trainings instead of 19, 8 unlearnings, 1 oracle\n"
        "├── inst\n"
        "│   ├── tofu\n"
        "│   │   ├── math\n"
        "│   │   │   ├── → oracle\n"
        "│   │   │   └── safety\n"
        "│   │   │       └── → GA, NPO\n"
        "│   │   └── safety\n"
        "│   │       └── math\n"
        "│   │           └── → GA, NPO\n"
        "│   └── safety\n"
        "│       └── tofu\n"
        "│           └── math\n"
        "│               └── → GA, NPO\n"
        "└── safety\n"
        "    └── inst\n"
        "        └── tofu\n"
        "            └── math\n"
        "                └── → GA, NPO\n"
    )


def test_seeds_with_equal_trees_are_drawn_once() -> None:
    plan = hand_plan(paths=[("a", "b")], methods=["GA"], seeds=[0, 1, 2])
    assert drawn(plan) == (
        "small: 6 stage trainings, 3 unlearnings\n"
        "└── seed 0, 1, 2, once for each\n"
        "    └── a\n"
        "        └── b\n"
        "            └── → GA\n"
    )
    assert drawn(plan, made=["s1_a"]) == (
        "small: 6 stage trainings, 3 unlearnings\n"
        "├── seed 0, 2, once for each\n"
        "│   └── a\n"
        "│       └── b\n"
        "│           └── → GA\n"
        "└── seed 1\n"
        "    └── a ✓\n"
        "        └── b\n"
        "            └── → GA\n"
    )
    assert drawn(plan, only="seed=2") == (
        "small: 6 stage trainings, 3 unlearnings\n"
        "└── a\n"
        "    └── b\n"
        "        └── → GA\n"
    )  # fmt: skip


def test_stored_tasks_are_marked() -> None:
    plan = hand_plan(paths=[("a", "b")], methods=["GA", "NPO", "oracle"], sweep={RATE: [1, 2]})
    runs = [trial.keys[-1] for trial in plan.runs()]
    assert drawn(plan, made=["s0_a", "s0_a_oracle", "s0_a-b", runs[0]]) == (
        "small: 2 stage trainings instead of 3, 4 unlearnings, 1 oracle\n"
        "└── a ✓\n"
        "    ├── → oracle ✓\n"
        "    └── b ✓\n"
        "        └── → GA x 2 settings, NPO x 2 settings (1 of 4 done)\n"
    )
    whole = drawn(plan, made=plan.task)
    assert whole.count("✓") == 4 and "done" not in whole


def test_the_tree_of_a_sweep_names_the_values_at_its_branches(shared_tiny: Tiny) -> None:
    sweep = {MATH_RATE: [1e-3, 1e-2], RATE: [1e-4, 1e-3, 1e-2]}
    plan = planned(shared_tiny, paths=ONE, methods={"GA": GA}, sweep=sweep)
    assert drawn(plan) == (
        "small: 4 stage trainings instead of 6, 6 unlearnings\n"
        "└── tofu\n"
        "    └── safety\n"
        "        ├── math (math.lr = 0.001)\n"
        "        │   └── → GA x 3 settings\n"
        "        └── math (math.lr = 0.01)\n"
        "            └── → GA x 3 settings\n"
    )


def test_names_are_not_read_as_markup() -> None:
    plan = replace(hand_plan(paths=[("[i]", "b")], methods=["[b]"]), name="[red]mine[/]")
    assert drawn(plan) == (
        "[red]mine[/]: 2 stage trainings, 1 unlearning\n"
        "└── [i]\n"
        "    └── b\n"
        "        └── → [b]\n"
    )  # fmt: skip
