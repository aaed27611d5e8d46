"""Report and status where the file system fails them, and names that no terminal should obey."""

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from study_folders import Synthetic, write_entry
from tiny_stages import Tiny

from lightning_unlearn import NPO, LabelLikelihood, StagedTrainer
from lightning_unlearn.cli.main import main
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.report.write import write_report
from lightning_unlearn.storage.records import EXAMPLES, STEPS
from lightning_unlearn.study import report_source
from lightning_unlearn.study.report_source import source_of

pytest.importorskip("plotly")
COMMANDS = ("report", "status")
# Reading it fails at once, for root too.
UNREADABLE = Path("/proc/self/mem")
NAME = "GA\x1b[31m\n\u202egpj\u200b\r"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A small finished study."""
    return Synthetic(methods=["GA"], seeds=(0,), oracle=False).write(tmp_path / "study")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that ends with exit code 2, in one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert message.rstrip("\n").isprintable() and "Traceback" not in message
    return message


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A full disk, as far as files above a size are concerned."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, which no permission stops."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("file", ["study.json", "run.json"])
def test_a_file_that_is_none(
    study: Path, capsys: pytest.CaptureFixture[str], name: str, file: str
) -> None:
    (study / "study.json").unlink()
    os.mkfifo(study / file)
    assert "found neither study.json nor run.json" in refused(capsys, name, str(study))
    (study / file).unlink()
    (study / file).mkdir()
    assert "found neither study.json nor run.json" in refused(capsys, name, str(study))
    (study / file).rmdir()
    (study / file).symlink_to(file)
    assert "found neither study.json nor run.json" in refused(capsys, name, str(study))
    if UNREADABLE.exists():
        (study / file).unlink()
        (study / file).symlink_to(UNREADABLE)
        assert f"{study / file} cannot be read: " in refused(capsys, name, str(study))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refused(capsys, name, str(tmp_path / "file"))
    assert "file name too long" in refused(capsys, name, "x" * 300).lower()
    assert "\\x00" in refused(capsys, name, "a\0b")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the current directory was deleted" in refused(capsys, name, "study")


def test_entries_that_are_pipes_or_unreadable_do_not_stop_the_commands(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = sorted((study / "store").glob("*~GA~*"))
    (first / "entry.json").unlink()
    os.mkfifo(first / "entry.json")
    (second / "entry.json").write_text("[" * 100_000)
    shutil.rmtree(third)
    third.write_text("a file in its place")
    assert main(["status", str(study)]) == 0
    assert len(source_of(study).records) > 0
    (study / STEPS).unlink()
    message = refused(capsys, "report", str(study))
    assert "found no finished run" in message and "nested too deeply" in message


@pytest.mark.parametrize("file", [STEPS, EXAMPLES])
def test_a_table_that_is_a_pipe_is_not_waited_for(
    study: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    (study / file).unlink()
    os.mkfifo(study / file)
    assert f"{study / file} can't be read: it is not a regular file" in refused(
        capsys, "report", str(study)
    )


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users")
@pytest.mark.parametrize("name", COMMANDS)
def test_what_may_not_be_read_is_named(
    study: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    main([name, "--help"])
    for place in (study / "study.json", study):
        mode = place.stat().st_mode
        place.chmod(0)
        try:
            with as_nobody():
                message = refused(capsys, name, str(study))
        finally:
            place.chmod(mode)
        assert "ermission denied" in message and str(study) in message


def test_a_full_disk_leaves_what_was_there(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = source_of(study)
    write_report([source], study / "report", formats=())
    before = {file: file.read_bytes() for file in study.rglob("*") if file.is_file()}
    with largest_file(20_000):
        message = refused(capsys, "report", str(study))
    assert f"report: {study / 'report'} cannot be written: " in message
    assert "Choose another folder with --out, or free disk space" in message
    # Each file is as it was or new and whole, and no draft is left.
    assert {file for file in study.rglob("*") if file.is_file()} == set(before)
    for file, data in before.items():
        if file.suffix in (".png", ".html", ".parquet", ".json"):
            assert file.read_bytes() == data


@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300, "/proc/nothing"])
def test_a_report_that_cannot_be_placed(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(study)
    Path("file").write_text("x")
    message = refused(capsys, "report", str(study), f"--out={out}")
    assert f"report: {out} cannot be written: " in message and "--out" in message
    assert not any(file.name.startswith(".") for file in study.rglob("*"))


def test_a_full_folder_for_temporary_files_is_named(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / STEPS).unlink()
    steps, examples = Synthetic(methods=["GA"], seeds=(0,), oracle=False).tables()
    tables = {STEPS: steps[:6], EXAMPLES: examples[:6]}
    for entry in (study / "store").glob("*~GA~*"):
        write_entry(entry, tables)
    with largest_file(1000), pytest.raises(StorageError, match=r"temporary files, .* TMPDIR"):
        source_of(study)
    monkeypatch.setattr(report_source.tempfile, "tempdir", str(study / "nowhere"))
    with pytest.raises(StorageError, match="No such file or directory"):
        source_of(study)


@pytest.mark.parametrize("where", ["method", "stage", "sweep", "name"])
def test_names_are_written_out_wherever_they_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    pytest.importorskip("matplotlib")
    stage = f"s{NAME}" if where == "stage" else "a"
    study = Synthetic(
        name=NAME if where == "name" else "small",
        methods=[NAME, "NPO"] if where == "method" else ["GA", "NPO"],
        paths=[f"{stage}-safety", f"safety-{stage}"],
        sweep={f"data.{NAME}": ["x", f"y{NAME}"]} if where == "sweep" else {},
        seeds=(0, 1),
    )
    folder = study.write(tmp_path / "study")
    assert main(["status", str(folder)]) == 0
    source = source_of(folder, [f"{NAME} failed"])
    written = write_report([source], folder / "report", page=True, formats=())
    shown = [capsys.readouterr().out]
    from rich.console import Console

    from lightning_unlearn.report import terminal

    console = Console(width=200)
    console.print(terminal.curves(source.records))
    for part in (written.summaries[0], *written.summaries[0].sections):
        if part.renderable is not None:
            console.print(part.renderable)
    shown += [capsys.readouterr().out, *(line for line in written.summaries[0].findings)]
    shown += [
        file.read_text() for file in (folder / "report").glob("*.*") if file.suffix != ".html"
    ]
    for text in shown:
        assert not {"\x1b", "\r", "\u202e", "\u200b"} & set(text)
    assert any("\\x1b[31m\\n\\u202egpj" in text for text in shown)
    page = (folder / "report" / "index.html").read_text()
    body = page[: page.index("<script")] + page[page.rindex("</script>") :]
    assert not {"\x1b", "\u202e", "\u200b"} & set(body)


def test_runs_that_are_written_alike_are_not_mixed(study: Path) -> None:
    """Two names that differ by what is written out are never one run without a word."""
    steps, _ = Synthetic(methods=["A\x1b", "A\\x1b"], seeds=(0,), oracle=False).tables()
    from lightning_unlearn.analysis.scores import scores

    steps.loc[steps["method"] == "A\x1b", "value"] -= 0.1
    with pytest.raises(InputError, match="found different values"):
        scores(steps)


def test_what_is_refused_is_mended_as_it_says(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    def fitted() -> StagedTrainer:
        trainer = tiny.trainer([NPO(), LabelLikelihood()])
        trainer.fit(tiny.module(), tiny.datamodule())
        return trainer

    run = fitted().run_dir
    assert run is not None
    for name in (STEPS, EXAMPLES, "run.json"):
        whole = (run / name).read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 4
        (run / name).write_bytes(data)
        message = refused(capsys, "report", str(run))
        is_about = name == "run.json"
        cannot = "cannot" if is_about else "can't"
        assert f"report: {run / name} {cannot} be read: " in message
        assert "the same command again to " in message and "write it" in message
        assert ("Delete it and run" in message) == is_about
        if is_about:
            (run / name).unlink()
        again = fitted()
        assert again.trained_stages == [] and again.run_dir == run
        assert (run / name).read_bytes() == whole
