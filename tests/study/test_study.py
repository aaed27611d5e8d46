"""Studies: their results, and that they survive failures and kills."""

import errno
import random
import re
import shlex
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_runs import PATHS, method, outcome, spec_of, studied
from tiny_stages import Start, Tiny, dies_at, results, told_changes
from torch import Tensor

from lightning_unlearn import InputError, LogProbs, Unlearning
from lightning_unlearn.cli.main import main
from lightning_unlearn.errors import StorageError
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table
from lightning_unlearn.study.runner import Study
from lightning_unlearn.study.spec import StudySpec

pytestmark = pytest.mark.long


def run_study(spec: str, figures: bool = False) -> None:
    """Run a study in a child process."""
    assert not Study(StudySpec.read(spec), figures=figures).run().failed


def run_child(tiny: Tiny, start: Start, output: Path, figures: bool = False) -> int:
    """Run a study in a child process; return the number of file changes it makes."""
    tiny.root.mkdir(exist_ok=True)
    told = tiny.root / "changes"
    child = start(told_changes, told, tiny.root, run_study, spec_of(tiny).write(), figures)
    child.join(600)
    assert child.exitcode == 0, output.read_text()
    return int(told.read_text())


@dataclass(frozen=True)
class Undisturbed:
    """A study that runs to its end: its folder, its results, and its number of file changes."""

    folder: Path
    outcome: dict[str, dict[str, str]]
    changes: int


