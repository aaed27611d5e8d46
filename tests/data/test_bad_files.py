"""Files without usable rows, and the message for each."""

import errno
import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest
from row_files import Write, lines_of, pair, refused, row

from lightning_unlearn.data.rows import read_rows


def test_column_missing_in_one_row(write: Write) -> None:
    rows = [pair("a", "b"), {"question": "c", "response": "d", "id": 1}]
    refused(
        write("rows.jsonl", "\n" + lines_of(*rows)),
        "row 2, line 3: found 'question', 'response', 'id', expected the column 'answer'",
        "add it to this row, or set prompt: question, answer: response",
    )
    refused(write("rows.json", json.dumps(rows)), "row 2, line 1: found 'question', 'resp")


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        (["instruction", "input", "output"], "set prompt: [instruction, input], answer: output"),
        (["prompt", "response"], "set prompt: prompt, answer: response"),
        (["question", "prompt", "completion"], "set prompt: question, answer: completion"),
        (["messages", "prompt", "id"], "set messages: messages"),
        (["id", "prompt"], "set prompt and answer to two of the columns"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_column_missing_altogether(
    write: Write, suffix: str, columns: list[str], advice: str
) -> None:
    values = dict.fromkeys(columns, "x")
    content = {
        "json": json.dumps([values, values]),
        "jsonl": lines_of(values, values),
        "csv": f"{','.join(columns)}\n" + 2 * f"{','.join(values.values())}\n",
        "parquet": {name: ["x", "x"] for name in columns},
    }[suffix]
    missing = "answer" if "question" in columns else "question"
    found = ", ".join(f"'{name}'" for name in columns)
    text = f"found {found} in the rows, expected the column '{missing}'; {advice}"
    refused(write(f"rows.{suffix}", content), text)


def test_chat_column_missing(write: Write) -> None:
    source = write("rows.jsonl", lines_of({"conversations": [], "id": 1}))
    refused(source, "expected the column 'messages'", "set messages: conv", messages="messages")
    source = write("rows.jsonl", lines_of(pair("a", "b")))
    advice = "set messages: null, prompt: question, answer: answer"
    refused(source, advice, messages="messages")


def test_missing_file(write: Write, tmp_path: Path) -> None:
    write("train_set.json", "[]")
    refused(
        "train_sett.json",
        f"found no such file ({tmp_path / 'train_sett.json'}), expected .json, .jsonl, .csv",
        "check the path; did you mean train_set.json?",
    )
    refused("zzz.csv", "found no such file")
    refused("./train_set", "did you mean train_set.json?")
    refused("nowhere/deep/x.json", "the folder 'nowhere/deep' does not exist either")


def test_directory(tmp_path: Path, write: Write) -> None:
    refused(str(tmp_path), "found a directory with no .json, .jsonl, .csv, .parquet;")
    write("b.csv", "")
    write("a.json", "")
    refused(str(tmp_path), "found a directory with a.json, b.csv; expected a file")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rows.txt", "the suffix '.txt'"),
        ("rows.txt.gz", "the suffix '.txt'"),
        ("rows.parquet.gz", "the suffix '.parquet.gz'"),
        ("rows.json.bz2", "the suffix '.bz2'"),
        ("rows", "a file"),
    ],
)
def test_unsupported_suffix(write: Write, name: str, found: str) -> None:
    source = write(name, lines_of(pair("a", "b")))
    refused(source, f"found {found}", "expected .json, .jsonl, .csv, .parquet, and the first three")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"])
def test_empty_file(write: Write, name: str, content: bytes) -> None:
    refused(write(name, content), "found an empty file, expected at least one row")


def test_no_rows(write: Write) -> None:
    refused(write("rows.json", "[ ]"), "found no rows, expected at least one")
    refused(write("rows.csv", "question,answer\n\n"), "found no rows, expected at least one")
    nothing = pyarrow.array([], pyarrow.string())
    source = write("rows.parquet", {"question": nothing, "answer": nothing})
    refused(source, "found no rows, expected at least one")


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_unreadable_file(write: Write, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    def deny(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    source = write(f"rows.{suffix}", "x")  # chmod would not stop root
    monkeypatch.setattr(Path, "read_bytes", deny)
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", deny)
    refused(source, "Permission denied")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            '\n{"question": "a", "answer": "b"}\n{"question": "a" "answer": "b"}',
            "line 3, column 18",
        ),
        ('{"question": "a", "answer": "b"', "line 1, column 32"),
        ('{"question": "a", "answer": "b"}{}', "line 1, column 33"),
        ("question,answer", "line 1, column 1"),
        ('{\n  "question": "a"\n}\n', "line 1, column 2"),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_malformed_json_lines(write: Write, name: str, text: str, where: str) -> None:
    refused(write(name, text), f": {name}, {where}: found malformed JSON (", "one object per line")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[{"question": "a"},\n {"question" "a"}]', "line 2, column 14"),
        ('[{"question": "a"}\n {"question": "a"}]', "line 2, column 2"),
        ('[{"question": "a"},\n]', "line 2, column 1"),
        ('[\n{"question": "a"},\n', "line 3, column 1"),
        ('[\n{"question": "a"}', "line 2, column 18"),
        ('[{"question": "a"}]\n\n {}', "line 3, column 2"),
        ("[", "line 1, column 2"),
    ],
)
def test_malformed_json_array(write: Write, text: str, where: str) -> None:
    refused(
        write("rows.json", text),
        f": rows.json, {where}: found malformed JSON (",
        "array of objects",
    )


