"""The stage store: entries are complete, checked, and shared by processes."""

import errno
import json
import os
import pathlib
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_stages import Start

from lightning_unlearn import InputError
from lightning_unlearn.errors import StorageError
from lightning_unlearn.storage.entries import FORMAT, content_key
from lightning_unlearn.storage.run_folders import MANIFEST
from lightning_unlearn.storage.stage_store import StageStore

CONTENT = {"base": "b", "seed": 0, "stages": [{"name": "inst"}]}
KEY = content_key(CONTENT)


def write(folder: Path) -> None:
    (folder / "learn").mkdir()
    save_file({"a": torch.arange(6.0)}, folder / "learn" / "adapter_model.safetensors")
    (folder / "training.parquet").write_bytes(b"table")


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    reports: list[str] = []
    store = StageStore(tmp_path / "deep" / "store", report=reports.append)
    store.reports = reports  # type: ignore[attr-defined]
    return store


def files(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def test_an_entry_is_found_again_with_what_it_is_made_of(store: StageStore) -> None:
    assert store.get(KEY) is None
    entry = store.put(KEY, CONTENT, write, {"seconds": 1.5})
    assert store.get(KEY) == entry == store.folder / KEY
    assert files(entry) == [MANIFEST, "learn/adapter_model.safetensors", "training.parquet"]
    manifest = store.manifest(KEY)
    assert manifest["content"] == CONTENT
    assert manifest["details"] == {"seconds": 1.5}
    assert content_key(manifest["content"]) == manifest["key"] == KEY
    assert not store.reports  # type: ignore[attr-defined]


def test_keys_do_not_depend_on_the_order_of_values_but_on_every_value() -> None:
    assert content_key(dict(reversed(CONTENT.items()))) == KEY
    changes: list[dict[str, Any]] = [{"seed": 1}, {"base": "c"}, {"stages": []}, {"more": None}]
    assert len({KEY, *(content_key({**CONTENT, **change}) for change in changes)}) == 5


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), ValueError("bad")])
def test_a_write_that_raises_leaves_nothing(store: StageStore, error: BaseException) -> None:
    def half(folder: Path) -> None:
        write(folder)
        raise error

    with pytest.raises(type(error)):
        store.put(KEY, CONTENT, half)
    assert store.get(KEY) is None
    assert files(store.folder) == []


def no_space(folder: Path) -> None:
    write(folder)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the operating system refuse writes beyond a size, in this process only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_space_for_tensors(folder: Path) -> None:
    # safetensors has its own kind of error.
    with files_of_at_most(1024):
        save_file({"a": torch.zeros(4096)}, folder / "weights.safetensors")


def no_space_for_bytes(folder: Path) -> None:
    with files_of_at_most(1024):
        (folder / "weights").write_bytes(b"0" * 4096)


@pytest.mark.parametrize("fail", [no_space, no_space_for_tensors, no_space_for_bytes])
def test_a_full_disk_is_reported_and_the_store_does_not_change(
    store: StageStore, fail: Callable[[Path], None]
) -> None:
    store.put(KEY, CONTENT, write)
    before = files(store.folder)
    other = {**CONTENT, "seed": 1}
    with pytest.raises(InputError, match=r"trainer\.store: .* can't be written: .*Free disk space"):
        store.put(content_key(other), other, fail)
    assert files(store.folder) == before
    assert store.get(KEY) is not None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="a file, expected a folder"):
        StageStore(file)
    below = StageStore(file / "store")
    with pytest.raises(InputError, match="can't be written: Not a directory"):
        below.put(KEY, CONTENT, write)
    with pytest.raises(InputError, match="can't be written: Not a directory"), below.lock(KEY):
        pass
    with pytest.raises(InputError, match="can't be written: Not a directory"):
        below.check_writable()
    assert file.read_text() == "x"


def test_a_lock_that_cannot_be_made(store: StageStore) -> None:
    (store.folder / "locks" / f"{KEY}.lock").mkdir(parents=True)
    with pytest.raises(InputError, match="can't be written: Is a directory"), store.lock(KEY):
        pass


def cut(entry: Path) -> None:
    file = entry / "learn" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(entry: Path) -> None:
    file = entry / "learn" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def remove(entry: Path) -> None:
    (entry / "training.parquet").unlink()


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        values = json.loads((entry / MANIFEST).read_text())
        (entry / MANIFEST).write_text(json.dumps({**values, **changes}))

    return damage


