"""Sources that cannot be read or are ambiguous, and the messages about them."""

import errno
import json
import os
import re
import socket
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy
import pyarrow
import pyarrow.parquet
import pytest
from tiny_models import tiny_tokenizer

from lightning_unlearn import TOFU, EvalSet, InputError, Stage, StagedDataModule
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.errors import visible

KEY = "data.stages.tofu.source"
GOOD = {"question": "What is A?", "answer": "A letter."}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, *rows: Any) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    Path(name).write_text(text)
    return name


def said(source: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_rows(source, key=KEY, **options)
    message = str(caught.value)
    assert "\n" not in message and "expected" in message and "; " in message
    return message.removeprefix(f"{KEY}: ")


def remarks(source: str, **options: Any) -> list[str]:
    found: list[str] = []
    read_rows(source, key=KEY, remark=found.append, **options)
    return found


# Paths that are not files of rows


def pipe() -> None:
    os.mkfifo("rows.jsonl")


def device() -> None:
    Path("rows.jsonl").symlink_to("/dev/zero")


def unix_socket() -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("rows.jsonl")


@pytest.mark.parametrize(
    ("make", "kind"), [(pipe, "a pipe (FIFO)"), (device, "a device"), (unix_socket, "a socket")]
)
def test_sources_that_never_end_are_not_read(make: Callable[[], None], kind: str) -> None:
    make()
    assert said("rows.jsonl") == (
        f"rows.jsonl: found {kind}, expected a file that can be read more than once; write the "
        "rows to a file and name it"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a" * 256 + ".jsonl", "found a name of 262 bytes, which the file system refuses"),
        ("a" * 300, "found a name of 300 bytes, which the file system refuses"),
        ("é" * 130, "found a name of 260 bytes, which the file system refuses"),
        ("rows\0.jsonl", "found a path that no file can have ("),
        ("~nobody-of-that-name/rows.jsonl", "found an unknown home folder ("),
        ("loop.jsonl", "found a path that cannot be followed (Too many levels of symbolic links)"),
        ("dangling.jsonl", "found no such file ("),
        ("rows.csv/more.jsonl", "found no such file ("),
    ],
)
def test_paths_that_do_not_exist(source: str, expected: str) -> None:
    Path("loop.jsonl").symlink_to("loop.jsonl")
    Path("dangling.jsonl").symlink_to("nowhere.jsonl")
    write("rows.csv")
    assert said(source).startswith(f"{visible(source)}: {expected}")


def test_folders_that_may_not_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", deny)  # chmod would not stop root
    message = said("locked/rows.jsonl")
    assert message.startswith("locked/rows.jsonl: found a path that cannot be followed (Permission")
    assert "check the permissions of its folders" in message


def test_a_folder_that_may_not_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    Path("folder").mkdir()
    monkeypatch.setattr(Path, "iterdir", deny)
    assert "name a file with the rows" in said("folder")
    assert "found no such file" in said("rows.jsonl")


def test_a_current_directory_that_was_removed(here: Path) -> None:
    (here / "gone").mkdir()
    os.chdir("gone")
    (here / "gone").rmdir()
    assert said("rows.jsonl").startswith("rows.jsonl: found no such file (rows.jsonl), expected")
    os.chdir(here)


def test_a_file_that_is_an_arrow_table() -> None:
    write("data-00000-of-00001.arrow")
    assert said("data-00000-of-00001.arrow").endswith(
        "; name the folder that save_to_disk wrote it in, or convert the file"
    )


# Folders of save_to_disk


def saved(name: str = "saved", **splits: list[dict[str, Any]]) -> str:
    made = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    whole = datasets.DatasetDict(made) if len(made) > 1 else next(iter(made.values()))
    datasets.disable_progress_bars()
    whole.save_to_disk(name)
    datasets.enable_progress_bars()
    return name


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_a_saved_data_set_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    source = saved(train=[GOOD | {"id": 1}, {"question": "b", "answer": "c", "id": 2}])
    before = files()
    capfd.readouterr()
    rows = read_rows(source)
    assert [(row.messages[0]["content"], row.answer, row.where) for row in rows] == [
        ("What is A?", "A letter.", "saved, row 1"),
        ("b", "c", "saved, row 2"),
    ]
    assert len(read_rows(source, limit=1)) == 1
    assert "'id' is not used" in remarks(source)[0]
    assert files() == before and capfd.readouterr() == ("", "")
    assert said(source, prompt="text").startswith("saved: found 'question', 'answer', 'id' in the")
    assert "found split 'test' with a file, which has no splits" in said(source, split="test")
    assert "found subset 'x' with a file" in said(source, subset="x")


