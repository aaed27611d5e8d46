"""Every kind of source that is read, and every mistake in one that is told."""

import csv
import errno
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from lightning_unlearn.data.rows import Row, read_rows
from lightning_unlearn.errors import InputError

KEY = "data.stages.tofu.source"
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file in the current directory and return its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, content: Any) -> str:
        if isinstance(content, dict):
            with open(name, "wb") as file:
                pyarrow.parquet.write_table(pyarrow.table(content), file)
        else:
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write_file


def refused(source: str, *texts: str, **options: Any) -> None:
    """Check that the source is refused with each of the texts, in the form all messages have."""
    with pytest.raises(InputError, match=f"^{re.escape(f'{KEY}: {source}')}") as caught:
        read_rows(source, key=KEY, **options)
    message = str(caught.value)
    for text in (*texts, "found", "expected", "; "):
        assert text in message, message


def lines_of(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(question: Any, answer: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer}


def row(question: str, answer: str, where: str) -> Row:
    return Row(({"role": "user", "content": question},), answer, where)


# What is read


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "ROWS.JSONL"])
def test_json_lines(write: Write, name: str) -> None:
    source = write(name, '{"question": "a", "answer": "b"}\n\n  \n{"answer": "d", "question": "c"}')
    assert read_rows(source) == [
        row("a", "b", f"{name}, row 1, line 1"),
        row("c", "d", f"{name}, row 2, line 4"),
    ]


def test_json_array(write: Write) -> None:
    text = '\n[\n  {"question": "a",\n   "answer": "b"}\n,{"question":"c","answer":"d"} ]\n'
    assert read_rows(write("rows.json", text)) == [
        row("a", "b", "rows.json, row 1, line 3"),
        row("c", "d", "rows.json, row 2, line 5"),
    ]


def test_csv(write: Write) -> None:
    text = ',question,answer\r\n\r\n0,"a,\r\nb","say ""x"""\r\n   \r\n1,c,d\r\n'
    assert read_rows(write("rows.csv", text)) == [
        row("a,\r\nb", 'say "x"', "rows.csv, row 1, line 3"),
        row("c", "d", "rows.csv, row 2, line 6"),
    ]


def test_parquet(write: Write) -> None:
    source = write("rows.parquet", {"answer": ["b", "d"], "extra": [None, 1], "question": [5, 6]})
    assert read_rows(source) == [
        row("5", "b", "rows.parquet, row 1"),
        row("6", "d", "rows.parquet, row 2"),
    ]


def test_other_columns(write: Write) -> None:
    source = write("rows.jsonl", lines_of({"instruction": "a", "output": "b", "question": "x"}))
    assert read_rows(source, prompt="instruction", answer="output") == [
        row("a", "b", "rows.jsonl, row 1, line 1")
    ]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_byte_order_mark(write: Write, suffix: str) -> None:
    text = "question,answer\na,b\n" if suffix == "csv" else lines_of(pair("a", "b"))
    (only,) = read_rows(write(f"rows.{suffix}", b"\xef\xbb\xbf" + text.encode()))
    assert (only.turns[0]["content"], only.answer) == ("a", "b")


def test_text_is_kept_as_written(write: Write) -> None:
    text = " \n\tdrei Äpfel\u2028\x85\x0b\r\n "
    for source in (
        write("escaped.jsonl", lines_of(pair(text, text))),
        write("raw.jsonl", json.dumps(pair(text, text), ensure_ascii=False)),
        write("array.json", json.dumps([pair(text, text)], ensure_ascii=False)),
        write("rows.csv", f'question,answer\n"{text}","{text}"\n'),
        write("rows.parquet", {"question": [text], "answer": [text]}),
    ):
        (only,) = read_rows(source)
        assert (only.turns[0]["content"], only.answer) == (text, text), source


def test_dates_stay_text_in_json(write: Write) -> None:
    (only,) = read_rows(write("rows.jsonl", lines_of(pair("2024-01-02", "2024-01-02T00:00:00Z"))))
    assert (only.turns[0]["content"], only.answer) == ("2024-01-02", "2024-01-02T00:00:00Z")


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (-3, "-3"), (10**30, str(10**30)), (5.0, "5.0"), (0.1, "0.1"), (1e22, "1e+22")],
)
def test_numbers_become_text(write: Write, value: float, text: str) -> None:
    (only,) = read_rows(write("rows.jsonl", lines_of(pair("a", value))))
    assert only.answer == text