def drop(name: str) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        values = json.loads((entry / MANIFEST).read_text())
        del values[name]
        (entry / MANIFEST).write_text(json.dumps(values))

    return damage


def swap_folder(entry: Path) -> None:
    file = entry / "learn" / "adapter_model.safetensors"
    file.unlink()
    file.mkdir()


def cut_manifest(entry: Path) -> None:
    (entry / MANIFEST).write_text((entry / MANIFEST).read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, r"learn/adapter_model\.safetensors has \d+ bytes, expected \d+"),
        (flip, r"learn/adapter_model\.safetensors does not match its checksum"),
        (remove, r"training\.parquet is missing"),
        (edit(content={**CONTENT, "seed": 7}), "its content does not match its name"),
        (edit(content=None), r"entry\.json can't be read"),
        (edit(files=["learn"]), r"entry\.json: it lists no files"),
        (edit(files=None), r"entry\.json: it lists no files"),
        (edit(files={}), r"entry\.json: it lists no files"),
        (edit(files={"training.parquet": 5}), r"its record of 'training\.parquet' can't be read"),
        (edit(files={"../x": {}}), r"its record of '\.\./x' can't be read"),
        (edit(files={"/etc/hostname": {}}), r"its record of '/etc/hostname' can't be read"),
        (edit(format=1), "its format is 1, expected 2"),
        (drop("format"), r"entry\.json can't be read: it has no 'format'"),
        (drop("files"), r"entry\.json can't be read: it has no 'files'"),
        (lambda entry: (entry / MANIFEST).write_text("[" * 100_000), "can't be read"),
        (lambda entry: (entry / MANIFEST).write_bytes(b"\xff"), "can't be read"),
        (swap_folder, r"learn/adapter_model\.safetensors is missing"),
        (cut_manifest, r"entry\.json can't be read"),
        (lambda entry: (entry / MANIFEST).unlink(), r"entry\.json can't be read"),
        (lambda entry: (entry / MANIFEST).write_text("[]"), r"entry\.json can't be read"),
    ],
)
def test_a_damaged_entry_is_reported_moved_and_rebuilt(
    store: StageStore, damage: Callable[[Path], None], found: str
) -> None:
    reports: list[str] = store.reports  # type: ignore[attr-defined]
    damage(store.put(KEY, CONTENT, write))
    assert store.get(KEY) is None
    (report,) = reports
    assert "is damaged" in report and "rebuilding" in report
    assert re.search(found, report)
    (aside,) = (store.folder / "damaged").iterdir()
    assert aside.name.startswith(KEY) and str(aside) in report
    assert store.put(KEY, CONTENT, write) == store.get(KEY)
    assert len(reports) == 1


def test_an_entry_under_another_name_is_damaged(store: StageStore) -> None:
    other = {**CONTENT, "seed": 1}
    store.put(content_key(other), other, write).rename(store.folder / KEY)
    assert store.get(KEY) is None
    (report,) = store.reports  # type: ignore[attr-defined]
    assert f"its key is {content_key(other)}" in report


def put_slowly(folder: Path, meet: Path, seconds: float) -> None:
    store = StageStore(folder)

    def slow(draft: Path) -> None:
        write(draft)
        meet.touch()
        time.sleep(seconds)

    store.put(KEY, CONTENT, slow)


def hold(folder: Path, meet: Path) -> None:
    with StageStore(folder).lock(KEY):
        (folder / "drafts" / f"{KEY}-half").mkdir(parents=True)
        meet.touch()
        time.sleep(60)


def wait_for(file: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.01)


def test_two_processes_put_the_same_entry(store: StageStore, tmp_path: Path, start: Start) -> None:
    both = [start(put_slowly, store.folder, tmp_path / f"meet{i}", 0.3) for i in range(2)]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "output").read_text()
    assert store.get(KEY) is not None
    assert list((store.folder / "drafts").iterdir()) == []


def test_a_lock_excludes_other_processes_and_ends_with_its_process(
    store: StageStore, tmp_path: Path, start: Start
) -> None:
    holder = start(hold, store.folder, tmp_path / "meet")
    wait_for(tmp_path / "meet")
    waiting = start(hold, store.folder, tmp_path / "second")
    time.sleep(0.3)
    assert not (tmp_path / "second").exists()
    with store.lock(content_key({**CONTENT, "seed": 1})):
        pass  # another key is free
    assert not store.reports  # type: ignore[attr-defined]
    waiting.kill()
    waiting.join(30)
    holder.kill()
    holder.join(30)
    with store.lock(KEY):
        # The draft of the killed process is deleted.
        assert list((store.folder / "drafts").iterdir()) == []
    with store.lock(KEY):
        pass