def test_one_of_the_saved_splits_is_read() -> None:
    source = saved(train=[GOOD], test=[{"question": "b", "answer": "c"}])
    assert [row.answer for row in read_rows(source)] == ["A letter."]
    assert [row.answer for row in read_rows(source, split="test")] == ["c"]
    assert said(source, split="dev") == (
        "saved: found the splits train, test in this folder, expected 'dev'; set split (for "
        "held-out rows heldout_split) to one of them"
    )


@pytest.mark.parametrize("broken", ["state.json", "data-00000-of-00001.arrow"])
def test_a_saved_data_set_that_is_damaged(broken: str) -> None:
    source = saved(train=[GOOD])
    Path(source, broken).write_text("{}")
    assert said(source).startswith("saved: found a folder of save_to_disk that cannot be read (")


# Numbers


def table(name: str, **columns: Any) -> str:
    with open(name, "wb") as file:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return name


NUMBERS = [0.1, 1 / 3, 1e22, 16777216.0, -2.5, 1e-7]


@pytest.mark.parametrize(("kind", "bits"), [(numpy.float16, 16), (numpy.float32, 32)])
@pytest.mark.parametrize("way", ["parquet", "saved"])
def test_short_floats_become_short_text(kind: Any, bits: int, way: str) -> None:
    values = numpy.array([n for n in NUMBERS if abs(n) < 60000 or bits == 32], kind)
    columns = {"question": ["q"] * len(values), "answer": pyarrow.array(values)}
    source = table("rows.parquet", **columns)
    if way == "saved":
        made = datasets.Dataset(pyarrow.table(columns))
        datasets.disable_progress_bars()
        made.save_to_disk(source := "saved")
        datasets.enable_progress_bars()
    found = [row.answer for row in read_rows(source)]
    assert found[0] == "0.1"
    # The shortest text that reads back as this number.
    assert [kind(text) for text in found] == list(values)
    assert found == [repr(float(str(value))) for value in values]


def test_decimals_and_lists_of_short_numbers() -> None:
    wrong = pyarrow.array([[0.2, 0.3]], pyarrow.list_(pyarrow.float32()))
    money = pyarrow.array([Decimal("1.50")], pyarrow.decimal128(9, 2))
    (row,) = read_rows(
        table("rows.parquet", question=["q"], answer=money, wrong=wrong), alternatives="wrong"
    )
    assert (row.answer, row.alternatives) == ("1.50", ("0.2", "0.3"))


@pytest.mark.parametrize(
    "number",
    ["1" * 5000, "-" + "9" * 30, "12345678901234567890.123", "1e400", "1e-400", "-0", "0.1", "7"],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_no_digit_of_a_number_is_lost(name: str, number: str) -> None:
    text = f'{{"question": "q", "answer": {number}}}'
    (row,) = read_rows(write(name, text if name == "rows.jsonl" else f"[{text}]"))
    assert row.answer == number


def test_values_that_are_not_finite_numbers() -> None:
    write("rows.jsonl", '{"question": "q", "answer": NaN}')
    assert "column 'answer': found nan (float), expected text" in said("rows.jsonl")


def test_class_labels_are_their_names() -> None:
    labels = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"question": datasets.Value("string"), "answer": labels})
    rows = {"question": ["p", "q"], "answer": [1, 0]}
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk("saved")
    made.to_parquet("rows.parquet")
    datasets.enable_progress_bars()
    for source in ("saved", "rows.parquet"):
        assert [row.answer for row in read_rows(source)] == ["yes", "no"]


def test_values_that_cannot_be_decoded() -> None:
    buffers = [
        None,
        pyarrow.py_buffer(bytes((0, 0, 0, 0, 2, 0, 0, 0))),
        pyarrow.py_buffer(b"\xff\xfe"),
    ]
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 1, buffers)
    message = said(table("rows.parquet", question=["q"], answer=broken))
    assert message.startswith(
        "rows.parquet: found a value in question, answer that cannot be read ('utf-8' codec can't"
    )
    assert "found b'x' (bytes), expected text" in said(
        table("rows.parquet", question=["q"], answer=[b"x"])
    )


