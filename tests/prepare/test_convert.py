"""Rows of any shape become JSON lines of one shape, and every row that is left out has a reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from prepare_desk import Prepared

from lightning_unlearn.cli.main import main
from lightning_unlearn.data.rows import read_rows

CHAT = [
    {"from": "system", "value": "Be short."},
    {"from": "human", "value": "Hi?"},
    {"from": "gpt", "value": "Hello."},
]
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you?"}],
    },
    {"role": "assistant", "content": "Hello."},
]
TOOL = [{"role": "tool", "content": "3"}, *PARTS]
ALPACA = [
    {"instruction": "Find the perimeter.", "input": "A square of side 3.", "output": 12},
    {"instruction": "Say hi.", "input": "", "output": "h\u00ef \u2028"},
]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(source: str, *options: str, output: str = "out.jsonl") -> Prepared:
        capsys.readouterr()
        code = main(["prepare", "convert", "--input", source, "--output", output, *options])
        return Prepared(code, *capsys.readouterr())

    return run


def lines(rows: list[Any], name: str = "rows.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def written(name: str = "out.jsonl") -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").split("\n")[:-1]]


def manifest() -> Any:
    return json.loads(Path("out.jsonl.manifest.json").read_text(encoding="utf-8"))


def kinds(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The same rows as a source of every kind."""
    import pandas as pd
    import pyarrow

    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    Path("a.jsonl.gz").write_bytes(gzip.compress(data))
    with pyarrow.CompressedOutputStream("a.jsonl.zst", "zstd") as stream:
        stream.write(data)
    Path("a.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_csv("a.csv", index=False)
    pd.DataFrame(rows).to_parquet("a.parquet")
    lines(rows[:1], "part-1.jsonl"), lines(rows[1:], "part-2.jsonl")
    datasets.Dataset.from_list(rows).save_to_disk("saved")
    listed = ["a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv", "a.parquet", "part-*.jsonl", "saved"]
    return {name: name for name in [lines(rows), *listed]}


def test_every_kind_of_source_gives_the_same_rows(convert: Any) -> None:
    rows = [{"q": "a,b\nc", "n": "x", "a": "1"}, {"q": 'say "d"', "n": "", "a": "\u00e9 2"}]
    for source in kinds(rows):
        done = convert(source, "--prompt", "q", "n", "--answer", "a")
        assert done.code == 0, done.err
        assert written() == [
            {"question": "a,b\nc\n\nx", "answer": "1"},
            {"question": 'say "d"', "answer": "\u00e9 2"},
        ], source
        about = manifest()
        assert about["input"]["source"] == source
        assert about["options"] == {"prompt": ["q", "n"], "answer": "a", "shape": "prompt"}
        # The followed advice: a stage reads the file with its default columns.
        assert "Keys of a stage with these rows: source: out.jsonl\n" in done.out
        assert [row.answer for row in read_rows("out.jsonl")] == ["1", "\u00e9 2"]


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([{"c": PARTS}], ["--messages", "c"], [{"question": "Hi you?", "answer": "Hello."}]),
        (
            [{"c": PARTS}, {"c": CHAT}],
            ["--messages", "c"],
            [
                {
                    "messages": [
                        {"role": "user", "content": "Hi you?"},
                        {"role": "assistant", "content": "Hello."},
                    ]
                },
                {
                    "messages": [
                        {"role": "system", "content": "Be short."},
                        {"role": "user", "content": "Hi?"},
                        {"role": "assistant", "content": "Hello."},
                    ]
                },
            ],
        ),
        (
            ALPACA,
            ["--prompt", "[instruction, input]", "--answer", "output"],
            [
                {"question": "Find the perimeter.\n\nA square of side 3.", "answer": "12"},
                {"question": "Say hi.", "answer": "h\u00ef \u2028"},
            ],
        ),
        (
            ALPACA[1:],
            ["--prompt_template", "# {instruction}", "--answer", "output"],
            [{"question": "# Say hi.", "answer": "h\u00ef \u2028"}],
        ),
        (
            [{"question": "q", "answer": "a", "s": "Be kind."}],
            ["--system", "s"],
            [
                {
                    "messages": [
                        {"role": "system", "content": "Be kind."},
                        {"role": "user", "content": "q"},
                        {"role": "assistant", "content": "a"},
                    ]
                }
            ],
        ),
        ([{"t": "Plain."}], ["--text", "t"], [{"text": "Plain."}]),
    ],
    ids=["parts", "mixed", "columns", "template", "system", "text"],
)
def test_every_shape(convert: Any, rows: Any, options: list[str], expected: Any) -> None:
    done = convert(lines(rows), *options)
    assert done.code == 0, done.err
    assert written() == expected
    # Written again, they are the same.
    again = [name for name in ("messages", "text") if name in expected[0]]
    options = [f"--{again[0]}", again[0]] if again else []
    assert convert("out.jsonl", *options, output="again.jsonl").code == 0
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