def test_huge_integers_become_text(write: Write) -> None:
    (only,) = read_rows(write("rows.jsonl", lines_of(pair("a", 10**400))))
    assert only.answer == "1" + 400 * "0"


def test_parquet_numbers_become_text(write: Write) -> None:
    rows = read_rows(write("rows.parquet", {"question": [1, 2], "answer": [5.0, 0.25]}))
    assert [(r.turns[0]["content"], r.answer) for r in rows] == [("1", "5.0"), ("2", "0.25")]


def test_csv_values_are_text(write: Write) -> None:
    values = ["007", "1.50", "None", "NA", "null", "nan", "True", "1e3", "#x", "-", " a "]
    text = "question,answer\n" + "".join(f"{value},{value}\n" for value in values)
    rows = read_rows(write("rows.csv", text))
    assert [r.answer for r in rows] == values
    assert [r.turns[0]["content"] for r in rows] == values


def test_csv_as_python_writes_it(write: Write, tmp_path: Path) -> None:
    draw = random.Random(0)
    symbols = ["a", "é", " ", ",", '"', "\n", "\r\n", "\t", "\\", "#", "'", "\u2028", "NA"]
    texts = ["x" + "".join(draw.choices(symbols, k=9)) for _ in range(800)]
    with open(tmp_path / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "answer"), *zip(texts[::2], texts[1::2], strict=True)])
    rows = read_rows("rows.csv")
    assert [text for r in rows for text in (r.turns[0]["content"], r.answer)] == texts
    lines = (tmp_path / "rows.csv").read_bytes().split(b"\n")
    for r in rows:
        start = r.turns[0]["content"].split("\n")[0].replace('"', '""').rstrip("\r").encode()
        assert lines[int(r.where.split()[-1]) - 1].lstrip(b'"').startswith(start)


def test_long_csv_field(write: Write) -> None:
    limit = csv.field_size_limit()
    (only,) = read_rows(write("rows.csv", "question,answer\na," + "b" * (limit + 1)))
    assert len(only.answer) == limit + 1
    assert csv.field_size_limit() == limit


def test_rows_with_different_columns_and_types(write: Write) -> None:
    rows = [
        pair("a", "b") | {"tag": 1},
        pair(2, "d") | {"tag": {"x": []}},
        pair("e", 0.5) | {"note": "only here"},
        pair("g", "h") | {"tag": "text"},
    ]
    for source in (write("rows.json", json.dumps(rows)), write("rows.jsonl", lines_of(*rows))):
        found = [(r.turns[0]["content"], r.answer) for r in read_rows(source)]
        assert found == [("a", "b"), ("2", "d"), ("e", "0.5"), ("g", "h")]


def test_limit(write: Write) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b"), pair("c", "d"), pair("", None), {}))
    assert [r.answer for r in read_rows(source, limit=2)] == ["b", "d"]
    refused(source, "row 3, line 3, column 'question': found an empty text", limit=3)
    table = {"question": ["a", "c"], "answer": ["b", None]}
    assert [r.answer for r in read_rows(write("rows.parquet", table), limit=1)] == ["b"]
    assert [r.answer for r in read_rows(write("two.csv", "question,answer\na,b\nc,"), limit=1)] == [
        "b"
    ]
    assert len(read_rows(write("one.jsonl", lines_of(pair("a", "b"))), limit=9)) == 1


def test_names_that_look_like_patterns(write: Write) -> None:
    for name in ("a[1].csv", "a*.csv", "a?.csv", "train,test.csv", ".hidden.csv", "ä b.csv"):
        (only,) = read_rows(write(name, f"question,answer\nq,{name!r}\n".replace("n,t", "n.t")))
        assert only.answer == repr(name).replace("n,t", "n.t")
    (only,) = read_rows(write("b[1].parquet", {"question": ["q"], "answer": ["a"]}))
    assert only.answer == "a"


def test_name_that_looks_like_a_chain(write: Write) -> None:
    for source in (
        write("a::b.csv", "question,answer\na,b\n"),
        write("a::b.parquet", {"question": ["a"], "answer": ["b"]}),
    ):
        refused(source, "found '::' in the path, expected a name without; rename it")
    assert read_rows(write("a::b.jsonl", lines_of(pair("a", "b"))))