# JSON with repeated keys


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("rows.jsonl", '{"answer": "a", "question": "q", "answer": "b"}', "line 2: found the key"),
        ("rows.jsonl", '{"x": [{"y": 1, "y": 2}]}', "line 2: found the key"),
        ("rows.json", '[{"question": "q", "answer": "a"},\n{"answer": 1, "answer": 1}]', "line 3"),
    ],
)
def test_a_repeated_key(name: str, text: str, place: str) -> None:
    write(name, "" if name == "rows.json" else json.dumps(GOOD), text)
    message = said(name)
    assert message.startswith(f"{name}, {place}")
    assert message.endswith("twice in one object, expected it once; remove or rename one of them")


# Columns that are not used, rows that repeat


ALPACA = [
    {"instruction": "Find the area.", "input": "Sides 3 and 4", "output": "12"},
    {"instruction": "Name a fruit.", "input": "", "output": "Plum"},
]


def test_unused_columns_are_reported() -> None:
    source = write("rows.jsonl", *ALPACA)
    assert said(source).endswith(
        "expected the column 'question'; set prompt: [instruction, input], answer: output"
    )
    columns = {"prompt": "instruction", "answer": "output"}
    assert remarks(source, **columns) == [
        f"{KEY}: rows.jsonl: 'input' is not used (prompt: instruction, answer: output). If a "
        "prompt needs 'input', set prompt: [instruction, input]."
    ]
    # The advice works.
    joined = [{**row, "instruction": f"{row['instruction']} {row['input']}"} for row in ALPACA]
    source = write(
        "joined.jsonl", *({k: v for k, v in row.items() if k != "input"} for row in joined)
    )
    assert remarks(source, **columns) == []
    assert read_rows(source, **columns)[0].messages[0]["content"] == "Find the area. Sides 3 and 4"


def test_empty_columns_are_not_reported() -> None:
    source = write("rows.jsonl", GOOD | {"input": "", "note": None, "tags": []}, GOOD)
    assert remarks(source) == []
    assert remarks(write("rows.csv", "question,answer,", "a,b,0")) == []
    two = write("rows.csv", "id,question,answer,topic", "1,a,b,x")
    assert "'id', 'topic' are not used (prompt: question, answer: answer)" in remarks(two)[0]
    source = table("rows.parquet", question=["a"], answer=["b"], id=[1])
    assert "'id' is not used" in remarks(source)[0]


def test_rows_of_one_column() -> None:
    source = write("rows.jsonl", {"text": "A passage of news."})
    assert said(source).endswith(
        "set text: text to train on plain text, without prompts and answers"
    )
    assert read_rows(source, text="text")[0].answer == "A passage of news."


def test_one_column_as_prompt_and_answer() -> None:
    source = write("rows.jsonl", GOOD)
    assert remarks(source, prompt="answer")[0] == (
        f"{KEY}: rows.jsonl: the column 'answer' is both prompt and answer, so both are equal."
    )
    assert (
        remarks(
            write(
                "chat.jsonl",
                {"a": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]},
            ),
            prompt="x",
            answer="x",
            messages="a",
        )
        == []
    )


FACTS = [
    GOOD | {"other": "It's a letter.", "wrong": ["A number."]},
    {"question": "What is 1?", "answer": "A digit.", "other": " A digit.\n", "wrong": ["A sign."]},
]


def test_rows_whose_paraphrase_repeats_the_answer_have_none() -> None:
    source = write("rows.jsonl", *FACTS)
    columns: dict[str, Any] = {"paraphrase": "other", "alternatives": "wrong"}
    assert [row.answer for row in read_rows(source, **columns)] == ["A letter.", "A digit."]
    assert [row.paraphrase for row in read_rows(source, **columns)] == ["It's a letter.", None]
    assert remarks(source, **columns) == []


# Rows without a paraphrase of their own, without a wrong answer, and without both.
BARE = [FACTS[1], {**FACTS[0], "wrong": ["A letter."]}, {**FACTS[0], "other": "", "wrong": []}]


def facts(*rows: dict[str, Any], limit: int | None = None) -> StagedDataModule:
    write("facts.jsonl", *rows)
    probe = EvalSet("facts.jsonl", paraphrase="other", alternatives="wrong", limit=limit)
    data = StagedDataModule(
        {"a": Stage(source="facts.jsonl")}, forget="a", eval_sets={"facts": probe}
    )
    data.load_rows(tiny_tokenizer(), 512)
    return data


