"""The report command: what it reads and writes, and its messages about files it cannot use."""

import dataclasses
import json
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import pandas as pd
import pytest
from study_folders import ORDERS, Synthetic, write_entry, write_frame

from lightning_unlearn.cli.main import main
from lightning_unlearn.report import write
from lightning_unlearn.report.page import page
from lightning_unlearn.storage.records import EXAMPLES, STEPS, read_table, runs_of
from lightning_unlearn.storage.seals import seal_values
from lightning_unlearn.study.plan import StudyPlan
from lightning_unlearn.study.report_source import source_of

pytest.importorskip("plotly")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A small finished study."""
    return Synthetic(methods=["GA"], seeds=(0,), oracle=False).write(tmp_path / "study")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out, which take most of the time: `save_figures` has tests of its own."""
    monkeypatch.setattr(write, "save_figures", lambda *_: [])


def store_runs(study: Path) -> StudyPlan:
    """Give the entries of the store the runs of `study`."""
    steps, examples = Synthetic(methods=["GA"], seeds=(0,), oracle=False).tables()
    plan = StudyPlan.load(study)
    for cell in plan.trials:
        tables = {}
        for table, file in ((steps, STEPS), (examples, EXAMPLES)):
            own = table[table["path"] == "-".join(cell.path)]
            columns = ["step", "metric", "example", "value"]
            tables[file] = own[[name for name in columns if name in own]]
        write_entry(Path(plan.store) / cell.walk[-1], tables)
    return plan


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that ends with exit code 2, in one line."""
    assert main(["report", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: report: ") and message.count("\n") == 1
    return message.removeprefix("error: report: ").rstrip("\n")


def test_a_report_lies_in_the_folder_of_its_study(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in study.iterdir() if file.is_file()}
    assert main(["report", str(study)]) == 0
    printed = capsys.readouterr().out
    names = {file.name for file in (study / "report").iterdir()}
    assert {"index.html", "table.md", "table.csv", "table.tex", "seeds.csv"} <= names
    assert f"Written to {study / 'report'}: index.html, table.md, table.csv" in printed
    assert f"Open {study / 'report' / 'index.html'} in a browser." in printed
    assert before == {file: file.read_bytes() for file in study.iterdir() if file.is_file()}
    again = (study / "report" / "index.html").read_bytes()
    assert main(["report", str(study)]) == 0
    assert (study / "report" / "index.html").read_bytes() == again


@pytest.mark.usefixtures("undrawn")
def test_several_studies_have_one_page_and_a_folder_each(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Synthetic(methods=["NPO"], seeds=(0, 1)).write(tmp_path / "other")
    out = tmp_path / "out"
    assert main(["report", str(study), str(other), f"--out={out}"]) == 0
    folders = {file.name for file in out.iterdir() if file.is_dir()}
    assert len(folders) == 2 and all(name.startswith(("1-small", "2-small")) for name in folders)
    text = (out / "index.html").read_text()
    # Studies of one name are told apart by their folders.
    assert escape(f"small ({study})") in text and escape(f"small ({other})") in text
    assert not (study / "report").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_single_run_has_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Synthetic(methods=["GA"], paths=ORDERS[:1], seeds=(0,), oracle=False)
    steps, examples = one.tables()
    write_frame(steps.drop(columns="study"), tmp_path / STEPS)
    write_frame(examples.drop(columns="study"), tmp_path / EXAMPLES)
    about = {"method": "GA", "path": ORDERS[0], "seed": 0, "finished": True, "stages": []}
    (tmp_path / "run.json").write_text(json.dumps(seal_values(about)))
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"GA {ORDERS[0]} seed 0" in page and "There is one path" in page
    (tmp_path / "run.json").write_text(json.dumps(seal_values({**about, "finished": False})))
    assert main(["report", str(tmp_path)]) == 0
    assert "The run is not finished." in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_study_says_what_is_missing(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, examples = Synthetic(methods=["GA"], seeds=(0,), oracle=False).tables()
    for node in study.glob("store/*safety*"):
        if node.name.startswith("s0~inst~safety"):
            shutil.rmtree(node)
    plan = StudyPlan.load(study)
    runs = [cell.walk[-1] for cell in plan.runs() if "-".join(cell.path) != ORDERS[1]]
    write_frame(steps[steps["path"] != ORDERS[1]], study / STEPS, runs)
    write_frame(examples[examples["path"] != ORDERS[1]], study / EXAMPLES, runs)
    assert main(["report", str(study)]) == 0
    assert "small: 1 of 3 runs are missing." in capsys.readouterr().out
    page = (study / "report" / "index.html").read_text()
    assert "1 of 3 runs are missing." in page and "not done yet" in page
    assert "1 of 3 runs are missing." in (study / "report" / "table.md").read_text()


def test_a_study_that_has_not_come_to_its_records_is_read_from_its_store(study: Path) -> None:
    plan = store_runs(study)
    shutil.rmtree(Path(plan.store) / plan.trials[2].walk[-1])
    (study / STEPS).unlink()
    source = source_of(study)
    assert set(source.records["path"]) == set(ORDERS[:2])
    assert source.remarks == ["1 of 3 runs are missing."]
    assert not (study / STEPS).exists()


def test_torch_and_lightning_are_not_imported(study: Path) -> None:
    code = (
        "import sys; from lightning_unlearn.cli.main import main; "
        f"assert main(['report', {str(study)!r}]) == 0; "
        "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys) == (
        "found no folder, expected one or more of studies or runs, such as runs/demo."
    )
    assert refused(capsys, str(tmp_path)) == (
        f"{tmp_path}: found neither study.json nor run.json, expected the folder of a study or of "
        "a run, such as runs/demo."
    )
    assert "found no such folder" in refused(capsys, str(tmp_path / "nope"))
    assert refused(capsys, "x", "--width", "3") == (
        "found the option '--width', expected --out FOLDER or --paper."
    )
    assert refused(capsys, "x", "--out") == "found nothing after --out, expected a folder."


def test_a_study_without_a_finished_run_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / STEPS).unlink()
    # What the store should hold is not there.
    message = refused(capsys, str(study))
    for path in ORDERS:
        entry = study / "store" / "s0~"
        assert f"GA/{path}_s0 is left out: its entry in the stage store, {entry}" in message
    assert "is damaged (entry.json does not name records.parquet); run the whole study" in message
    shutil.rmtree(study / "store")
    assert refused(capsys, str(study)) == (
        f"{study}: found no finished run, expected one or more of the 3 of the study; "
        f"lightning-unlearn status {study} tells how far it is."
    )
    assert not (study / "report").exists()


def test_files_of_another_version_are_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(study / "store")
    runs = runs_of(study / STEPS)
    steps = read_table(study / STEPS)
    write_frame(steps.drop(columns=["value", "metric"]), study / STEPS, runs)
    message = refused(capsys, str(study))
    assert "found the columns study, path, " in message and "expected also metric, value" in message
    assert "another version" in message
    write_frame(steps[:0], study / STEPS, runs)
    assert "found no rows, expected what monitors measured" in refused(capsys, str(study))
    write_frame(steps, study / STEPS)
    assert "does not list the runs of its rows" in refused(capsys, str(study))
    write_frame(steps, study / STEPS, runs[1:])
    assert f"{study / EXAMPLES} holds other runs than {STEPS}" in refused(capsys, str(study))
    steps.to_parquet(study / STEPS)
    assert f"{study / STEPS} can't be read: it has no checksum: " in refused(capsys, str(study))


@pytest.mark.parametrize("file", [STEPS, EXAMPLES])
def test_a_damaged_table_is_named_or_read_from_the_store(
    study: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    data = bytearray((study / file).read_bytes())
    data[len(data) // 2] ^= 1
    (study / file).write_bytes(data)
    # The store's entries hold no tables, so nothing else is there to be read.
    message = refused(capsys, str(study))
    assert f"{study / file} can't be read: its content does not match its checksum" in message
    plan = store_runs(study)
    source = source_of(study)
    assert set(source.records["path"]) == set(ORDERS) and source.examples is not None
    (said,) = source.remarks
    assert said.startswith(f"{study}: the stage store was read, because {study / file} can't be")
    # An entry that is damaged as well: its run is left out, and named.
    entry = Path(plan.store) / plan.trials[1].walk[-1]
    data = bytearray((entry / file).read_bytes())
    data[-20] ^= 1
    (entry / file).write_bytes(data)
    source = source_of(study)
    assert set(source.records["path"]) == {ORDERS[0], ORDERS[2]}
    (left_out,) = [line for line in source.remarks if "left out" in line]
    assert left_out.startswith(f"GA/{ORDERS[1]}_s0 is left out: its entry in the stage store, ")
    assert f"{entry}, is damaged" in left_out and left_out.endswith(
        "run the whole study again to have it made anew."
    )
    assert "1 of 3 runs are missing." in source.remarks


def test_records_of_an_earlier_study_in_the_folder_are_not_read(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan is written when a study begins, the records when it ends."""
    stale = dataclasses.replace(Synthetic(methods=["GA"], seeds=(0,), oracle=False), name="next")
    plan = stale.plan(study)
    cells = [dataclasses.replace(c, walk=(*c.walk[:-1], f"{c.walk[-1]}-lr2")) for c in plan.trials]
    keys = {old.walk[-1]: new.walk[-1] for old, new in zip(plan.trials, cells, strict=True)}
    nodes = [dataclasses.replace(n, key=keys.get(n.key, n.key)) for n in plan.tasks]
    dataclasses.replace(plan, trials=tuple(cells), tasks=tuple(nodes)).write(study)
    assert "holds runs that are not of the study in study.json" in refused(capsys, str(study))
    entry = Path(plan.store) / cells[0].walk[-1]
    columns = {"step": [0, 9], "metric": ["forget/mean"] * 2, "value": [-1.0, -4.5]}
    examples = {**columns, "example": [0, 0]}
    write_entry(entry, {STEPS: pd.DataFrame(columns), EXAMPLES: pd.DataFrame(examples)})
    source = source_of(study)
    assert source.records["value"].tolist() == [-1.0, -4.5]
    assert "2 of 3 runs are missing." in source.remarks


