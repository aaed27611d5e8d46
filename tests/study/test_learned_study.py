"""Studies whose base model has learned the forget stage already."""

from typing import Any

import pytest
from study_runs import spec_of, studied
from tiny_stages import Tiny
from trained_elsewhere import random_adapter

from lightning_unlearn import InputError
from lightning_unlearn.analysis.reading import read_records
from lightning_unlearn.cli.main import main
from lightning_unlearn.storage.records import read_table
from lightning_unlearn.study.task_runner import TaskRunner

PATHS: list[list[str]] = [[], ["tofu"], ["tofu", "math"]]


def spec(tiny: Tiny, **changes: Any) -> Any:
    fit = tiny.fit()
    if not (tiny.root / "safety").exists():
        random_adapter(tiny.base, tiny.root / "safety")
    fit["model"] = {"base": str(tiny.base), "adapters": {"safety": str(tiny.root / "safety")}}
    return spec_of(tiny, "GA", **{"fit": fit, "paths": PATHS, **changes})


def test_a_study_of_orders_after_a_learned_stage(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """data.learned follows from model.adapters; what is not trained has no task."""
    plan = TaskRunner(spec(tiny)).plan()
    assert str(plan) == "2 stage trainings instead of 3, 3 unlearnings"
    assert {t.path for t in plan.trials} == {("safety", *path) for path in PATHS}
    assert {t.position for t in plan.trials} == {1}
    result, said = studied(spec(tiny), tiny)
    assert not result.failed, said
    folders = {run.parent.name for run in (tiny.root / "study").rglob("run.json")}
    assert folders == {"p1_safety_s0", "p1_safety-tofu_s0", "p1_safety-tofu-math_s0"}
    records = read_table(tiny.root / "study" / "records.parquet")
    assert set(read_records(records).runs["forget"]) == {"safety"}
    after = records[records["metric"] == "answers/safety"].query("step == 0").set_index("path")
    assert after["value"]["safety"] != after["value"]["safety-tofu"]
    assert main(["status", str(tiny.root / "study")]) == 0
    told = capsys.readouterr().out
    assert "5 tasks: 5 done" in told and "3 of 3 runs are finished" in told


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"paths": "positions"},
        "paths: found positions, but the forget stage 'safety' is in data.learned and cannot be "
        "moved, expected orders of the stages to train: paths: permutations, or lists such as "
        "paths: [[]] to train none.",
    ),
    (
        {"oracle": True},
        "oracle: found true with 'safety' in data.learned, expected false: model.base has learned "
        "the forget stage, so no oracle can be trained from it. Train one from a model that has "
        "not learned it, and name that with oracle: {base: ORACLE}.",
    ),
    (
        {"paths": [["safety", "tofu"]]},
        "paths: found 'safety', which is also in data.learned, expected only stages that "
        "model.base has not learned. Remove 'safety' from one of the two.",
    ),
    (
        {"sweep": {"data.learned": [["safety"]]}},
        "sweep.data.learned: data.learned cannot be swept. Use one study per list of learned "
        "stages instead.",
    ),
]


def test_studies_that_cannot_be_run_are_refused(tiny: Tiny) -> None:
    for changes, message in REFUSED:
        with pytest.raises(InputError) as refused:
            TaskRunner(spec(tiny, **changes)).plan()
        assert str(refused.value) == message
