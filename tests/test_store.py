"""The stage store: whole or not at all, checked, shared by processes."""

import errno
import json
import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Start
from safetensors.torch import save_file

from lightning_unlearn import InputError
from lightning_unlearn.store import MANIFEST, StageStore, content_key

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
    """Writes beyond the size fail for real, and only those of this process."""
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
def test_a_full_disk_is_told_and_the_store_stays_as_it_was(
    store: StageStore, fail: Callable[[Path], None]
) -> None:
    store.put(KEY, CONTENT, write)
    before = files(store.folder)
    other = {**CONTENT, "seed": 1}
    with pytest.raises(InputError, match=r"trainer\.store: .* can't be written: .*make room"):
        store.put(content_key(other), other, fail)
    assert files(store.folder) == before
    assert store.get(KEY) is not None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="which is a file; name a folder"):
        StageStore(file)
    below = StageStore(file / "store")
    with pytest.raises(InputError, match="can't be written: Not a directory"):
        below.put(KEY, CONTENT, write)
    with pytest.raises(InputError, match="can't be written: Not a directory"), below.claim(KEY):
        pass
    assert file.read_text() == "x"


def test_a_lock_that_cannot_be_made(store: StageStore) -> None:
    (store.folder / "locks" / f"{KEY}.lock").mkdir(parents=True)
    with pytest.raises(InputError, match="can't be written: Is a directory"), store.claim(KEY):
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


def cut_manifest(entry: Path) -> None:
    (entry / MANIFEST).write_text((entry / MANIFEST).read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, r"learn/adapter_model\.safetensors does not match its checksum"),
        (flip, r"learn/adapter_model\.safetensors does not match its checksum"),
        (remove, r"training\.parquet is missing"),
        (edit(content={**CONTENT, "seed": 7}), "its content is not that of its name"),
        (edit(content=None), r"entry\.json can't be read"),
        (edit(files=["learn"]), r"entry\.json can't be read"),
        (edit(files=None), r"entry\.json can't be read"),
        (cut_manifest, r"entry\.json can't be read"),
        (lambda entry: (entry / MANIFEST).unlink(), r"entry\.json can't be read"),
        (lambda entry: (entry / MANIFEST).write_text("[]"), r"entry\.json can't be read"),
    ],
)
def test_damage_is_reported_set_aside_and_rebuilt(
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


def test_an_entry_under_another_name_is_not_believed(store: StageStore) -> None:
    other = {**CONTENT, "seed": 1}
    store.put(content_key(other), other, write).rename(store.folder / KEY)
    assert store.get(KEY) is None
    (report,) = store.reports  # type: ignore[attr-defined]
    assert f"it says it is {content_key(other)}" in report


def put_slowly(folder: Path, meet: Path, seconds: float) -> None:
    store = StageStore(folder)

    def slow(draft: Path) -> None:
        write(draft)
        meet.touch()
        time.sleep(seconds)

    store.put(KEY, CONTENT, slow)


def hold(folder: Path, meet: Path) -> None:
    with StageStore(folder).claim(KEY):
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


def test_a_claim_holds_others_off_and_ends_with_its_process(
    store: StageStore, tmp_path: Path, start: Start
) -> None:
    holder = start(hold, store.folder, tmp_path / "meet")
    wait_for(tmp_path / "meet")
    waiting = start(hold, store.folder, tmp_path / "second")
    time.sleep(0.3)
    assert not (tmp_path / "second").exists()
    with store.claim(content_key({**CONTENT, "seed": 1})):
        pass  # another key is free
    assert not store.reports  # type: ignore[attr-defined]
    waiting.kill()
    waiting.join(30)
    holder.kill()
    holder.join(30)
    with store.claim(KEY):
        # What the killed process had begun is gone.
        assert list((store.folder / "drafts").iterdir()) == []
    with store.claim(KEY):
        pass


def test_who_waits_for_a_claim_says_so(store: StageStore, tmp_path: Path, start: Start) -> None:
    holder = start(hold, store.folder, tmp_path / "meet")
    wait_for(tmp_path / "meet")
    reports: list[str] = store.reports  # type: ignore[attr-defined]

    def end_holder(text: str) -> None:
        reports.append(text)
        holder.kill()

    store.report = end_holder
    with store.claim(KEY):
        assert reports == [f"Stage store: another process is making {KEY[:8]}; waiting for it."]


def test_checkpoints_that_a_kill_left_beside_their_entry_go(tmp_path: Path) -> None:
    content = {"stage": "tofu"}
    key = content_key(content)
    StageStore(tmp_path).put(key, content, lambda folder: None)
    left = tmp_path / "checkpoints" / f"{key}-5"
    left.mkdir(parents=True)
    assert StageStore(tmp_path).get(key) is not None
    assert not left.exists()
