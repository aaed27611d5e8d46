"""Plans of tiny studies."""

from collections.abc import Iterable
from typing import Any

from study_plans import hand_plan
from tiny_stages import Tiny

from lightning_unlearn.study.plan import StudyPlan, Task
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.study.task_runner import TaskRunner

GA = {"callback": {"class_path": "GA"}, "unlearn": {}}


NPO = {"callback": {"class_path": "NPO", "init_args": {"beta": 0.5}}, "unlearn": {}}


ONE = [["tofu", "safety", "math"]]


RATE = "data.unlearn.lr"


MATH_RATE = "data.stages.math.lr"


def planned(tiny: Tiny, fit: dict[str, Any] | None = None, **changes: Any) -> StudyPlan:
    """The plan of a study of the four tiny stages, safety to be forgotten."""
    given: dict[str, Any] = {
        "name": "small",
        "fit": fit or tiny.fit(),
        "methods": {"GA": GA, "NPO": NPO},
        "folder": str(tiny.root / "study"),
    }
    return TaskRunner(StudySpec(**{**given, **changes})).plan()


SWEEP = {RATE: [3e-5, 1.0], "data.unlearn.schedule": ["wsd", "cosine"]}


GRID = hand_plan(
    paths=[("b", "a"), ("a", "b")], methods=["GA", "NPO", "oracle"], seeds=[0, 1], sweep=SWEEP
)


def keys(tasks: Iterable[Task]) -> list[str]:
    return [task.key for task in tasks]