def test_home_directory(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write("rows.jsonl", lines_of(pair("a", "b")))
    (only,) = read_rows("~/rows.jsonl")
    assert only.where == "~/rows.jsonl, row 1, line 1"


def test_changed_file_is_read_anew(write: Write) -> None:
    assert read_rows(write("rows.csv", "question,answer\na,b\n"))[0].answer == "b"
    assert read_rows(write("rows.csv", "question,answer\na,c\n"))[0].answer == "c"
    for value in ("b", "c"):
        source = write("rows.parquet", {"question": ["a"], "answer": [value]})
        assert read_rows(source)[0].answer == value


def test_nothing_is_left_behind(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    verbosity = datasets.logging.get_verbosity()
    read_rows(write("rows.csv", "question,answer\na,b\n"))
    read_rows(write("rows.parquet", {"question": ["a"], "answer": ["b"]}))
    refused(write("bad.parquet", b"PAR1 no PAR1"), "found no readable Parquet")
    assert not cache.exists()
    assert not list(temporary.iterdir())
    assert capfd.readouterr() == ("", "")
    assert datasets.logging.get_verbosity() == verbosity
    assert not datasets.are_progress_bars_disabled()


# Demo sources


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str) -> Path:
        if name != "demo:math.jsonl":
            raise ValueError(f"no embedded data set is called {name!r}; expected math.jsonl")
        return tmp_path / "math.jsonl"

    module = ModuleType("lightning_unlearn.demo")
    module.resolve = resolve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning_unlearn.demo", module)


def test_demo(demo: None, write: Write) -> None:
    write("math.jsonl", lines_of(pair("a", "b")))
    assert read_rows("demo:math.jsonl") == [row("a", "b", "demo:math.jsonl, row 1, line 1")]


def test_unknown_demo(demo: None) -> None:
    match = f"^{KEY}: demo:maths: no embedded data set is called 'demo:maths'; expected math.jsonl$"
    with pytest.raises(InputError, match=match):
        read_rows("demo:maths", key=KEY)


# Chats


def chat(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


LONG_CHAT = chat(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_chat(write: Write, suffix: str) -> None:
    values = [[*LONG_CHAT, *chat(("assistant", " d "))], chat(("user", "e"), ("assistant", "f"))]
    rows: Any = [{"messages": value} for value in values]
    content = {
        "json": json.dumps(rows),
        "jsonl": lines_of(*rows),
        "parquet": {"messages": values},
    }[suffix]
    first, second = read_rows(write(f"rows.{suffix}", content), messages="messages")
    assert first.turns == tuple(LONG_CHAT)
    assert (first.answer, second.answer) == (" d ", "f")
    assert second.turns == ({"role": "user", "content": "e"},)


def test_chat_keeps_role_and_content_only(write: Write) -> None:
    value = [message | {"name": "x"} for message in chat(("user", 1), ("assistant", 2))]
    (only,) = read_rows(write("rows.jsonl", lines_of({"talk": value})), messages="talk")
    assert only == row("1", "2", "rows.jsonl, row 1, line 1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("hello", "found a text, expected a list of messages with role and content"),
        (None, "found null, expected a list of messages"),
        ([], "found the roles of no message, expected a chat that ends in user, assistant"),
        (LONG_CHAT, "found the roles system, user, assistant, user, expected a chat that ends in"),
        (chat(("assistant", "a")), "found the roles assistant, expected"),
        (chat(("system", "s"), ("assistant", "a")), "found the roles system, assistant, expected"),
        (
            chat(("user", "a"), ("assistant", "b"), ("assistant", "c")),
            "found the roles user, assistant, assistant, expected",
        ),
        (chat(("human", "a"), ("assistant", "b")), "message 1: found the role 'human', expected"),
        ([{"role": ["user"], "content": "a"}], "message 1: found the role ['user'], expected"),
        (["hello"], "message 1: found a text, expected an object with role and content"),
        (
            [{"from": "user", "value": "a"}],
            "message 1: found 'from', 'value', expected an object with role and content",
        ),
        (chat(("user", "a"), ("assistant", " ")), "message 2: found only white space"),
        (chat(("user", None), ("assistant", "a")), "message 1: found null, expected text"),
        (
            chat(("user", [{"type": "text", "text": "a"}]), ("assistant", "b")),
            "message 1: found a list, expected text",
        ),
    ],
)
def test_wrong_chat(write: Write, value: Any, text: str) -> None:
    good = {"messages": chat(("user", "a"), ("assistant", "b"))}
    source = write("rows.jsonl", lines_of(good, {"messages": value}))
    refused(source, ": rows.jsonl, row 2, line 2, column 'messages'", text, messages="messages")


# Wrong values


@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "found null, expected text"),
        ("", "found an empty text, expected text"),
        (" \n\t\u00a0", "found only white space, expected text"),
        (True, "found True (bool), expected text"),
        (["a"], "found a list, expected text"),
        ({"a": 1}, "found an object, expected text"),
        (float("nan"), "found nan (float), expected text"),
        (float("-inf"), "found -inf (float), expected text"),
        ("a\ud800b", r"found half a surrogate pair ('\ud800'), expected whole characters"),
    ],
)
def test_value_that_is_no_text(write: Write, column: str, value: Any, text: str) -> None:
    bad = pair("a", "b") | {column: value}
    source = write("rows.jsonl", "\n" + lines_of(pair("a", "b"), bad))
    refused(source, f": rows.jsonl, row 2, line 3, column '{column}': {text}")
    source = write("rows.json", json.dumps([pair("a", "b"), bad], indent=1))
    refused(source, f": rows.json, row 2, line 6, column '{column}': {text}")


