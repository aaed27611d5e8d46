"""Folders of finished runs: reused only if no file has changed."""

import json
import random
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import Tiny, results

from lightning_unlearn import GA, AnswerLikelihood, InputError
from lightning_unlearn.storage.integrity import damage_of, describe_files, sha256_of
from lightning_unlearn.storage.run_folders import ABOUT, find_run
from lightning_unlearn.storage.seals import seal_values


def finished_run(folder: Path, **about: Any) -> Path:
    (folder / "learn").mkdir(parents=True)
    (folder / "learn" / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    (folder / "records.parquet").write_bytes(b"rows")
    files = describe_files(folder, ["learn", "records.parquet"])
    values = {"key": "k", "finished": True, "files": files, **about}
    write_about(folder, values)
    return folder


def write_about(folder: Path, values: dict[str, Any]) -> None:
    (folder / ABOUT).write_text(json.dumps(seal_values(values)))


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


def test_a_run_is_found_by_its_key(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    second = finished_run(tmp_path / "run_2", key="other")
    assert find_run(tmp_path / "run", "k") == run
    assert find_run(tmp_path / "run", "other") == second
    assert find_run(tmp_path / "run", "third") is None
    assert find_run(tmp_path / "nowhere", "k") is None
    assert find_run(finished_run(tmp_path / "unfinished", finished=False), "k") is None


@pytest.mark.parametrize("name", ["learn/adapter_model.safetensors", "records.parquet"])
def test_every_changed_bit_of_a_run_is_detected(tmp_path: Path, name: str) -> None:
    run = finished_run(tmp_path / "run")
    file = run / name
    bits = random.Random(0).sample(range(8 * file.stat().st_size), 20)
    for bit in bits:
        said: list[str] = []
        flip(file, bit)
        assert find_run(run, "k", report=said.append) is None
        assert said == [
            f"{run} is damaged ({name} does not match its checksum); rebuilding it from the store."
        ]
        # sizes_only does not read the files.
        assert find_run(run, "k", sizes_only=True) == run
        flip(file, bit)
        assert find_run(run, "k") == run


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda run: (run / "records.parquet").unlink(),
    "longer": lambda run: (run / "records.parquet").write_bytes(b"rows more"),
    "folder": lambda run: ((run / "records.parquet").unlink(), (run / "records.parquet").mkdir()),
    "no files": lambda run: write_about(run, {"key": "k", "finished": True}),
    "empty files": lambda run: write_about(run, {"key": "k", "finished": True, "files": {}}),
    "sizes": lambda run: write_about(
        run, {"key": "k", "finished": True, "files": {"records.parquet": 4}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("sizes_only", [False, True])
def test_a_run_with_changed_files_is_not_finished(
    tmp_path: Path, damage: str, sizes_only: bool
) -> None:
    run = finished_run(tmp_path / "run")
    DAMAGES[damage](run)
    assert find_run(run, "k", sizes_only) is None


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    found = set()
    for text in "abcde":
        file.write_text(text)
        found.add(sha256_of(file))
    assert len(found) == 5
    assert damage_of(tmp_path, describe_files(tmp_path)) is None


def test_fit_rebuilds_a_damaged_folder(tiny: Tiny) -> None:
    def fit() -> Path:
        trainer = tiny.trainer([GA(), AnswerLikelihood()])
        trainer.fit(tiny.module(), tiny.datamodule(order=["safety"]))
        assert trainer.run_dir is not None
        return trainer.run_dir

    run = fit()
    before = results(run)
    for name in ("learn/adapter_model.safetensors", "unlearn/adapter_model.safetensors"):
        flip(run / name, 5000)
    (run / "records.parquet").unlink()
    assert fit() == run and results(run) == before


def test_a_run_creates_no_folder_if_its_store_cannot_be_written(tiny: Tiny) -> None:
    (tiny.root / "file").write_text("x")
    trainer = tiny.trainer([GA()], store=str(tiny.root / "file" / "store"))
    with pytest.raises(InputError, match=r"^trainer\.store: .* can't be written: Not a directory"):
        trainer.fit(tiny.module(), tiny.datamodule(order=["safety"]))
    assert [file.name for file in tiny.root.iterdir()] == ["file"]


def test_run_json_records_how_each_stage_was_trained(tiny: Tiny) -> None:
    trainer = tiny.trainer([GA()])
    trainer.fit(tiny.module(), tiny.datamodule(order=["tofu", "safety"]))
    assert trainer.run_dir is not None
    about = json.loads((trainer.run_dir / ABOUT).read_text())
    assert [stage["name"] for stage in about["stages"]] == ["tofu", "safety", "unlearn"]
    for stage in about["stages"]:
        assert (stage["steps"], stage["of"]) == (3, 3) and "ended" not in stage
        assert stage["machine"] == trainer.machine
    machine = trainer.machine
    assert machine["threads"] == torch.get_num_threads() and machine["device"] == "cpu"
    assert machine["processor"] and machine["instructions"] and machine["processes"] == 1
    names = ["python", "lightning-unlearn", "torch", "transformers", "peft", "lightning"]
    assert list(machine["versions"]) == names
    assert machine["versions"]["torch"] == version("torch")
