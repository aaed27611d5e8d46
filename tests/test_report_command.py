"""The report command: what it reads and writes, and what it says of what it cannot use."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from studied import ORDERS, Synthetic

from lightning_unlearn.cli import main
from lightning_unlearn.records import EXAMPLES, STEPS, read_table
from lightning_unlearn.report.command import source_of
from lightning_unlearn.report.page import document
from lightning_unlearn.study.plan import FILE

pytest.importorskip("plotly")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A small finished study."""
    return Synthetic(methods=["GA"], seeds=(0,), oracle=False).write(tmp_path / "study")


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
    assert f"small ({study})" in text and f"small ({other})" in text
    assert not (study / "report").exists()


def test_a_single_run_has_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Synthetic(methods=["GA"], paths=ORDERS[:1], seeds=(0,), oracle=False)
    steps, examples = one.tables()
    steps.drop(columns="study").to_parquet(tmp_path / STEPS)
    examples.drop(columns="study").to_parquet(tmp_path / EXAMPLES)
    about = {"method": "GA", "path": ORDERS[0], "seed": 0, "finished": True, "stages": []}
    (tmp_path / "run.json").write_text(json.dumps(about))
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"GA {ORDERS[0]} seed 0" in page and "There is one path" in page
    (tmp_path / "run.json").write_text(json.dumps({**about, "finished": False}))
    assert main(["report", str(tmp_path)]) == 0
    assert "The run is not finished." in (tmp_path / "report" / "index.html").read_text()


def test_an_unfinished_study_says_what_is_missing(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, examples = Synthetic(methods=["GA"], seeds=(0,), oracle=False).tables()
    for node in study.glob("store/*safety*"):
        if node.name.startswith("s0~inst~safety"):
            shutil.rmtree(node)
    steps[steps["path"] != ORDERS[1]].to_parquet(study / STEPS)
    examples[examples["path"] != ORDERS[1]].to_parquet(study / EXAMPLES)
    assert main(["report", str(study)]) == 0
    assert "small: 1 of 3 runs are missing." in capsys.readouterr().out
    page = (study / "report" / "index.html").read_text()
    assert "1 of 3 runs are missing." in page and "not made yet" in page
    assert "1 of 3 runs are missing." in (study / "report" / "table.md").read_text()


def test_a_study_that_has_not_come_to_its_records_is_read_from_its_store(study: Path) -> None:
    steps, examples = Synthetic(methods=["GA"], seeds=(0,), oracle=False).tables()
    plan = Synthetic(methods=["GA"], seeds=(0,), oracle=False).plan(study)
    for cell in plan.cells[:2]:
        for table, file in ((steps, STEPS), (examples, EXAMPLES)):
            own = table[table["path"] == "-".join(cell.path)]
            columns = ["step", "measure", "example", "value"]
            kept = [name for name in columns if name in own]
            own[kept].to_parquet(Path(plan.store) / cell.walk[-1] / file, index=False)
    shutil.rmtree(Path(plan.store) / plan.cells[2].walk[-1])
    (study / STEPS).unlink()
    source = source_of(study)
    assert set(source.records["path"]) == set(ORDERS[:2])
    assert source.remarks == ["1 of 3 runs are missing."]
    assert not (study / STEPS).exists()


def test_swept_values_of_any_kind_are_found_again(tmp_path: Path) -> None:
    for number, values in enumerate([[1e-4, 1], [True, False], [None, "x"], [3, "3e-5"]]):
        study = Synthetic(methods=["GA"], seeds=(0,), oracle=False, sweep={"a.b": values})
        steps, examples = study.tables()
        # As they are gathered: a column has values of one kind, and pandas has no null in it.
        for table in (steps, examples) if number > 1 else ():
            table["a.b"] = [
                "null" if v != v else v if isinstance(v, str) else json.dumps(v)
                for v in table["a.b"].astype(object)
            ]
        folder = study.write(tmp_path / str(number), (steps, examples))
        assert source_of(folder).remarks == []


def test_torch_and_lightning_are_not_imported(study: Path) -> None:
    code = (
        "import sys; from lightning_unlearn.cli import main; "
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
    assert "can't be read" in refused(capsys, str(study))
    shutil.rmtree(study / "store")
    assert refused(capsys, str(study)) == (
        f"{study}: found no finished run, expected one or more of the 3 of the study; "
        f"lightning-unlearn status {study} tells how far it is."
    )
    assert not (study / "report").exists()


def test_files_of_another_version_are_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = read_table(study / STEPS)
    steps.drop(columns=["value", "measure"]).to_parquet(study / STEPS)
    message = refused(capsys, str(study))
    assert (
        "found the columns study, path, " in message and "expected also measure, value" in message
    )
    assert "another version" in message
    steps[:0].to_parquet(study / STEPS)
    (study / STEPS).write_bytes(b"PAR1 but not quite")
    assert f"{study / STEPS} can't be read" in refused(capsys, str(study))
    plan = json.loads((study / FILE).read_text())
    (study / FILE).write_text(json.dumps({**plan, "format": 99}))
    assert "found format 99, expected 1" in refused(capsys, str(study))
    (study / FILE).write_text("{")
    assert f"{study / FILE} can't be read" in refused(capsys, str(study))


def test_records_of_one_study_and_examples_of_none(study: Path) -> None:
    read_table(study / EXAMPLES)[:0].to_parquet(study / EXAMPLES)
    assert source_of(study).examples is None
    (study / EXAMPLES).unlink()
    assert main(["report", str(study)]) == 0
    assert "examples" not in pd.read_csv(study / "report" / "table.csv").columns


def test_without_plotly_the_command_says_how_to_get_it(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(document.resources, "files", missing)
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
