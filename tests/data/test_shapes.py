"""Rows in the shapes that published data have: chats, several columns, packed files, patterns."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from row_files import KEY, Write, lines_of, pair, refused, row

from lightning_unlearn.data.recipes import EvalSet, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.errors import InputError

SHAREGPT = [
    {"from": "system", "value": "Be short."},
    {"from": "human", "value": "Hi?"},
    {"from": "gpt", "value": "Hello."},
]
OPENAI = [
    {
        "role": "developer",
        "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}],
    },
    {"role": "user", "content": [{"type": "input_text", "text": "Hi?"}]},
    {"role": "assistant", "content": "Hello.", "tool_calls": None},
]


@pytest.mark.parametrize("chat", [SHAREGPT, OPENAI], ids=["sharegpt", "openai"])
def test_chats_of_other_shapes(write: Write, chat: Any) -> None:
    source = write("rows.jsonl", lines_of({"conversations": chat}))
    (found,) = read_rows(source, messages="conversations")
    assert found.messages == (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi?"},
    )
    assert found.answer == "Hello."


CALL = {"id": "1", "function": {"name": "search"}}
TOOLS: list[tuple[list[dict[str, Any]], str]] = [
    (
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ],
        "message 2: found a tool call ('tool_calls'), expected text",
    ),
    (
        [{"role": "tool", "content": "3"}, *OPENAI],
        "message 1: found the role 'tool', expected system, user, assistant: a stage learns",
    ),
    (
        [{"from": "function_call", "value": "{}"}, *SHAREGPT],
        "message 1: found the role 'function_call', expected",
    ),
]


@pytest.mark.parametrize(("chat", "text"), TOOLS)
def test_tools_are_refused_with_the_reason(write: Write, chat: Any, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_rows(write("rows.jsonl", lines_of({"messages": chat})), messages="messages")
    assert text in str(caught.value)


ALPACA = [
    {"instruction": "Find the perimeter.", "input": "A square of side 3.", "output": "12"},
    {"instruction": "Say hi.", "input": "", "output": "hi"},
    {"instruction": "Say ho.", "input": None, "output": "ho"},
]


def prompts(source: str, **columns: Any) -> list[str]:
    return [found.messages[-1]["content"] for found in read_rows(source, **columns)]


def test_a_prompt_of_several_columns_skips_empty_ones(write: Write) -> None:
    source = write("rows.jsonl", lines_of(*ALPACA))
    columns = {"prompt": ["instruction", "input"], "answer": "output"}
    assert prompts(source, **columns) == [
        "Find the perimeter.\n\nA square of side 3.",
        "Say hi.",
        "Say ho.",
    ]


def test_a_prompt_by_template(write: Write) -> None:
    source = write("rows.jsonl", lines_of(*ALPACA))
    template = "### {{task}}\n{instruction}\n{input}"
    assert prompts(source, prompt_template=template, answer="output") == [
        "### {task}\nFind the perimeter.\nA square of side 3.",
        "### {task}\nSay hi.",
        "### {task}\nSay ho.",
    ]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no column", "which names no column"),
        ("{}", "between braces it has more than the name of a column"),
        ("{a.b}", "between braces it has more"),
        ("{a!r}", "between braces it has more"),
        ("{a:>9999999999}", "between braces it has more"),
        ("{a", "expected '}' before end of string"),
    ],
)
def test_templates_that_name_no_columns(template: str, text: str) -> None:
    stage = Stage(source="demo:math", prompt_template=template)
    with pytest.raises(InputError, match=r"^data\.stages\.a\.prompt_template: found ") as caught:
        stage.check("data.stages.a")
    assert text in str(caught.value)


def test_prompt_columns_that_are_all_empty_name_the_row(write: Write) -> None:
    source = write("rows.jsonl", lines_of({"a": "", "b": None, "answer": "x"}))
    refused(source, ", row 1, line 1: found nothing in 'a', 'b'", prompt=["a", "b"])


def test_a_missing_column_of_several(write: Write) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b")))
    refused(source, "expected the column 'context'; set prompt: question, answer: answer",
            prompt=["question", "context"])  # fmt: skip


def test_a_system_column(write: Write) -> None:
    rows = [{**pair("q", "a"), "role": "Be kind."}, {**pair("r", "b"), "role": " "}]
    source = write("rows.jsonl", lines_of(*rows))
    first, second = read_rows(source, system="role")
    assert (
        first.messages[0] == {"role": "system", "content": "Be kind."} and len(second.messages) == 1
    )
    chat = {"messages": SHAREGPT, "role": "More."}
    with pytest.raises(InputError, match="found a system message beside that of the chat"):
        read_rows(write("chat.jsonl", lines_of(chat)), messages="messages", system="role")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"text": "t", "messages": "m"}, "text"),
        ({"text": "t", "system": "s"}, "system"),
        ({"text": "t", "prompt_template": "{a}"}, "prompt_template"),
        ({"messages": "m", "prompt_template": "{a}"}, "prompt_template"),
        ({"prompt": []}, "prompt"),
        ({"stride": 3}, "stride"),
        ({"packing": True}, "packing"),
        ({"text": "t", "stride": 0}, "stride"),
    ],
)
def test_columns_that_exclude_each_other(options: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=rf"^data\.stages\.a\.{key}: found "):
        Stage(source="demo:math", **options).check("data.stages.a")
    if key not in ("stride", "packing"):
        with pytest.raises(InputError, match=rf"^data\.eval_sets\.a\.{key}: found "):
            EvalSet(source="demo:math", **options).check("data.eval_sets.a")


def packed(name: str, data: bytes) -> str:
    """Write a compressed file."""
    if name.endswith(".gz"):
        Path(name).write_bytes(gzip.compress(data))
    else:
        import pyarrow

        with pyarrow.CompressedOutputStream(name, "zstd") as stream:
            stream.write(data)
    return name


CONTENT = {
    "jsonl": lines_of(pair("a", "b"), pair("c", "d")),
    "json": json.dumps([pair("a", "b"), pair("c", "d")]),
    "csv": 'question,answer\n"a","b"\nc,d\n',
}


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("kind", CONTENT)
def test_compressed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = packed(f"rows.{kind}.{suffix}", CONTENT[kind].encode())
    plain = tmp_path / f"rows.{kind}"
    plain.write_text(CONTENT[kind])
    assert [(r.messages, r.answer) for r in read_rows(source)] == [
        (r.messages, r.answer) for r in read_rows(str(plain))
    ]
    data = Path(source).read_bytes()
    for wrong in (data[: len(data) // 2], b"", b"plain text"):
        Path(source).write_bytes(wrong)
        with pytest.raises(InputError, match=rf"^{KEY}: rows\.{kind}\.{suffix}"):
            read_rows(source, key=KEY)


def test_patterns_read_files_in_the_order_of_their_names(write: Write, tmp_path: Path) -> None:
    write("part-2.jsonl", lines_of(pair("c", "d")))
    write("part-1.jsonl", lines_of(pair("a", "b"), pair("e", "f")))
    pattern = str(tmp_path / "part-*.jsonl")
    found = read_rows(pattern, key=KEY)
    assert [r.answer for r in found] == ["b", "f", "d"]
    assert found[0] == row("a", "b", f"{tmp_path / 'part-1.jsonl'}, row 1, line 1")
    assert found[2].where.endswith("part-2.jsonl, row 1, line 1")
    assert [r.answer for r in read_rows(pattern, limit=2)] == ["b", "f"]
    write("part-3.jsonl", lines_of({"question": "x"}))
    with pytest.raises(InputError, match=rf"^{KEY}: .*part-3\.jsonl: found 'question' in the rows"):
        read_rows(pattern, key=KEY)


def test_patterns_without_one_kind_of_file(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file that matches this pattern"):
        read_rows(str(tmp_path / "*.jsonl"))
    write("a.jsonl", lines_of(pair("a", "b")))
    write("b.csv", CONTENT["csv"])
    with pytest.raises(InputError, match=r"found files of the kinds \.csv, \.jsonl"):
        read_rows(str(tmp_path / "*"))


def test_a_file_whose_name_is_a_pattern(write: Write) -> None:
    source = write("rows[1].jsonl", lines_of(pair("a", "b")))
    assert read_rows(source)[0].answer == "b"


def test_all_wrong_rows_are_listed(write: Write) -> None:
    rows = [pair("a", "b"), pair("", "b"), pair("c", None), {"question": "d"}, pair("e", "")]
    source = write("rows.jsonl", lines_of(*rows))
    refused(
        source,
        ": 4 of 5 rows cannot be used. (1) row 2, line 2, column 'question': found an empty text",
        " (2) row 3, line 3, column 'answer': found null",
        " (3) row 4, line 4: found 'question', expected the column 'answer'",
        " (4) row 5, line 5, column 'answer': found an empty text",
    )


def test_the_same_mistake_is_listed_once_and_at_most_twenty(write: Write) -> None:
    source = write("rows.jsonl", lines_of(pair("a", "b"), *[pair("c", None)] * 30))
    refused(source, ", row 2, line 2, column 'answer': found null", "29 more rows have the same")
    rows = [{"question": "a", "answer": {"n": n}, f"k{n}": 1} for n in range(30)]
    kinds = [{"question": "x", "answer": [n]} for n in range(2)]
    source = write("more.jsonl", lines_of(*rows, *kinds, *({"question": "q"} for _ in range(2))))
    with pytest.raises(InputError) as caught:
        read_rows(source, key=KEY)
    text = str(caught.value)
    assert "34 of 34 rows cannot be used" in text and text.count("expected") <= 20