@pytest.fixture(scope="module")
def beside(shared_tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(shared_tiny.base, shared_tiny.data, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def undisturbed(beside: Tiny, start: Start, tmp_path: Path) -> Undisturbed:
    """Run the study once for all tests that compare with it."""
    made = beside.root / "changes"
    if not made.exists():
        run_child(beside, start, tmp_path / "output")
    return Undisturbed(beside.root / "study", outcome(beside), int(made.read_text()))


def test_a_study_runs_its_plan_and_writes_tables_and_figures(tiny: Tiny) -> None:
    pytest.importorskip("matplotlib")
    result, said = studied(spec_of(tiny), tiny, figures=True)
    assert result.failed == {} and len(result.runs) == 4
    folder = result.folder
    names = [STEPS, EXAMPLES, "report", "study.json", "GA", "NPO"]
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)
    for image in ("forget.png", "utility.png"):
        assert (folder / "report" / image).read_bytes().startswith(b"\x89PNG")
    # Four stage trainings (no shared prefix) and four unlearnings.
    assert len(list((tiny.root / "store").glob("*/entry.json"))) == 8
    assert "small: 4 stage trainings, 4 unlearnings" in said
    assert re.search(r"\[1/8\] tofu \(seed 0\) \([\d.]+ s, about \d+ s left\)", said)
    assert "[3/8] GA/p2_tofu-safety_s0 (" in said
    table = pd.read_csv(folder / "report" / "table.csv")
    assert list(table["method"]) == ["GA", "NPO", "GA", "NPO"]
    assert list(table["position"]) == [2, 2, 1, 1]
    text = (folder / "report" / "table.md").read_text()
    assert text.count("tofu-**safety**") == text.count("**safety**-tofu") == 2
    records = read_table(folder / STEPS)
    assert set(records["study"]) == {"small"}
    runs = pd.concat([read_table(run / STEPS) for run in result.runs], ignore_index=True)
    pd.testing.assert_frame_equal(records.drop(columns="study"), runs)
    first = records[(records["method"] == "GA") & (records["path"] == "tofu-safety")]
    mean = first[first["metric"] == "forget/mean"].set_index("step")["value"]
    score = table[(table["method"] == "GA") & (table["path"] == "tofu-safety")]["forget_score"]
    assert score.item() == pytest.approx(mean[0] - mean[mean.index.max()], abs=5e-4)

    before = outcome(tiny)
    again, said = studied(spec_of(tiny), tiny, figures=True)
    assert "8 of 8 tasks are in the store already." in said and "[1/" not in said
    assert outcome(tiny) == before and again.runs == result.runs


def test_the_configuration_of_a_run_repeats_the_run(tiny: Tiny) -> None:
    result, _ = studied(spec_of(tiny, "NPO", seeds=[3], paths=PATHS[1:]), tiny)
    (run,) = result.runs
    before = results(run)
    arguments = ["--trainer.store", str(tiny.root / "other"), "--trainer.run_name", "again"]
    assert main(["fit", "--config", str(run / "config.yaml"), *arguments]) == 0
    assert results(tiny.root / "study" / "again") == before


def test_seeds_settings_and_oracles_are_distinct_in_the_records(tiny: Tiny) -> None:
    sweep = {"data.unlearn.lr": [1e-3, 2e-3], "data.unlearn.schedule": ["wsd", "constant"]}
    spec = spec_of(tiny, "GA", seeds=[0, 7], sweep=sweep, oracle=True)
    result, said = studied(spec, tiny, figures=True)
    assert "8 stage trainings instead of 10, 16 unlearnings, 2 oracles" in said
    assert len(result.runs) == 18 and result.failed == {}
    records = read_table(result.folder / STEPS)
    assert list(records.columns) == [
        *("study", "path", "position", "method", "seed"),
        *(*sweep, "stage", "step", "metric", "value"),
    ]
    trials = ["path", "method", "seed", *sweep]
    assert len(records[trials].drop_duplicates()) == 2 * 2 * 2 * 4
    oracles = records[records["method"] == "oracle"]
    assert set(oracles["stage"]) == {"oracle"} and set(oracles["step"]) == {0}
    by_measure = oracles.groupby(["seed", "metric"])["value"]
    assert (by_measure.nunique() == 1).all() and (by_measure.size() == 2 * 4).all()
    assert len(oracles[["seed", "value", "metric"]].drop_duplicates()) == 2 * 5
    # Another seed gives another model, another setting gives another forgetting.
    last = records[(records["step"] > 0) & (records["metric"] == "forget/label")]
    assert last["value"].nunique() == len(last)
    names = {str(run.relative_to(result.folder)) for run in result.runs}
    assert "oracle/tofu_s7" in names
    assert "GA/lr=0.002,schedule=constant/p1_safety-tofu_s0" in names


def test_an_oracle_is_the_model_trained_without_the_forget_stage(tiny: Tiny) -> None:
    """Its answers to the forget prompts are those of the model after the other stages."""
    fit = tiny.fit(precision="64-true")
    studied(spec_of(tiny, "GA", fit=fit, oracle=True, paths=PATHS[:1]), tiny)
    records = read_table(tiny.root / "study" / EXAMPLES)
    oracle = records[(records["method"] == "oracle") & (records["metric"] == "answers/safety")]
    module, data = tiny.module(), tiny.datamodule(order=["tofu", "safety"], oracle=True)
    trainer = tiny.trainer([], precision="64-true")
    trainer.fit(module, data)
    assert trainer.trained_stages == ["oracle"]
    expected = module.evaluator.score(data.examples["safety"], 32).mean
    assert oracle["value"].tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_selected_trials_first_and_later_the_rest(tiny: Tiny, undisturbed: Undisturbed) -> None:
    result, said = studied(spec_of(tiny), tiny, only="path=1,method=NPO")
    assert [run.parent.name for run in result.runs] == ["NPO"]
    assert "- 3 of 4 runs are missing." in (result.folder / "report" / "table.md").read_text()
    assert "[3/3] NPO/p2_tofu-safety_s0" in said
    studied(spec_of(tiny), tiny)
    assert outcome(tiny) == undisturbed.outcome


@pytest.mark.slow
def test_a_study_without_figures_names_the_command_that_draws_them(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    result, _ = studied(spec_of(tiny, "GA", paths=PATHS[:1]), tiny)
    suffixes = {file.suffix for file in (result.folder / "report").iterdir()}
    assert suffixes == {".csv", ".md", ".tex"}
    command = f"lightning-unlearn report {result.folder}"
    assert capsys.readouterr().out.endswith(f"To draw figures and page: {command}\n")
    assert main(shlex.split(command)[1:]) == 0
    assert (result.folder / "report" / "index.html").is_file()
    assert (result.folder / "report" / "forget.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("label", ["Breaks", "Diverges"])
def test_a_failing_method_is_reported_and_the_others_continue(
    tiny: Tiny, undisturbed: Undisturbed, label: str
) -> None:
    result, said = studied(spec_of(tiny, label, "NPO"), tiny)
    failed = [f"{label}/p2_tofu-safety_s0", f"{label}/p1_safety-tofu_s0"]
    assert list(result.failed) == failed
    assert [run.parent.name for run in result.runs] == ["NPO", "NPO"]
    table = (result.folder / "report" / "table.md").read_text()
    assert f"| {label}" not in table
    if label == "Breaks":
        assert "[3/8] Breaks/p2_tofu-safety_s0: out of [memory]" in said
        assert "RuntimeError: out of [memory]" in said
        assert r"- Breaks/p2_tofu-safety_s0 failed: out of [memory]" in table.replace("\\", "")
    else:
        assert "stage unlearn, step 2 of 3: the loss is nan" in said and "Traceback" not in said
    for run in result.runs:
        assert results(run) == results(undisturbed.folder / run.relative_to(result.folder))


def test_a_failing_stage_skips_only_the_tasks_that_depend_on_it(tiny: Tiny) -> None:
    fit = tiny.fit()
    fit["data"]["stages"]["safety"]["lr"] = 1e30
    result, said = studied(spec_of(tiny, "GA", fit=fit, oracle=True), tiny, figures=True)
    assert len(result.failed) == 5
    assert [run.parent.name for run in result.runs] == ["oracle"]
    first = "skipped: a task it depends on failed: stage safety, step "
    assert f"GA/p2_tofu-safety_s0: {first}" in said and f"safety-tofu (seed 0): {first}" in said
    # Only the oracle was evaluated.
    assert "Only oracles were measured" in (result.folder / "report" / "table.md").read_text()


@pytest.mark.slow
def test_a_study_in_which_everything_fails_writes_no_table(tiny: Tiny) -> None:
    result, _ = studied(spec_of(tiny, "Breaks"), tiny)
    assert len(result.failed) == 2 and result.runs == []
    assert not (result.folder / "report" / "table.md").exists()


def test_a_study_without_monitors_stores_its_runs(tiny: Tiny) -> None:
    """There are no results to write; this must not be an error."""
    result, said = studied(spec_of(tiny, fit=tiny.fit([]), paths=PATHS[:1], oracle=True), tiny)
    assert len(result.runs) == 3 and result.failed == {}
    assert "No tables are written: trainer.callbacks has no monitor" in said


def test_mistakes_are_found_before_the_first_run(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"paths: found the unknown stage 'history'"):
        studied(spec_of(tiny, paths=[*PATHS, ["history", "safety"]]), tiny)
    assert [file.name for file in tiny.root.iterdir()] == ["said"]


def test_a_damaged_entry_is_named_and_rebuilt(tiny: Tiny) -> None:
    studied(spec_of(tiny), tiny)
    before = outcome(tiny)
    for manifest in sorted((tiny.root / "store").glob("*/entry.json"))[::3]:
        weights = next(manifest.parent.glob("*/adapter_model.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-7])
    foreign = sorted((tiny.root / "store").glob("*/entry.json"))[1]
    foreign.write_text(foreign.read_text().replace('"key": "', '"key": "f'))
    result, said = studied(spec_of(tiny), tiny)
    assert said.count("is damaged (") == 4 and said.count("rebuilding.") == 4
    assert "bytes, expected" in said and "its key is" in said
    assert result.failed == {} and outcome(tiny) == before


def test_a_folder_of_a_run_that_lost_a_file_is_filled_again(tiny: Tiny) -> None:
    result, _ = studied(spec_of(tiny), tiny)
    before = outcome(tiny)
    first, second, third, fourth = result.runs
    (first / STEPS).unlink()
    (second / EXAMPLES).write_text("not a table")
    shutil.rmtree(third / "unlearn")
    weights = bytearray((fourth / "learn" / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (fourth / "learn" / "adapter_model.safetensors").write_bytes(weights)
    result, said = studied(spec_of(tiny), tiny)
    assert result.failed == {} and "[4/4]" in said and "[5/" not in said
    assert said.count("rebuilding it from the store") == 4
    assert f"{fourth} is damaged (learn/adapter_model.safetensors does not match" in said
    assert outcome(tiny) == before


@pytest.mark.slow
def test_results_that_cannot_be_written_are_one_clear_error(
    tiny: Tiny, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may be on another disk than the results."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    message = r"trainer\.default_root_dir: .*GA/p2_tofu-safety_s0 cannot be written: No space left"
    with pytest.raises(StorageError, match=message):
        studied(spec_of(tiny), tiny)
    monkeypatch.undo()
    studied(spec_of(tiny), tiny)
    assert outcome(tiny) == undisturbed.outcome


class Random(Unlearning):
    """A method with an attribute that has no stable text."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = object()

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        return policy.sum


def test_a_method_without_a_stable_key_is_refused(tiny: Tiny) -> None:
    message = (
        r"^methods\.Random: trainer\.callbacks: Random\.draws is of type object, expected a "
        "type whose content can be read"
    )
    methods = {"Random": method("test_study.Random")}
    with pytest.raises(InputError, match=message):
        studied(spec_of(tiny, methods=methods), tiny)


@pytest.mark.slow
def test_a_full_disk_ends_the_study_and_leaves_the_store_undamaged(
    tiny: Tiny, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other trial could store its results; the stored entries do not change."""
    from lightning_unlearn.storage.stage_store import StageStore

    put, made = StageStore.put, []

    def full(self: StageStore, key: str, *rest: Any) -> Path:
        made.append(key)
        if len(made) == 3:
            raise StorageError("trainer.store: it can't be written: No space left on device.")
        return put(self, key, *rest)

    monkeypatch.setattr(StageStore, "put", full)
    with pytest.raises(StorageError, match="No space left on device"):
        studied(spec_of(tiny), tiny)
    assert len(made) == 3
    monkeypatch.undo()
    studied(spec_of(tiny), tiny)
    assert outcome(tiny) == undisturbed.outcome


@pytest.mark.slow
def test_two_studies_on_one_store_share_the_work(
    tiny: Tiny, undisturbed: Undisturbed, start: Start
) -> None:
    """They run at the same time with one common method: no task runs twice."""
    one, other = tiny.below("one"), tiny.below("other")
    specs = []
    for place, methods in ((one, ("GA", "NPO")), (other, ("NPO",))):
        fit = place.fit(store=str(tiny.root / "store"))
        specs.append(spec_of(place, *methods, fit=fit))
        place.root.mkdir()
    children = [start(run_study, spec.write(), output=f"said-{n}") for n, spec in enumerate(specs)]
    for child in children:
        child.join(600)
    said = [(tiny.root / f"said-{n}").read_text() for n in range(2)]
    assert [child.exitcode for child in children] == [0, 0], said
    assert len(list((tiny.root / "store").glob("*/entry.json"))) == 4 + 4
    words = [" ".join(text.split()) for text in said]
    trained = sum(text.count("✓") - text.count("(found in the store") for text in words)
    assert trained == 8, said
    assert outcome(one) == undisturbed.outcome


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_a_random_moment_changes_nothing(
    tiny: Tiny, undisturbed: Undisturbed, start: Start, moment: int
) -> None:
    """After SIGKILL and the same command again, the results equal those of an undisturbed study."""
    killed = tiny.below("killed")
    killed.root.mkdir()
    at = 1 + int((moment + random.Random(moment).random()) / 9 * undisturbed.changes)
    child = start(dies_at, at, killed.root, run_study, spec_of(killed).write())
    child.join(600)
    assert child.exitcode == -signal.SIGKILL, (tiny.root / "output").read_text()
    run_child(killed, start, tiny.root / "output")
    assert outcome(killed) == undisturbed.outcome


@pytest.mark.slow
def test_many_kills_of_one_study_change_nothing(
    tiny: Tiny, undisturbed: Undisturbed, start: Start
) -> None:
    """The last kill happens while the figures are drawn."""
    pytest.importorskip("plotly")
    moments, died = random.Random(5), 0
    killed = tiny.below("killed")
    killed.root.mkdir()
    for _ in range(5):
        at = moments.randint(1, undisturbed.changes // 3)
        child = start(dies_at, at, killed.root, run_study, spec_of(killed).write())
        child.join(600)
        assert child.exitcode in (0, -signal.SIGKILL), (tiny.root / "output").read_text()
        died += child.exitcode != 0
    assert died >= 2
    report = killed.root / "study" / "report"
    child = start(dies_at, "table.tex", killed.root, run_study, spec_of(killed).write(), True)
    child.join(600)
    assert child.exitcode == -signal.SIGKILL, (tiny.root / "output").read_text()
    assert not (report / "index.html").exists()
    run_child(killed, start, tiny.root / "output", figures=True)
    assert outcome(killed) == undisturbed.outcome
    assert (report / "index.html").is_file() and (report / "forget.png").is_file()