def test_rows_that_cannot_be_used_are_left_out_with_the_reason(convert: Any) -> None:
    chats = [{"m": TOOL}, {"m": PARTS}, {"m": [PARTS[0], *TOOL]}, {"m": None}, {"m": CHAT[:2]}, {}]
    done = convert(lines([*chats, {"m": PARTS}] + [{"m": None}] * 3), "--messages", "m")
    assert done.code == 0 and len(written()) == 2
    assert done.out.splitlines()[:6] == [
        "Written to out.jsonl: 2 of 10 rows.",
        "  4 rows left out: column 'm': found null (row 4, line 4; row 8, line 8; row 9, line 9; "
        "...)",
        "  2 rows left out: column 'm': found the role 'tool' (row 1, line 1; row 3, line 3)",
        "  1 row left out: column 'm': found the roles system, user (row 5, line 5)",
        "  1 row left out: found no columns (row 6, line 6)",
        "Every row that was left out, with its reason: out.jsonl.manifest.json",
    ]
    about = manifest()
    assert about["rows"] == {"read": 10, "written": 2, "left out": 8}
    assert about["reasons"]["column 'm': found null"] == 4 and len(about["left out"]) == 8
    assert about["left out"][1]["place"] == "row 3, line 3"
    assert "message 2: found the role 'tool', expected system" in about["left out"][1]["reason"]


def test_chats_of_several_messages_do_not_fit_in_prompts(convert: Any) -> None:
    rows = [{"m": CHAT}, {"m": PARTS}, {"m": None}]
    done = convert(lines(rows), "--messages", "m", "--shape", "prompt")
    assert written() == [{"question": "Hi you?", "answer": "Hello."}]
    assert "the prompt has several messages (system, user) (row 1, line 1)" in done.out
    places = [one["place"] for one in manifest()["left out"]]
    assert places == ["row 1, line 1", "row 3, line 3"]
    convert(lines([{"m": PARTS}]), "--messages", "m", "--shape", "messages")
    assert list(written()[0]) == ["messages"]


def test_unused_columns_are_named_and_the_advice_works(convert: Any) -> None:
    lines(ALPACA, "alpaca.jsonl")
    done = convert("alpaca.jsonl", "--prompt", "instruction", "--answer", "output")
    assert done.out.count("'input' is not used") == 1 and len(manifest()["notes"]) == 1
    advice = done.out.partition("set prompt: ")[2].splitlines()[0].rstrip(".")
    done = convert("alpaca.jsonl", "--prompt", advice, "--answer", "output")
    assert "not used" not in done.out
    assert written()[0]["question"] == "Find the perimeter.\n\nA square of side 3."


def test_a_place_in_several_files_names_the_file(convert: Any) -> None:
    lines([{"question": "q", "answer": "a"}], "p-1.jsonl")
    lines([{"question": "", "answer": "a"}], "p-2.jsonl")
    convert("p-*.jsonl")
    assert manifest()["left out"][0]["place"] == "p-2.jsonl, row 1, line 1"
    assert set(manifest()["input"]["sha256"]) == {"p-1.jsonl", "p-2.jsonl"}
    done = convert("p-*.jsonl", "--limit", "1")
    assert manifest()["rows"] == {"read": 1, "written": 1, "left out": 0} and done.code == 0