def test_a_process_that_waits_for_a_lock_reports_it(
    store: StageStore, tmp_path: Path, start: Start
) -> None:
    holder = start(hold, store.folder, tmp_path / "meet")
    wait_for(tmp_path / "meet")
    reports: list[str] = store.reports  # type: ignore[attr-defined]

    def end_holder(text: str) -> None:
        reports.append(text)
        holder.kill()

    store.report = end_holder
    with store.lock(KEY):
        assert reports == [f"Stage store: another process is training {KEY[:8]}; waiting for it."]


def test_checkpoints_that_a_killed_process_left_are_deleted(tmp_path: Path) -> None:
    content = {"stage": "tofu"}
    key = content_key(content)
    StageStore(tmp_path).put(key, content, write)
    left = tmp_path / "checkpoints" / f"{key}-5"
    left.mkdir(parents=True)
    assert StageStore(tmp_path).get(key) is not None
    assert not left.exists()


def reports_of(store: StageStore) -> list[str]:
    reports: list[str] = store.reports  # type: ignore[attr-defined]
    return reports


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_entry_that_is_not_a_folder_is_reported_and_rebuilt(
    store: StageStore, kind: str
) -> None:
    store.folder.mkdir(parents=True)
    if kind == "file":
        (store.folder / KEY).write_text("x")
    else:
        (store.folder / KEY).symlink_to("nowhere")
    assert not store.has(KEY)
    assert store.get(KEY) is None
    (report,) = reports_of(store)
    what = {"file": "it is a file", "link": "it is a broken link"}[kind]
    assert report.startswith(f"Stage store: {store.folder / KEY} is damaged ({what}); moved to ")
    assert store.put(KEY, CONTENT, write) == store.get(KEY)


def foreign(store: StageStore) -> list[str]:
    """Create files that users, editors and other programs may leave in a store."""
    folder = store.folder
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / f"{KEY}-2.bak").mkdir()
    (folder / "checkpoints" / f"{KEY}-").mkdir()
    (folder / "checkpoints" / f"{KEY}-two").write_text("x")
    (folder / "checkpoints" / f"{KEY}-{'9' * 30}").mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "damaged").write_text("x")
    (folder / f"{KEY}-copy").mkdir()
    (folder / f"{KEY}-copy" / MANIFEST).write_text("{}")
    (folder / KEY.upper()).mkdir()
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "a\n\x1b[31mb").mkdir()
    os.mkdir(os.fsencode(folder) + b"/\xff\xfe")
    (folder / "loop").symlink_to("loop")
    (folder / "pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe")
    return files(folder)


def test_foreign_files_are_ignored_and_reported_once(store: StageStore) -> None:
    store.put(KEY, CONTENT, write)
    before = foreign(store)
    store.report_unused()
    (report,) = reports_of(store)
    start = f"Stage store: {store.folder} has files that are not part of it (.DS_Store, "
    assert report.startswith(start)
    assert report.endswith(" and 8 more); it ignores them.")
    assert report.isprintable()
    # Entries can be written, read and rebuilt beside them.
    assert store.get(KEY) == store.folder / KEY and store.has(KEY)
    assert store.find({**CONTENT, "base": "c"}, ignoring=["base"]) == store.folder / KEY
    other = {**CONTENT, "seed": 1}
    key = content_key(other)
    with store.lock(key):
        for step in (2, 3):
            store.put_checkpoint(key, step, other, write)
        found = store.checkpoint(key)
        assert found is not None and found[0] == 3
        cut(found[1])
        assert store.checkpoint(key) is None
        store.put(key, other, write)
    cut(store.folder / key)
    assert store.get(key) is None
    # "damaged" is a foreign file.
    assert len(list((store.folder / "damaged-2").iterdir())) == 2
    assert set(before) <= set(files(store.folder))
    StageStore(store.folder, report=reports_of(store).append).report_unused()
    assert len(reports_of(store)) == 4 and "damaged-2" not in reports_of(store)[-1]


