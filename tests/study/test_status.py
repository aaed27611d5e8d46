"""The status command: it reads the files of a study and its processes, without torch."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from study_plans import hand_plan

from lightning_unlearn.cli.main import main
from lightning_unlearn.storage.entry_status import STALE, status_file
from lightning_unlearn.storage.integrity import describe_files
from lightning_unlearn.storage.seals import seal_values
from lightning_unlearn.study.plan import StudyPlan


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a study, in a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return Path("study")


def store(plan: StudyPlan, key: str, seconds: float | None = None) -> None:
    """Write an entry of the store; for a run also its finished folder."""
    entry = Path(plan.store) / key
    entry.mkdir(parents=True)
    details = {"seconds": seconds} if seconds is not None else {}
    (entry / "entry.json").write_text(json.dumps({"details": details}))
    task = plan.task[key]
    if task.is_run:
        write_run(Path(plan.folder) / plan.trials[task.trial].run, key=key, finished=True)


def write_run(run: Path, **about: Any) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "records.parquet").write_bytes(b"rows")
    files = describe_files(run, ["records.parquet"])
    (run / "run.json").write_text(json.dumps(seal_values({"files": files, **about})))


def note(plan: StudyPlan, key: str, age: float = 0, **changes: Any) -> None:
    """Write the status of an entry, renewed the given number of seconds ago."""
    values = {
        "state": "running",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": time.time() - 120,
        "step": 5,
        "total": 20,
        "error": "",
    }
    file = status_file(Path(plan.store), key)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**values, **changes}))
    os.utime(file, (time.time() - age,) * 2)


def printed_lines(capsys: pytest.CaptureFixture[str], folder: Path | str) -> list[str]:
    assert main(["status", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return [" ".join(line.split()) for line in printed.out.splitlines()]


def dead_pid() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_a_study_that_has_not_started(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hand_plan(folder, methods=["GA", "NPO"]).write(folder)
    assert printed_lines(capsys, folder) == [
        "small: 4 stage trainings, 4 unlearnings",
        "8 tasks: 8 left",
        "0 of 4 runs are finished, in study.",
    ]


def test_a_store_that_was_moved_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    plan.write(folder)
    trial = plan.trials[0]
    write_run(folder / trial.run, key=trial.keys[-1], finished=True)
    assert printed_lines(capsys, folder)[-1].startswith("The stage store is missing: ")


def test_a_running_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = hand_plan(folder, methods=["GA", "NPO"], seeds=[0, 1])
    plan.write(folder)
    store(plan, "s0_a", 60)
    store(plan, "s0_a-b", 60)
    store(plan, "s0_a-b_GA", 30)
    note(plan, "s0_a-b_NPO", state="failed", error="out of [memory]")
    note(plan, "s0_b", step=15)
    note(plan, "s1_a", host="gpu-7", pid=4321, began=0)
    note(plan, "s1_b", pid=dead_pid(), began=0)
    lines = printed_lines(capsys, folder)
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(0))
    here = f"{socket.gethostname()} process"
    assert lines[0] == "small: 8 stage trainings, 8 unlearnings"
    assert (
        lines[1] == "16 tasks: 2 running, 1 failed, 1 stopped, 3 done, 9 left; 2 min of work done"
    )
    assert re.fullmatch(
        rf"▶ running b \(seed 0\) 2 min step 15 of 20, {here} {os.getpid()}, since [\d: -]+",
        lines[2],
    )
    away = rf"▶ running a \(seed 1\) \d+ d .*step 5 of 20, gpu-7 process 4321, since {began}"
    assert re.fullmatch(away, lines[3])
    assert lines[4] == "✗ failed NPO/a-b_s0 out of [memory]"
    assert lines[5].startswith("■ stopped b (seed 1) step 5 of 20, ")
    assert lines[6] == "1 of 8 runs are finished, in study."
    # Left: b, b-a and four stages of seed 1, of which two are finished to 1/4 and 3/4; and the
    # seven runs. A stage takes 60 s, as two finished ones did; NPO has the same time per token.
    stages = 60 * (1 / 4 + 3 / 4 + 1 + 1 + 1 + 1)
    runs = 3 * 30 + 4 * 50
    seconds = (stages + runs) / 2
    assert lines[7:] == [f"About {round(seconds / 60)} min of work left, 2 tasks at a time."]


def test_a_study_with_one_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = hand_plan(folder, paths=[("a", "b")], methods=["GA"])
    plan.write(folder)
    store(plan, "s0_a", 40)
    assert printed_lines(capsys, folder)[1:] == [
        "3 tasks: 1 done, 2 left; 40 s of work done",
        "0 of 1 runs are finished, in study.",
        "About 80 s of work left.",
    ]


def test_a_finished_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = hand_plan(folder, methods=["GA", "oracle"])
    plan.write(folder)
    for task in plan.tasks:
        store(plan, task.key, 3600)
        # A task that stopped or failed earlier is finished now.
        note(plan, task.key, state="failed", error="once")
    assert printed_lines(capsys, folder) == [
        "small: 4 stage trainings instead of 5, 2 unlearnings, 1 oracle",
        "7 tasks: 7 done; 7 h of work done",
        "3 of 3 runs are finished, in study.",
    ]


def test_a_run_in_the_store_may_lack_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    plan.write(folder)
    for task in plan.tasks:
        store(plan, task.key)
    (folder / plan.trials[0].run / "run.json").unlink()
    assert printed_lines(capsys, folder)[1:] == [
        "3 tasks: 3 done",
        "0 of 1 runs are finished, in study.",
    ]


def test_a_folder_that_was_moved_is_read_where_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = hand_plan(folder.absolute(), paths=[("a", "b")])
    plan.write(folder)
    for task in plan.tasks:
        store(plan, task.key)
    Path("study/GA").rename("GA")
    Path("study/study.json").rename("study.json")
    assert printed_lines(capsys, ".")[-1] == "1 of 1 runs are finished, in .."


@pytest.mark.parametrize("how", ["dead", "stale", "stale elsewhere", "stopped"])
def test_a_task_of_a_dead_process_is_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    plan.write(folder)
    changes: dict[str, Any] = {
        "dead": {"pid": dead_pid()},
        "stale": {"age": STALE + 5},
        "stale elsewhere": {"age": STALE + 5, "host": "gpu-7"},
        "stopped": {"state": "stopped", "error": "stopped by SIGTERM"},
    }[how]
    note(plan, "s0_a", **changes)
    lines = printed_lines(capsys, folder)
    assert lines[1] == "3 tasks: 1 stopped, 2 left"
    assert lines[2].startswith("■ stopped a (seed 0) step 5 of 20, ")
    assert len(lines) == 4


def test_a_damaged_manifest_or_note_breaks_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    plan.write(folder)
    store(plan, "s0_a")
    (Path(plan.store) / "s0_a" / "entry.json").write_text("[]")
    note(plan, "s0_a-b")
    status_file(Path(plan.store), "s0_a-b").write_text("{")
    assert printed_lines(capsys, folder)[1] == "3 tasks: 1 done, 2 left"


def test_a_run_and_its_stages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    stages = [{"name": task.stage, "key": task.key} for task in plan.tasks]
    about = {"method": "NPO", "path": "a-b", "seed": 3, "store": plan.store, "stages": stages}
    write_run(folder, **about, finished=False)
    store(plan, "s0_a", 7)
    note(plan, "s0_a-b")
    lines = printed_lines(capsys, folder)
    assert lines[0] == "NPO a-b seed 3: not finished"
    assert lines[1].startswith("▶ running b 2 min step 5 of 20, ")
    assert lines[2:] == ["✓ done a 7 s", "· left unlearn"]
    write_run(folder, **about, finished=True)
    assert printed_lines(capsys, folder)[0] == "NPO a-b seed 3: finished"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, command: str = "status") -> str:
    assert main([command, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [([], "nothing"), (["a", "b"], "a b"), (["--config", "x"], "--config x"), (["-v"], "-v")],
)
def test_it_takes_one_folder(
    capsys: pytest.CaptureFixture[str], arguments: list[str], found: str
) -> None:
    assert refused(capsys, *arguments) == (
        f"error: status: found {found}, expected one folder of a study or of a run, such as "
        "runs/demo.\n"
    )


def test_a_folder_that_is_neither(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    for name in ("study", "nowhere"):
        assert refused(capsys, name) == (
            f"error: status: found neither study.json nor run.json in {name}, expected the folder "
            "of a study or of a run.\n"
        )


DEEP = '{"trials": ' + "[" * 100_000 + "]" * 100_000 + "}"
NO_DOCUMENTS = ["", "{", "[]", "3", "{}", '{"trials": 3}', '{"checksum": "0"}', DEEP, "\ufeff{}"]


@pytest.mark.parametrize("text", NO_DOCUMENTS, ids=lambda text: text[:20])
@pytest.mark.parametrize("command", ["status", "report"])
def test_a_study_file_with_wrong_content(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, command: str
) -> None:
    folder.mkdir()
    (folder / "study.json").write_text(text)
    message = refused(capsys, "study", command=command)
    assert message.startswith(f"error: {command}: study/study.json cannot be read: ")
    assert message.endswith(". Write it again with: lightning-unlearn study --config FILE\n")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format": 99}, "found format 99 of another version of lightning-unlearn, expected 2"),
        ({"trials": 3}, "'int' object is not iterable"),
        ({"trials": [{"path": 3}]}, "'int' object is not iterable"),
        ({"tasks": [{}]}, "missing 6 required positional arguments"),
        ({"trials": []}, "found no trials"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_study_of_another_version(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], found: str
) -> None:
    hand_plan(folder).write(folder)
    values = {**json.loads((folder / "study.json").read_text()), **change}
    (folder / "study.json").write_text(json.dumps(seal_values(values)))
    for command in ("status", "report"):
        message = refused(capsys, "study", command=command)
        assert message.startswith(f"error: {command}: study/study.json") and found in message
        assert message.endswith("Write it again with: lightning-unlearn study --config FILE\n")


def test_a_study_file_with_a_changed_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_plan(folder).write(folder)
    text = (folder / "study.json").read_text()
    assert '"position": 1' in text
    (folder / "study.json").write_text(text.replace('"position": 1', '"position": 2'))
    for command in ("status", "report"):
        assert "does not match its checksum" in refused(capsys, "study", command=command)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"store": "s", "stages": [3]}', DEEP])
@pytest.mark.parametrize("command", ["status", "report"])
def test_a_run_file_with_wrong_content(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, command: str
) -> None:
    folder.mkdir()
    (folder / "run.json").write_text(text)
    message = refused(capsys, "study", command=command)
    assert message.startswith(f"error: {command}: study/run.json cannot be read: ")
    assert message.endswith(". Delete it and run the same command again to write it again.\n")


@pytest.mark.parametrize("about", [{}, {"store": "s"}, {"store": 3}, {"stages": 3, "store": "s"}])
def test_a_run_of_another_version(
    folder: Path, capsys: pytest.CaptureFixture[str], about: dict[str, Any]
) -> None:
    write_run(folder, **about)
    assert "study/run.json cannot be read: " in refused(capsys, "study")


@pytest.mark.parametrize(
    "change",
    [{"began": "x"}, {"began": 1e300}, {"began": -1}, {"pid": "x"}, {"step": None}, {"host": 3},
     {"error": ["x"]}, {"state": "made"}, {"total": float("nan")}],
    ids=str,
)  # fmt: skip
def test_a_status_with_wrong_values_is_ignored(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    plan.write(folder)
    note(plan, "s0_a", **change)
    assert printed_lines(capsys, folder)[1] == "3 tasks: 3 left"


@pytest.mark.parametrize("seconds", ["x", float("nan"), float("inf"), -1, True, None, [1]])
def test_invalid_durations_are_ignored(
    folder: Path, capsys: pytest.CaptureFixture[str], seconds: Any
) -> None:
    plan = hand_plan(folder, paths=[("a", "b")])
    plan.write(folder)
    store(plan, "s0_a", seconds)
    assert printed_lines(capsys, folder)[1] == "3 tasks: 1 done, 2 left"


def test_it_imports_nothing_heavy(folder: Path) -> None:
    plan = hand_plan(folder, sweep={"data.unlearn.lr": [1e-3]})
    plan.write(folder)
    store(plan, "s0_a", 5)
    note(plan, "s0_b")
    code = (
        "import sys; from lightning_unlearn.cli.main import main; "
        "code = main(['status', 'study']); heavy = {'torch', 'lightning', 'transformers', "
        "'pandas', 'numpy', 'pyarrow', 'jsonargparse'}; "
        "print(*(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "\n")
    assert "6 tasks: 1 running, 1 done, 4 left" in done.stdout