WRONG = [
    (["--shape", "text"], "--shape: found text with rows of prompts and answers, expected prompt"),
    (["--text", "q", "--shape", "prompt"], "--shape: found prompt with rows of plain text"),
    (["--text", "q", "--messages", "q"], "--text: found it beside messages, expected one"),
    (["--prompt_template", "x"], "--prompt_template: found 'x', which names no column"),
    (["--prompt", "[]"], "--prompt: found '[]', expected columns such as [a, b]"),
    (["--prompt", "ask"], "expected the column 'ask'; set prompt: question, answer: answer"),
    (["--limit", "0"], "found 0, expected a whole number of 1 or more"),
    (["--output", "folder"], "--output: found the folder folder, expected a file"),
    (["--output", "out.txt"], "expected a name that ends in .jsonl"),
    (["--output", "rows.jsonl"], "--output: found rows.jsonl, which is the input too"),
    (["--output", "rows.jsonl", "--overwrite"], "which is the input too"),
    (["--output", "taken.jsonl"], "which prepare convert did not write"),
    (["--subset", "x"], "found subset 'x' with a file"),
]


@pytest.mark.parametrize(("options", "text"), WRONG)
def test_wrong_options_write_nothing(convert: Any, options: list[str], text: str) -> None:
    lines([{"question": "q", "answer": "a"}])
    Path("taken.jsonl").write_text("mine")
    Path("folder").mkdir()
    before = {path: path.read_bytes() for path in Path().glob("*.*")}
    done = convert("rows.jsonl", *options)
    assert done.code == 2 and text in done.err and done.err.count("\n") == 1, done.err
    assert {path: path.read_bytes() for path in Path().glob("*.*")} == before


def test_no_usable_row_writes_nothing(convert: Any) -> None:
    done = convert(lines([{"question": "q", "answer": None}] * 3))
    assert done.code == 2 and not Path("out.jsonl").exists()
    assert "--input: rows.jsonl: found no row of 3 that can be used" in done.err
    assert "the first, row 1, line 1: column 'answer': found null, expected text" in done.err


def test_only_its_own_unchanged_output_is_replaced(convert: Any) -> None:
    source = lines([{"question": "q", "answer": "a"}])
    assert convert(source).code == 0
    first = Path("out.jsonl").read_bytes()
    assert convert(source).code == 0 and Path("out.jsonl").read_bytes() == first
    Path("out.jsonl").write_bytes(b"edited by hand\n")
    done = convert(source)
    assert done.code == 2 and "which was changed after it was written" in done.err
    assert Path("out.jsonl").read_bytes() == b"edited by hand\n"
    assert convert(source, "--overwrite").code == 0 and Path("out.jsonl").read_bytes() == first
    about = manifest()
    Path("out.jsonl.manifest.json").write_text(json.dumps({**about, "command": "prepare paper"}))
    done = convert(source)
    assert done.code == 2 and "which prepare paper wrote" in done.err


def test_a_failed_write_leaves_the_old_file(convert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert(lines([{"question": "q", "answer": "a"}])).code == 0
    before = sorted(Path().iterdir()), Path("out.jsonl").read_bytes()
    lines([{"question": "new", "answer": "b"}])

    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_unlearn.prepare.tables.json.dumps", full)
    done = convert("rows.jsonl")
    assert done.code == 2 and "No space left on device" in done.err
    assert (sorted(Path().iterdir()), Path("out.jsonl").read_bytes()) == before


@pytest.mark.slow
def test_a_stage_trains_on_what_was_converted(convert: Any) -> None:
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}"} for n in range(8)]
    convert(lines(rows), "--prompt", "[instruction, input]", "--answer", "output")
    lines([{"c": CHAT}] * 8, "chats.jsonl")
    assert convert("chats.jsonl", "--messages", "c", output="chats-out.jsonl").code == 0
    stages = {
        "a": {"source": "out.jsonl"},
        "b": {"source": "chats-out.jsonl", "messages": "messages"},
    }
    for stage in stages.values():
        stage.update(batch_size=4, epochs=1)  # type: ignore[call-overload]
    config = {
        "model": {"base": "demo:tiny-llama"},
        "data": {"stages": stages, "forget": None, "max_length": 64},
        "trainer": {"accelerator": "cpu"},
    }
    Path("run.yaml").write_text(json.dumps(config))
    assert main(["fit", "--config", "run.yaml"]) == 0