def test_json_that_python_will_not_parse(write: Write) -> None:
    deep = '{"a": ' + "[" * 200_000
    refused(write("rows.jsonl", "{}\n" + deep), "line 2: found malformed JSON (maximum recursion")
    refused(write("rows.json", "[{},\n" + deep), "line 2: found malformed JSON (maximum recursion")


@pytest.mark.parametrize(
    ("value", "found"), [("[1]", "a list"), ('"a"', "a text"), ("5", "5 (int)"), ("null", "null")]
)
def test_row_that_is_no_object(write: Write, value: str, found: str) -> None:
    good = '{"question": "a", "answer": "b"}'
    expected = f"found {found}, expected an object"
    refused(write("rows.jsonl", f"{good}\n\n{value}\n"), f"row 2, line 3: {expected}")
    refused(write("rows.json", f"{good}\n{value}\n"), f"row 2, line 2: {expected}", limit=1)
    refused(write("rows.json", f"[{good},\n{value}]"), f"row 2, line 2: {expected}")


def test_array_under_the_suffix_of_lines(write: Write) -> None:
    refused(
        write("rows.jsonl", json.dumps([pair("a", "b")])), "row 1, line 1", "must be named .json"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\na,b\n\nc\n", "row 2, line 4: found 1 fields, expected 2"),
        ('question,answer\n"a\nb",c\na,b,c\n', "row 2, line 4: found 3 fields, expected 2"),
        (
            'question,answer\na,b\nc,"d\ne\n',
            "line 3: found malformed CSV in the row that starts here",
        ),
        ('question,answer\na,"b"c\n', "line 2: found malformed CSV"),
        ("question;answer\na;b\n", "line 1: found columns separated by ';', expected commas"),
        ("question\tanswer\na\tb\n", r"line 1: found columns separated by '\t', expected commas"),
        ("answer,question,answer\na,b,c\n", "line 1: found two columns named 'answer'"),
        ("\nquestion,answer\na,b\n", "line 1: found a blank line, expected the names"),
    ],
)
def test_malformed_csv(write: Write, text: str, message: str) -> None:
    refused(write("rows.csv", text), f": rows.csv, {message}", limit=1)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_not_utf8(write: Write, name: str) -> None:
    text = "question,answer\na,é\n" if name.endswith("csv") else '\n{"question": "é"}'
    source = write(name, text.encode("latin-1"))
    refused(source, f": {name}, line 2: found the byte 0xe9, which is not UTF-8; expected UTF-8")
    source = write(name, b"\xef\xbb\xbf" + text.encode("latin-1"))
    refused(source, "line 2: found the byte 0xe9")
    refused(write(name, text.encode("utf-16")), "line 1: found the byte 0xff, which is not UTF-8")


def test_wrong_parquet_file(write: Write) -> None:
    refused(write("a.parquet", ""), "found unreadable Parquet", "expected a complete Parquet file")
    refused(write("b.parquet", lines_of(pair("a", "b"))), "found unreadable Parquet")
    source = write("c.parquet", {"question": ["a" * 99], "answer": ["b"]})
    whole = Path(source).read_bytes()
    refused(write("c.parquet", whole[:-20]), "found unreadable Parquet")
    refused(write("c.parquet", whole[:4] + bytes(60) + whole[64:]), "found unreadable Parquet")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one(write: Write, limit: int) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b")))
    refused(source, f"found limit {limit}, expected 1 or more", limit=limit)


def test_split_or_subset_of_a_file(write: Write) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b")))
    refused(source, "found split 'test' with a file, which has no splits", split="test")
    refused(source, "found subset 'full' with a file, which has no subsets", subset="full")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the hub: any name is a data set of two splits with two rows each."""
    load = datasets.load_dataset
    table = {"question": ["a", "c"], "answer": ["b", "d"], "id": [1, 2]}
    path = tmp_path / "hub.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)

    def load_dataset(name: str, subset: str | None, *, split: str) -> Any:
        files = {"train": str(path), "test": str(path)}
        return load(
            "parquet", subset, data_files=files, split=split, cache_dir=str(tmp_path / "cache")
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.parametrize("source", ["locuslab/TOFU", "gsm8k", "org/wikitext-2.0"])
def test_hub(hub: None, source: str) -> None:
    assert read_rows(source, split="test") == [
        row("a", "b", f"{source}, row 1"),
        row("c", "d", f"{source}, row 2"),
    ]
    assert [r.answer for r in read_rows(source, limit=1)] == ["b"]
    assert len(read_rows(source, limit=5)) == 2
    refused(
        source,
        "found 'question', 'answer', 'id' in the rows, expected the column 'text'",
        prompt="text",
    )


def test_unknown_split(hub: None) -> None:
    refused(
        "locuslab/TOFU",
        "split 'forget' (Unknown split \"forget\". Should be one of ['train', 'test'].)",
        split="forget",
    )


def test_hub_that_cannot_be_reached(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write("tofu.json", "[]")
    for source in ("locuslab/TOFU", "tofu"):
        refused(
            source,
            "found no such file, and the Hugging Face hub cannot be reached (Couldn't reach",
            "check the name, the network and HF_HUB_OFFLINE, or download the rows and name the fil",
        )
    refused("tofu", "; did you mean tofu.json?")


def test_unknown_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'locuslab/TOFO' doesn't exist")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    refused(
        "locuslab/TOFO",
        "no such public data set on the Hugging Face hub",
        "check the name, log in, or downl",
    )
