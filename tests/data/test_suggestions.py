"""What a message about rows suggests works when it is done."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from row_files import Write, lines_of

from lightning_unlearn.data.batches import micro_batch
from lightning_unlearn.data.recipes import EvalSet, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.data.stage_rows import columns_of
from lightning_unlearn.errors import InputError

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SYSTEM = [{"role": "system", "content": "s"}, *CHAT]


def read(stage: Stage | EvalSet, remarks: list[str] | None = None) -> int:
    """Check and read a stage or an evaluation set; return its number of rows."""
    stage.check("data.stages.tofu")
    columns = columns_of(stage)
    if isinstance(stage, EvalSet):
        columns.update(paraphrase=stage.paraphrase, alternatives=stage.alternatives)
    options = {"split": stage.split, "subset": stage.subset, "limit": stage.limit}
    remark = remarks.append if remarks is not None else lambda _: None
    return len(read_rows(stage.source, remark=remark, **options, **columns))


def keys_of(advice: str) -> dict[str, Any]:
    """The keys of "set a: x, b: y"; what a reader takes for an explanation is left out."""
    text = advice.rpartition("set ")[2]
    text = re.split(r" to train on |; |\.$| \(", text)[0]
    found = yaml.safe_load("{" + text + "}")
    assert isinstance(found, dict) and found, advice
    return found


def refusal(stage: Stage | EvalSet) -> str:
    with pytest.raises(InputError) as caught:
        read(stage)
    return str(caught.value)


COLUMNS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"instruction": "q", "output": "a"}, {}),
    ({"instruction": "q", "input": "i", "output": "a"}, {}),
    ({"question": "q", "response": "a"}, {}),
    ({"question": "q", "answer": "a"}, {"messages": "chat"}),
    ({"question": "q", "answer": "a"}, {"text": "document", "packing": True}),
    ({"question": "q", "answer": "a"}, {"prompt": ["question", "context"]}),
    ({"question": "q", "answer": "a"}, {"prompt_template": "{question} {context}"}),
    ({"My: question": "q", "answer": "a"}, {"prompt": ["My: question", "context"]}),
    ({"null": "q", "output": "a"}, {"prompt": "null"}),
    ({"conversations": CHAT}, {}),
    ({"conversations": CHAT}, {"text": "document"}),
    ({"conversations": CHAT}, {"prompt_template": "{question}"}),
    ({"messages": CHAT, "prompt": "q", "source": "s"}, {}),
    ({"text": "t"}, {}),
    ({"text": "t"}, {"messages": "chat"}),
    ({"text": "t", "number": 3}, {"system": "role", "prompt_template": "{question}"}),
    ({"a, b": "t"}, {}),
    ({"#": "t"}, {}),
]


@pytest.mark.parametrize(("row", "keys"), COLUMNS)
def test_columns_that_are_proposed_can_be_read(
    write: Write, row: dict[str, Any], keys: dict[str, Any]
) -> None:
    source = write("rows.jsonl", lines_of(row, row))
    advice = refusal(Stage(source=source, **keys))
    proposed = keys_of(advice)
    if "text" not in proposed or proposed["text"] is None:
        keys = {name: value for name, value in keys.items() if name != "packing"}
    assert read(Stage(source=source, **{**keys, **proposed})) == 2


@pytest.mark.parametrize("names", [("context", "more"), ("in, put", "a: b"), ("yes", "1")])
def test_unused_columns_that_are_proposed_can_be_used(write: Write, names: tuple[str, str]) -> None:
    row = {"question": "q", "answer": "a", names[0]: "x", names[1]: "y"}
    stage = Stage(source=write("rows.jsonl", lines_of(row)))
    for left in (names, names[1:], ()):
        remarks: list[str] = []
        assert read(stage, remarks) == 1
        assert len(remarks) == bool(left)
        if left:
            assert all(f"'{name}'" in remarks[0] for name in left)
            stage.prompt = keys_of(remarks[0])["prompt"]
    assert stage.prompt == ["question", *names]


def test_an_unused_column_beside_a_template(write: Write) -> None:
    source = write("rows.jsonl", lines_of({"question": "q", "answer": "a", "context": "x"}))
    remarks: list[str] = []
    read(Stage(source=source, prompt_template="{question}"), remarks)
    assert remarks[0].endswith("If a prompt needs 'context', name it in prompt_template.")
    read(Stage(source=source, prompt_template="{question} {context}"), remarks)
    assert len(remarks) == 1


def test_the_columns_of_alpaca_are_named_once(tmp_path: Path) -> None:
    rows = [{"instruction": "q", "input": "x", "output": "a"}] * 3
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    remarks: list[str] = []
    stage = Stage(source=str(tmp_path / "alpaca.json"), prompt="instruction", answer="output")
    read(stage, remarks)
    assert len(remarks) == 1 and remarks[0].count("'input'") == 2
    stage.prompt = keys_of(remarks[0])["prompt"]
    assert read(stage, remarks) == 3 and len(remarks) == 1


def test_optional_columns_can_be_null(write: Write) -> None:
    source = write("rows.jsonl", lines_of({"question": "q", "answer": "a", "role": "s"}))
    for name in ("system", "paraphrase", "alternatives"):
        wrong = EvalSet(source=source, **{name: "missing"})
        assert f"set {name} to another column, or to null" in refusal(wrong)
        assert read(EvalSet(source=source, **{name: None})) == 1
    assert read(EvalSet(source=source, system="role")) == 1
    chats = write("chats.jsonl", lines_of({"messages": SYSTEM, "role": "s"}))
    stage = Stage(source=chats, messages="messages", system="role")
    assert keys_of(refusal(stage)) == {"system": None}
    assert read(Stage(source=chats, messages="messages", system=None)) == 1


EXCLUDED: list[dict[str, Any]] = [
    {"text": "t", "messages": "m"},
    {"text": "t", "system": "role"},
    {"text": "t", "prompt_template": "{question}"},
    {"messages": "m", "prompt_template": "{question}"},
]


@pytest.mark.parametrize("keys", EXCLUDED)
def test_either_of_two_keys_can_be_null(write: Write, keys: dict[str, Any]) -> None:
    row = {"question": "q", "answer": "a", "role": "s", "t": "t", "m": CHAT}
    source = write("rows.jsonl", lines_of(row))
    assert "to null" in refusal(Stage(source=source, **keys)).replace("\n", " ")
    for name in keys:
        assert read(Stage(source=source, **{**keys, name: None})) == 1


def test_split_subset_and_limit_of_a_file(write: Write) -> None:
    source = write("rows.jsonl", lines_of({"question": "q", "answer": "a"}))
    assert "set split to train" in refusal(Stage(source=source, split="test"))
    assert "set subset to null" in refusal(Stage(source=source, subset="main"))
    assert "null for all rows" in refusal(Stage(source=source, limit=0))
    assert read(Stage(source=source, split="train", subset=None, limit=None)) == 1


def test_a_split_of_a_saved_folder(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"question": "q", "answer": "a"}])
    datasets.DatasetDict({"fit": rows, "check": rows}).save_to_disk(str(tmp_path / "saved"))
    stage = Stage(source=str(tmp_path / "saved"))
    advice = refusal(stage)
    splits = advice.partition("found the splits ")[2].partition(" in this folder")[0].split(", ")
    assert splits == ["fit", "check"]
    for stage.split in splits:
        assert read(stage) == 1


def test_a_close_name_is_a_path_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("rows.jsonl", "folder/rows.jsonl"):
        Path(name).write_text(lines_of({"question": "q", "answer": "a"}))
        advice = refusal(Stage(source=name.replace("rows", "rosw")))
        meant = advice.partition("did you mean ")[2].rstrip("?")
        assert meant == name and read(Stage(source=meant)) == 1


def test_an_array_under_its_right_name(write: Write) -> None:
    content = json.dumps([{"question": "q", "answer": "a"}])
    assert "must be named .json" in refusal(Stage(source=write("rows.jsonl", content)))
    assert read(Stage(source=write("rows.json", content))) == 1


def test_a_folder_of_files_and_an_arrow_file(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "rows.jsonl").write_text(lines_of({"question": "q", "answer": "a"}))
    advice = refusal(Stage(source=str(tmp_path)))
    name = advice.partition("found a directory with ")[2].partition(";")[0]
    assert "name one of its files" in advice and read(Stage(source=str(tmp_path / name))) == 1
    datasets.Dataset.from_list([{"question": "q", "answer": "a"}]).save_to_disk(
        str(tmp_path / "saved")
    )
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    assert "name the folder that save_to_disk wrote it in" in refusal(Stage(source=str(arrow)))
    assert read(Stage(source=str(arrow.parent))) == 1


@pytest.mark.parametrize(("size", "micro", "world"), [(10, 4, 1), (3, None, 4), (100, 8, 3)])
def test_a_proposed_batch_size_can_be_divided(size: int, micro: int | None, world: int) -> None:
    with pytest.raises(InputError) as caught:
        micro_batch(size, micro, world, "data.unlearn")
    near = re.findall(r"\d+", str(caught.value).partition("such as ")[2].partition(",")[0])
    assert near
    for number in near:
        assert micro_batch(int(number), micro, world, "data.unlearn")