def test_eval_sets_keep_rows_that_some_metrics_cannot_use() -> None:
    data = facts(*BARE, *FACTS)
    TOFU("facts", "facts").check(data)
    rows = data.row_set("facts")[0]
    assert [row.paraphrase is None for row in rows] == [True, False, True, False, True]
    assert [len(row.alternatives) for row in rows] == [1, 0, 0, 1, 1]
    place = "data.eval_sets.facts.source: facts.jsonl: in "
    notes = [note for note in data.notes() if note.startswith(place)]
    assert notes == [
        f"{place}3 of 5 rows 'other' is empty or repeats the answer; metrics that need one leave "
        "these rows out.",
        f"{place}2 of 5 rows 'wrong' has no wrong answer; metrics that need one leave these rows "
        "out.",
    ]
    plain = facts(*FACTS[:1])
    assert plain.measured_fingerprints()["facts"] != data.measured_fingerprints()["facts"]
    first_of_both = r"TOFU\.forget: found no row with both paraphrase and alternatives in 'facts', "
    with pytest.raises(InputError, match=first_of_both):
        TOFU("facts", "facts", limit=2).check(data)
    with pytest.raises(
        InputError, match=r"TOFU\.forget: .*row 1, line 1 has no paraphrase, expect"
    ):
        TOFU("facts", "facts", limit=1).check(data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (BARE[0], "'other' is empty or repeats the answer, expected one in some rows; name another "
         "column (paraphrase), or set it to null"),
        (BARE[1], "'wrong' has no wrong answer, expected one in some rows; name another column "
         "(alternatives), or set it to null"),
    ],
)  # fmt: skip
def test_columns_of_which_no_row_can_be_used_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"facts.jsonl: in 2 of 2 rows {message}")):
        facts(row, row)


def staged(**stages: Stage) -> StagedDataModule:
    return StagedDataModule(stages, eval_sets={"facts": EvalSet("facts.jsonl", paraphrase="other")})


def test_the_data_module_reports_each_note_once() -> None:
    write("rows.jsonl", *ALPACA)
    write("facts.jsonl", *FACTS)
    data = staged(a=Stage(source="rows.jsonl", prompt="instruction", answer="output"))
    for _ in range(2):
        data.load_rows(tiny_tokenizer(), 512)
        first, second, third = data.notes()
    assert first.startswith("data.stages.a.source: rows.jsonl: 'input' is not used")
    assert second.startswith("data.eval_sets.facts.source: facts.jsonl: 'wrong' is not used")
    assert third.startswith(
        "data.eval_sets.facts.source: facts.jsonl: in 1 of 2 rows 'other' is empty or repeats"
    )
    other = staged(a=Stage(source="rows.jsonl", prompt="instruction", answer="output"))
    other.adopt(data)
    other.load_rows(tiny_tokenizer(), 512)
    assert other.notes() == [first, second, third]


def test_a_new_source_beside_old_heldout_rows() -> None:
    write("facts.jsonl", *FACTS)
    write("new.jsonl", *ALPACA)
    write("old.jsonl", GOOD)
    columns: dict[str, Any] = {"source": "new.jsonl", "prompt": "instruction", "answer": "output"}
    with pytest.raises(InputError) as caught:
        staged(a=Stage(**columns, heldout="old.jsonl")).load_rows(tiny_tokenizer(), 512)
    assert str(caught.value) == (
        "data.stages.a.heldout: old.jsonl: found 'question', 'answer' in the rows, expected the "
        "column 'instruction'; held-out rows need the same columns as the training rows of the "
        "stage, here those of new.jsonl; set heldout to a source with these columns, or to null"
    )
    # The advice works.
    for heldout in (None, "new.jsonl"):
        data = staged(a=Stage(**columns, heldout=heldout))
        data.load_rows(tiny_tokenizer(), 512)
        assert len(data.eval_rows("a")[0]) == 2


# Names with control characters


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines\r\tand", r"two\nlines\r\tand"),
        ("\x9b1m\x7f\x00", r"\x9b1m\x7f\x00"),
        ("\u202edrawkcab\u2028", r"\u202edrawkcab\u2028"),
        ("half \ud800", r"half \ud800"),
        (r"plain \n é 漢 👩‍👩‍👧 ' \x1b", r"plain \n é 漢 👩‍👩‍👧 ' \x1b"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown == visible(shown)
    assert str(InputError(text)) == shown


def test_control_characters_in_names_are_escaped() -> None:
    name = "a\x1b[2Jb\n.jsonl"
    source = write(name, {"q\x1b": "a"})
    assert said(source).startswith(r"a\x1b[2Jb\n.jsonl: found 'q\x1b' in the rows")
    write("facts.jsonl", *FACTS)
    data = staged(a=Stage(source=write(name, GOOD)))
    data.eval_sets = {}
    data.load_rows(tiny_tokenizer(), 512)
    assert data.rows["a"][0].where.startswith(name)
