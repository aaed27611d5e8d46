"""Every kind of source, and the message for every mistake in one."""

import csv
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
from row_files import KEY, Write, lines_of, pair, refused, row

from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.errors import InputError


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
    assert (only.messages[0]["content"], only.answer) == ("a", "b")


def test_text_does_not_change(write: Write) -> None:
    text = " \n\tdrei Äpfel\u2028\x85\x0b\r\n "
    for source in (
        write("escaped.jsonl", lines_of(pair(text, text))),
        write("raw.jsonl", json.dumps(pair(text, text), ensure_ascii=False)),
        write("array.json", json.dumps([pair(text, text)], ensure_ascii=False)),
        write("rows.csv", f'question,answer\n"{text}","{text}"\n'),
        write("rows.parquet", {"question": [text], "answer": [text]}),
    ):
        (only,) = read_rows(source)
        assert (only.messages[0]["content"], only.answer) == (text, text), source


def test_dates_stay_text_in_json(write: Write) -> None:
    (only,) = read_rows(write("rows.jsonl", lines_of(pair("2024-01-02", "2024-01-02T00:00:00Z"))))
    assert (only.messages[0]["content"], only.answer) == ("2024-01-02", "2024-01-02T00:00:00Z")


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
    assert [(r.messages[0]["content"], r.answer) for r in rows] == [("1", "5.0"), ("2", "0.25")]


def test_csv_values_are_text(write: Write) -> None:
    values = ["007", "1.50", "None", "NA", "null", "nan", "True", "1e3", "#x", "-", " a "]
    text = "question,answer\n" + "".join(f"{value},{value}\n" for value in values)
    rows = read_rows(write("rows.csv", text))
    assert [r.answer for r in rows] == values
    assert [r.messages[0]["content"] for r in rows] == values


def test_csv_as_python_writes_it(write: Write, tmp_path: Path) -> None:
    draw = random.Random(0)
    symbols = ["a", "é", " ", ",", '"', "\n", "\r\n", "\t", "\\", "#", "'", "\u2028", "NA"]
    texts = ["x" + "".join(draw.choices(symbols, k=9)) for _ in range(800)]
    with open(tmp_path / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "answer"), *zip(texts[::2], texts[1::2], strict=True)])
    rows = read_rows("rows.csv")
    assert [text for r in rows for text in (r.messages[0]["content"], r.answer)] == texts
    lines = (tmp_path / "rows.csv").read_bytes().split(b"\n")
    for r in rows:
        start = r.messages[0]["content"].split("\n")[0].replace('"', '""').rstrip("\r").encode()
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
        found = [(r.messages[0]["content"], r.answer) for r in read_rows(source)]
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
        refused(source, "found '::' in the path, expected a path without; rename it")
    assert read_rows(write("a::b.jsonl", lines_of(pair("a", "b"))))


def test_home_directory(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write("rows.jsonl", lines_of(pair("a", "b")))
    (only,) = read_rows("~/rows.jsonl")
    assert only.where == "~/rows.jsonl, row 1, line 1"


def test_changed_file_is_read_again(write: Write) -> None:
    assert read_rows(write("rows.csv", "question,answer\na,b\n"))[0].answer == "b"
    assert read_rows(write("rows.csv", "question,answer\na,c\n"))[0].answer == "c"
    for value in ("b", "c"):
        source = write("rows.parquet", {"question": ["a"], "answer": [value]})
        assert read_rows(source)[0].answer == value


def test_no_temporary_files_remain(
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
    refused(write("bad.parquet", b"PAR1 no PAR1"), "found unreadable Parquet")
    assert not cache.exists()
    assert not list(temporary.iterdir())
    assert capfd.readouterr() == ("", "")
    assert datasets.logging.get_verbosity() == verbosity
    assert not datasets.are_progress_bars_disabled()


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
    assert first.messages == tuple(LONG_CHAT)
    assert (first.answer, second.answer) == (" d ", "f")
    assert second.messages == ({"role": "user", "content": "e"},)


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
        (chat(("alien", "a"), ("assistant", "b")), "message 1: found the role 'alien', expected"),
        ([{"role": ["user"], "content": "a"}], "message 1: found the role ['user'], expected"),
        (["hello"], "message 1: found a text, expected an object with role and content"),
        (
            [{"by": "user", "value": "a"}],
            "message 1: found 'by', 'value', expected an object with role and content",
        ),
        (chat(("user", "a"), ("assistant", " ")), "message 2: found only white space"),
        (chat(("user", None), ("assistant", "a")), "message 1: found null, expected text"),
        (
            chat(("user", [{"type": "image_url", "url": "a"}]), ("assistant", "b")),
            "message 1, part 1: found the type 'image_url', expected text",
        ),
    ],
)
def test_wrong_chat(write: Write, value: Any, text: str) -> None:
    good = {"messages": chat(("user", "a"), ("assistant", "b"))}
    source = write("rows.jsonl", lines_of(good, {"messages": value}))
    refused(source, ": rows.jsonl, row 2, line 2, column 'messages'", text, messages="messages")


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
        ("a\ud800b", r"found half a surrogate pair ('\ud800'), expected complete characters"),
    ],
)
def test_value_that_is_not_text(write: Write, column: str, value: Any, text: str) -> None:
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
    refused(source, f"row 1, column 'answer': {text}, expected text")