@pytest.mark.parametrize(
    ("value", "text"), [("", "found an empty text"), ("   ", "found only white space")]
)
def test_empty_csv_field(write: Write, value: str, text: str) -> None:
    source = write("rows.csv", f'question,answer\n"a\nb",c\n\nd,{value}\n')
    refused(source, f"row 2, line 5, column 'answer': {text}, expected text")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "found null"),
        ("", "found an empty text"),
        (False, "found False (bool)"),
        ([1], "found a list"),
    ],
)
def test_wrong_parquet_value(write: Write, value: Any, text: str) -> None:
    other = {bool: True, list: [2]}.get(type(value), "b")
    source = write("rows.parquet", {"question": ["a", "b"], "answer": [value, other]})
    refused(source, f"rows.parquet, row 1, column 'answer': {text}, expected text")


# Missing columns


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
        (["instruction", "input", "output"], "set prompt: instruction, answer: output"),
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


# Wrong files


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
    refused(str(tmp_path), "found a directory, which holds no .json, .jsonl, .csv, .parquet;")
    write("b.csv", "")
    write("a.json", "")
    refused(str(tmp_path), "found a directory, which holds a.json, b.csv; expected a file")


@pytest.mark.parametrize(
    ("name", "found"),
    [("rows.txt", "the suffix '.txt'"), ("rows.json.gz", "the suffix '.gz'"), ("rows", "a file")],
)
def test_unsupported_suffix(write: Write, name: str, found: str) -> None:
    source = write(name, lines_of(pair("a", "b")))
    refused(source, f"found {found}", "expected .json, .jsonl, .csv, .parquet; convert or rename")


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

    source = write(f"rows.{suffix}", "x")  # no chmod, which would not stop root
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
    refused(write("a.parquet", ""), "found no readable Parquet", "expected a complete Parquet file")
    refused(write("b.parquet", lines_of(pair("a", "b"))), "found no readable Parquet")
    source = write("c.parquet", {"question": ["a" * 99], "answer": ["b"]})
    whole = Path(source).read_bytes()
    refused(write("c.parquet", whole[:-20]), "found no readable Parquet")
    refused(write("c.parquet", whole[:4] + bytes(60) + whole[64:]), "found no readable Parquet")


# Options


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one(write: Write, limit: int) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b")))
    refused(source, f"found limit {limit}, expected 1 or more", limit=limit)


def test_split_or_subset_of_a_file(write: Write) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b")))
    refused(source, "found split 'test' with a file, which has no splits", split="test")
    refused(source, "found subset 'full' with a file, which has no subsets", subset="full")


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for the hub: any name is a data set of two splits with two rows each."""
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


def test_hub_out_of_reach(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write("tofu.json", "[]")
    for source in ("locuslab/TOFU", "tofu"):
        refused(
            source,
            "found no such file, and the Hugging Face hub cannot be reached (Couldn't reach",
            "check name, network and HF_HUB_OFFLINE, or download the rows and name the file (",
        )
    refused("tofu", "; did you mean tofu.json?")


def test_unknown_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'locuslab/TOFO' doesn't exist")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    refused("locuslab/TOFO", "no such data set on the Hugging Face hub", "check the name, or downl")
