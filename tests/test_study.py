"""Studies: what they count, what they leave, and that they survive failures and kills."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from conftest import Start, Tiny, digests, results
from rich.console import Console
from torch import Tensor

from lightning_unlearn import (
    GA,
    NPO,
    AnswerLikelihood,
    InputError,
    LabelLikelihood,
    LogProbs,
    Recipe,
    StagedTrainer,
    Unlearning,
)
from lightning_unlearn.progress import StageProgress
from lightning_unlearn.records import EXAMPLES, STEPS, read_table
from lightning_unlearn.study.engine import Study, StudyResult
from lightning_unlearn.study.plan import Cell, StudyPlan

PATHS = [("tofu", "safety"), ("safety", "tofu")]
STAGES = ("inst", "tofu", "math", "safety")


class Breaks(Unlearning):
    """Raises in its second step."""

    uses_reference = False

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        self._calls += 1
        if self._calls == 2:
            raise RuntimeError("out of [memory]")
        return policy.sum


METHODS: dict[str, type[Unlearning]] = {"GA": GA, "NPO": NPO, "Breaks": Breaks}


def studied(
    tiny: Tiny,
    methods: Sequence[str] = ("GA", "NPO"),
    watched: bool = True,
    paths: Sequence[tuple[str, ...]] = PATHS,
) -> tuple[StudyResult, str]:
    """Run a study, and what it said."""
    recipe = Recipe(lr=2e-3, epochs=1, batch_size=4)

    def make_trainer(label: str, bar: StageProgress) -> StagedTrainer:
        monitors = [LabelLikelihood(2, limit=4), AnswerLikelihood(2)] if watched else []
        # With and without a display: what is trained must not depend on it.
        trainer = tiny.trainer([METHODS[label](), *monitors, bar], enable_progress_bar=watched)
        assert trainer.method is not None
        trainer.method.name = label
        trainer.announces = False
        return trainer

    tiny.root.mkdir(exist_ok=True)
    with (tiny.root / "said").open("a", encoding="utf-8") as said:
        console = Console(file=said, width=500)
        study = Study(
            "small",
            tiny.module(),
            tiny.datamodule(),
            paths,
            dict.fromkeys(methods, recipe),
            make_trainer,
            tiny.root / "study",
            console,
        )
        result = study.run()
    return result, (tiny.root / "said").read_text()


def test_a_plan_counts_what_is_shared(tiny: Tiny) -> None:
    data = tiny.datamodule()
    methods = ["GA", "NPO", "SimNPO"]
    positions = StudyPlan(data.paths("positions"), methods)
    assert (len(positions.prefixes), positions.stages_apart, len(positions.cells)) == (13, 16, 12)
    assert str(positions) == "13 stage trainings instead of 16, 12 unlearnings"
    orders = StudyPlan(data.paths("permutations"), methods)
    assert (len(orders.prefixes), orders.stages_apart, len(orders.cells)) == (64, 96, 72)
    assert str(orders) == "64 stage trainings instead of 96, 72 unlearnings"
    one = StudyPlan([("a",)], ["GA"])
    assert str(one) == "1 stage training, 1 unlearning"
    assert [str(cell) for cell in positions.cells[:4]] == [
        "GA safety-inst-tofu-math",
        "NPO safety-inst-tofu-math",
        "SimNPO safety-inst-tofu-math",
        "GA inst-safety-tofu-math",
    ]


def test_a_study_trains_what_it_planned_and_leaves_tables_and_figures(tiny: Tiny) -> None:
    pytest.importorskip("matplotlib")
    result, said = studied(tiny)
    assert result.failed == {} and len(result.runs) == 4
    folder = result.folder
    names = ["table.md", "table.csv", STEPS, EXAMPLES, "forget.png", "utility.png"]
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)
    for image in ("forget.png", "utility.png"):
        assert (folder / image).read_bytes().startswith(b"\x89PNG")
    # Four stage trainings (no prefix is shared), four unlearnings.
    assert len(list((tiny.root / "store").glob("*/entry.json"))) == 8
    assert "4 stage trainings, 4 unlearnings" in said
    assert "[1/4] GA tofu-safety: tofu, safety, unlearn (" in said
    assert "[2/4] NPO tofu-safety: unlearn (" in said
    table = pd.read_csv(folder / "table.csv")
    assert list(table["method"]) == ["GA", "NPO", "GA", "NPO"]
    assert list(table["position"]) == [2, 2, 1, 1]
    text = (folder / "table.md").read_text()
    assert text.count("tofu-**safety**") == text.count("**safety**-tofu") == 2
    records = read_table(folder / STEPS)
    assert set(records["study"]) == {"small"}
    runs = pd.concat([read_table(run / STEPS) for run in result.runs], ignore_index=True)
    pd.testing.assert_frame_equal(records.drop(columns="study"), runs)
    first = records[(records["method"] == "GA") & (records["path"] == "tofu-safety")]
    mean = first[first["measure"] == "forget/mean"].set_index("step")["value"]
    score = table[(table["method"] == "GA") & (table["path"] == "tofu-safety")]["forget_score"]
    assert score.item() == pytest.approx(mean[0] - mean[mean.index.max()], abs=5e-4)

    before = digests(folder, *names)
    runs_before = [results(run) for run in result.runs]
    again, said = studied(tiny)
    assert "[4/4] NPO safety-tofu: all found in the store (" in said
    assert digests(folder, *names) == before
    assert [results(run) for run in again.runs] == runs_before


def test_a_failing_method_is_reported_and_the_others_go_on(tiny: Tiny) -> None:
    result, said = studied(tiny, methods=("Breaks", "NPO"))
    assert result.failed == {Cell(path, "Breaks"): "out of [memory]" for path in PATHS}
    assert [run.parent.name for run in result.runs] == ["NPO", "NPO"]
    assert "[1/4] Breaks tofu-safety: out of [memory]" in said
    assert "RuntimeError: out of [memory]" in said
    table = (result.folder / "table.md").read_text()
    assert "- Breaks tofu-safety failed: out of [memory]" in table
    assert "| Breaks" not in table
    alone, _ = studied(tiny.below("alone"), methods=("NPO",))
    assert [results(run) for run in result.runs] == [results(run) for run in alone.runs]


def test_a_study_in_which_everything_fails_writes_no_table(tiny: Tiny) -> None:
    result, _ = studied(tiny, methods=("Breaks",))
    assert len(result.failed) == 2 and result.runs == []
    assert not result.folder.exists()


def test_a_study_without_monitors_keeps_its_runs(tiny: Tiny) -> None:
    """Nothing was measured, so there is nothing to tabulate; that must not be an error."""
    result, said = studied(tiny, watched=False, paths=PATHS[:1])
    assert len(result.runs) == 2 and result.failed == {}
    assert "There is no table, for nothing was measured" in said


def test_mistakes_are_found_before_the_first_run(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"data\.order: found the unknown stage 'history'"):
        studied(tiny, paths=[*PATHS, ("history", "safety")])
    assert not (tiny.root / "store").exists() and not (tiny.root / "runs").exists()


def child_study(tiny: Tiny) -> None:
    studied(tiny)


def outcome(tiny: Tiny) -> dict[str, dict[str, str]]:
    found = {
        f"{run.parent.name}/{run.name}": results(run) for run in (tiny.root / "runs").glob("*/*")
    }
    found["study"] = digests(tiny.root / "study", "table.md", "table.csv", STEPS, EXAMPLES)
    return found


def run_child(tiny: Tiny, start: Start, output: Path) -> float:
    began = time.monotonic()
    child = start(child_study, tiny)
    child.join(180)
    assert child.exitcode == 0, output.read_text()
    return time.monotonic() - began


def test_kills_at_random_moments_change_nothing(tiny: Tiny, start: Start) -> None:
    undisturbed, killed = tiny.below("undisturbed"), tiny.below("killed")
    whole = run_child(undisturbed, start, tiny.root / "output")
    moments = random.Random(2)
    alive = 0
    for _ in range(4):
        child = start(child_study, killed)
        time.sleep(moments.uniform(0.1, 0.9) * whole)
        alive += child.is_alive()
        child.kill()
        child.join(30)
    assert alive > 0, "no kill came in time"
    run_child(killed, start, tiny.root / "output")
    assert outcome(killed) == outcome(undisturbed)
    assert len(outcome(killed)) == 5