def test_entries_of_an_older_format_are_reported_and_not_used(store: StageStore) -> None:
    entry = store.put(KEY, CONTENT, write)
    old = {"key": "0" * 32, "files": {"training.parquet": "0"}, "content": CONTENT, "details": {}}
    for number in range(7):
        folder = store.folder / (str(number) * 32)
        folder.mkdir()
        (folder / MANIFEST).write_text(json.dumps({**old, "key": folder.name}))
    store.report_unused()
    (report,) = reports_of(store)
    assert f"has 7 entries of an older format ({'0' * 32}, " in report
    assert report.endswith("and 2 more), which this version does not use; you can delete them.")
    # find() ignores them too.
    assert store.find({**CONTENT, "base": "c"}, ignoring=["base"]) == entry
    assert json.loads((entry / MANIFEST).read_text())["format"] == FORMAT


def test_a_damaged_checkpoint_is_written_again(store: StageStore) -> None:
    kept = store.put_checkpoint(KEY, 2, CONTENT, write)
    cut(kept)
    store.put_checkpoint(KEY, 2, CONTENT, write)
    assert store.checkpoint(KEY) == (2, kept)
    (report,) = reports_of(store)
    assert "is damaged" in report


OPERATIONS: dict[str, Callable[[StageStore], Any]] = {
    "put": lambda store: store.put(OTHER, OTHERS, write),
    "put_checkpoint": lambda store: store.put_checkpoint(OTHER, 5, OTHERS, write),
    "lock": lambda store: store.lock(OTHER).__enter__(),
    "check_writable": lambda store: store.check_writable(),
    "get damaged": lambda store: store.get(BROKEN),
    "checkpoint damaged": lambda store: store.checkpoint(BROKEN),
}
READING: dict[str, Callable[[StageStore], Any]] = {
    "get": lambda store: store.get(KEY),
    "has": lambda store: store.has(KEY),
    "checkpoint": lambda store: store.checkpoint(KEY),
    "report_unused": lambda store: store.report_unused(),
    "open": lambda store: StageStore(store.folder),
}
OTHERS, BROKENS = {**CONTENT, "seed": 1}, {**CONTENT, "seed": 2}
OTHER, BROKEN = content_key(OTHERS), content_key(BROKENS)
READS = ("stat", "lstat", "scandir", "listdir", "open")


def failing(names: tuple[str, ...], folder: Path, number: int, patch: Any) -> None:
    """Let these calls fail in a folder, as on a full disk or one without permission."""
    for name in names:
        real = getattr(os, name)

        def call(place: Any, *args: Any, real: Any = real, **options: Any) -> Any:
            path = f"/proc/self/fd/{place}" if isinstance(place, int) else place
            where = os.readlink(path) if isinstance(place, int) else os.fspath(path)
            if str(where).startswith(str(folder)):
                raise OSError(number, os.strerror(number), str(where))
            return real(place, *args, **options)

        patch.setattr(os, name, call)
        # Paths of Python 3.10 keep these functions.
        kept = getattr(pathlib, "_NormalAccessor", None)
        if getattr(kept, name, None) is real:
            patch.setattr(kept, name, staticmethod(call))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failed_write_gives_one_sentence_and_leaves_no_files(
    store: StageStore, operation: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, CONTENT, write)
    cut(store.put(BROKEN, BROKENS, write))
    cut(store.put_checkpoint(BROKEN, 3, BROKENS, write))
    before = {name: (store.folder / name).read_bytes() for name in files(store.folder)}
    for name in ("mkdir", "rename", "fsync"):
        with monkeypatch.context() as patch:
            failing((name,), store.folder, number, patch)
            message = ""
            try:
                OPERATIONS[operation](store)
            except StorageError as error:
                message = str(error)
        if not message:
            continue  # The operation does not use this call.
        assert message.startswith(f"trainer.store: {store.folder} can't be ")
        assert os.strerror(number) in message and "\n" not in message
        assert "Free disk space" in message
        after = {name: (store.folder / name).read_bytes() for name in files(store.folder)}
        assert {k: v for k, v in after.items() if not k.startswith("locks/")} == before
        assert not list(store.folder.glob("drafts/*"))
        break
    else:
        pytest.fail("nothing failed")
    # Afterwards all operations work.
    OPERATIONS[operation](StageStore(store.folder, report=reports_of(store).append))


@pytest.mark.parametrize("operation", READING)
def test_a_failed_read_gives_one_sentence(
    store: StageStore, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, CONTENT, write)
    store.put_checkpoint(KEY, 3, CONTENT, write)
    before = files(store.folder)
    with monkeypatch.context() as patch:
        failing(READS, store.folder, errno.EACCES, patch)
        with pytest.raises(StorageError, match=r"^trainer\.store: .* can't be read: Permission"):
            READING[operation](store)
    assert files(store.folder) == before
    READING[operation](store)