@pytest.mark.usefixtures("undrawn")
def test_records_of_one_study_and_examples_of_none(study: Path) -> None:
    write_frame(read_table(study / EXAMPLES)[:0], study / EXAMPLES, runs_of(study / STEPS))
    assert source_of(study).examples is None
    (study / EXAMPLES).unlink()
    assert main(["report", str(study)]) == 0
    assert "examples" not in pd.read_csv(study / "report" / "table.csv").columns


def test_without_plotly_the_command_says_how_to_get_it(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(page.resources, "files", missing)
    assert refused(capsys, str(study)) == (
        "found no plotly, expected it for the page's curves; install it with "
        'pip install "lightning-unlearn[figures]"'
    )
    assert not (study / "report").exists()


def test_a_folder_that_cannot_be_written_is_told(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "report").write_text("a file in its place")
    assert f"{study / 'report'} can't be written: " in refused(capsys, str(study))


def test_help_and_overview_name_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    assert "usage: lightning-unlearn report FOLDER" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "  report " in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_the_papers_figures_that_the_study_has_the_runs_for(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["report", str(study), "--paper"]) == 0
    said = capsys.readouterr().out
    drawn = {file.name for file in (study / "report" / "paper").iterdir()}
    assert {"figure-1.png", "figure-1.pdf", "table-1.md", "table-1.tex"} <= drawn
    assert "figure-4 is left out: " in said and "figure-4.pdf" not in drawn
    assert "found --paper with 2 folders" in refused(capsys, str(study), str(study), "--paper")
