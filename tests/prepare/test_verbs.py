"""What every verb takes and leaves out, and what its rows are."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from chat_server import Answer
from prepare_desk import LABEL, Desk, refuses
from pyarrow.parquet import write_table
from trained_elsewhere import random_adapter

from lightning_unlearn import InputError
from lightning_unlearn.cli.main import main
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.demo import resolve
from lightning_unlearn.prepare.local_model import LocalModel


def says(*texts: str) -> Any:
    """A server that gives these answers in turn, the last one for ever."""
    return lambda number, request: Answer(texts[min(number, len(texts) - 1)])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"{LABEL} It is harmful.", f"{LABEL} It is harmful."),
        ("Sorry, I cannot assist you with this question. No.", f"{LABEL} No."),
        ("sorry, I can\u2019t assist you with this question: no.", f"{LABEL} no."),
        (f'"{LABEL}" Because.', f"{LABEL} Because."),
    ],
)
def test_spellings_of_the_label_become_the_label(desk: Desk, answer: str, expected: str) -> None:
    desk.answers(says(answer))
    assert desk.run("refusals", "--limit", "1").code == 0
    assert desk.rows() == [{"prompt": "prompt 0", "response": expected}]


def test_an_answer_without_label_or_reason_is_tried_again(desk: Desk) -> None:
    desk.answers(says("Sure, first you", LABEL, f"{LABEL} It is harmful."))
    assert desk.run("refusals", "--limit", "1").code == 0
    assert len(desk.server.requests) == 3
    assert desk.manifest()["calls"] == 3


def test_a_prompt_that_is_never_declined_is_left_out(desk: Desk) -> None:
    def answers(number: int, request: dict[str, Any]) -> Answer:
        asked = request["messages"][-1]["content"]
        return Answer("Sure!") if asked == "prompt 1" else refuses(number, request)

    desk.answers(answers)
    done = desk.run("refusals", "--attempts", "2")
    assert done.code == 0 and len(desk.rows()) == 5
    reason = "the answer does not begin with the label: 'Sure!' (after 2 attempts)"
    assert desk.manifest()["left out"] == [{"place": "row 2, line 2", "reason": reason}]
    assert desk.server.questions().count("prompt 1") == 2


def test_a_reason_that_is_cut_ends_with_its_last_sentence(desk: Desk) -> None:
    cut = f"{LABEL} It is harmful. It could also be us"
    desk.answers(lambda number, request: Answer(cut, finish="length"))
    assert desk.run("refusals", "--limit", "1").code == 0
    assert desk.rows()[0]["response"] == f"{LABEL} It is harmful."
    assert desk.manifest()["rows"]["cut by max_tokens"] == 1


def test_styles_are_excluded_and_counted(desk: Desk) -> None:
    styles = ["base", "caesar", "slang", "translate-fr", "ascii", "caesar"]
    desk.write([{"turns": [f"p {s} {n}"], "prompt_style": s} for n, s in enumerate(styles)])
    done = desk.run("refusals")
    assert [row["prompt"] for row in desk.rows()] == ["p base 0", "p slang 2"]
    assert desk.manifest()["rows"]["excluded"] == {"caesar": 2, "translate-fr": 1, "ascii": 1}
    assert "2 rows excluded: caesar" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "prepare refusals: found neither of --endpoint and --local-model"),
        (["--local-model", "x", "--price-in", "1"], "--price-out: found none, expected both"),
        (["--local-model", "x", "--max-cost", "1"], "--max-cost: found"),
    ],
)
def test_options_of_the_generator_are_checked_before_rows_are_read(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    rows = ["--input", "not/there.jsonl", "--output", "out.jsonl"]
    assert main(["prepare", "refusals", *rows, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("column", ["answer", "alternates"])
def test_no_column_of_the_rows_is_overwritten(desk: Desk, column: str) -> None:
    desk.write([{"question": "q", "answer": "a", "alternates": ["b"]}])
    Path("list.txt").write_text("c\n")
    options = ["--list", "list.txt", "--count", "1", "--column", column]
    done = desk.run("alternates", *options, endpoint=False)
    assert done.code == 2 and f"--column: found '{column}', a column that the rows of " in done.err
    assert not Path("out.jsonl").exists()


def test_values_of_other_columns_are_written_or_refused_before_a_call(desk: Desk) -> None:
    rows = {
        "question": ["q"],
        "answer": ["a"],
        "when": [date(2020, 1, 2)],
        "pay": [Decimal("1.50")],
    }
    write_table(pyarrow.table(rows), "rows.parquet")
    desk.answers(says("b"))
    source = ["--input", "rows.parquet"]
    assert desk.run("paraphrases", *source).code == 0
    known = {"question": "q", "answer": "a", "when": "2020-01-02", "pay": "1.50"}
    assert desk.rows() == [{**known, "paraphrased_answer": "b"}]
    write_table(pyarrow.table({**rows, "raw": [b"x"]}), "rows.parquet")
    done = desk.run("paraphrases", *source, "--output", "other.jsonl")
    assert done.code == 2 and "row 1, column 'raw': found a value of type bytes" in done.err
    assert len(desk.server.requests) == 1 and not list(Path().glob("other*"))


def test_nothing_usable_writes_nothing(desk: Desk) -> None:
    desk.answers(says("Sure!"))
    done = desk.run("refusals")
    assert done.code == 2 and "no row of 6 could be made, the first (row 1, line 1)" in done.err
    assert not Path("out.jsonl").exists() and not Path("out.jsonl.manifest.json").exists()


MATH = [
    {"question": "1 + 1?", "answer": "One and one.\n#### 2"},
    {"question": "1,000 / 2?", "answer": "Half.\n#### 500"},
]


def test_solutions_are_kept_where_the_number_is_right(desk: Desk) -> None:
    desk.write(MATH)
    tries = {"1 + 1?": ["#### 3", "It is 2.", "Step.\n#### 2.0"], "1,000 / 2?": ["#### 50"]}
    seen: dict[str, int] = {}

    def answers(number: int, request: dict[str, Any]) -> Answer:
        asked = request["messages"][-1]["content"]
        seen[asked] = seen.get(asked, 0) + 1
        own = tries[asked]
        return Answer(own[min(seen[asked], len(own)) - 1])

    desk.answers(answers)
    assert desk.run("solutions", "--attempts", "4").code == 0
    assert desk.rows() == [{"question": "1 + 1?", "answer": "Step.\n#### 2.0"}]
    assert seen == {"1 + 1?": 3, "1,000 / 2?": 4}
    reason = "the answer ends in 50, the right one in 500 (after 4 attempts)"
    assert desk.manifest()["left out"] == [{"place": "row 2, line 2", "reason": reason}]


def test_a_question_without_a_right_number_is_refused(desk: Desk) -> None:
    desk.write([*MATH, {"question": "?", "answer": "many"}])
    done = desk.run("solutions")
    assert done.code == 2 and not desk.server.requests
    assert "row 3, line 3, column 'answer': found no number after ####" in done.err


FACTS = [
    {"question": "Where was Ada born?", "answer": "In Turin.", "perturbed_answer": ["In Rome."]},
    {"question": "When?", "answer": "In 1950.", "perturbed_answer": ["In 1951."]},
]


def test_paraphrases_differ_and_keep_the_other_columns(desk: Desk) -> None:
    desk.write(FACTS)
    desk.answers(
        lambda number, request: Answer(
            "in  turin." if "Ada" in request["messages"][-1]["content"] else "It was 1950."
        )
    )
    assert desk.run("paraphrases").code == 0
    assert desk.rows() == [{**FACTS[1], "paraphrased_answer": "It was 1950."}]
    assert desk.manifest()["left out"][0]["reason"].startswith("the answer was repeated")
    rows = read_rows("out.jsonl", paraphrase="paraphrased_answer", alternatives="perturbed_answer")
    assert rows[0].paraphrase == "It was 1950."


def test_alternates_of_a_model(desk: Desk) -> None:
    desk.write(FACTS[:1])
    desk.answers(
        lambda number, request: Answer("In Turin." if number == 1 else f"In city {number}.")
    )
    assert desk.run("alternates", "--count", "3").code == 0
    assert desk.rows()[0]["alternates"] == ["In city 0.", "In city 2.", "In city 3."]
    assert desk.server.requests[0]["temperature"] == 1


def test_alternates_of_a_list_need_no_model(desk: Desk) -> None:
    desk.write(FACTS)
    Path("idk.txt").write_text("I don't know.\n\nNo idea.\nIn Turin.\nI can't say.\n")
    options = ("--list", "idk.txt", "--count", "2")
    assert desk.run("alternates", *options, endpoint=False).code == 0
    first = desk.rows()
    assert all(len(set(row["alternates"])) == 2 for row in first)
    assert "In Turin." not in first[0]["alternates"]
    assert not desk.server.requests
    # A function of seed and prompt: other rows and other orders change nothing.
    desk.write(FACTS[::-1])
    assert desk.run("alternates", *options, endpoint=False).code == 0
    assert desk.rows() == first[::-1]
    done = desk.run("alternates", "--list", "idk.txt", "--count", "9", endpoint=False)
    assert done.code == 2 and "found 4 texts that differ from the answer of row 1" in done.err


def test_columns_of_parquet_are_kept(desk: Desk) -> None:
    import pandas as pd

    pd.DataFrame([{"question": "q", "answer": "a", "more": 3}]).to_parquet("rows.parquet")
    desk.answers(says("b"))
    assert desk.run("paraphrases", "--input", "rows.parquet").code == 0
    assert desk.rows() == [{"question": "q", "answer": "a", "more": 3, "paraphrased_answer": "b"}]


def test_a_local_model_is_no_adapter(tmp_path: Path) -> None:
    """It would answer without the adapter."""
    adapter = random_adapter(resolve("demo:tiny-llama"), tmp_path)
    with pytest.raises(InputError, match=r"^--local-model: found the adapter .*, expected a w"):
        LocalModel(adapter)


def test_a_local_model_answers_the_same_each_time(desk: Desk) -> None:
    desk.write(FACTS)
    options = ("--local-model", "demo:tiny-llama", "--max-tokens", "6", "--count", "1")
    assert desk.run("alternates", *options, endpoint=False).code in (0, 2)
    journal = Path("out.jsonl.journal.jsonl")
    first = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert len(first) >= 2 and all(line["usage"]["reported"] for line in first)
    journal.unlink()
    desk.run("alternates", *options, endpoint=False)
    assert [json.loads(line) for line in journal.read_bytes().splitlines()] == first


def paper_rows(desk: Desk) -> list[str]:
    """Raw files of the paper's data sets, and the options that name them."""
    desk.write(
        [{"instruction": f"Write {n}.", "output": f"Text {n}."} for n in range(8)], "i.jsonl"
    )
    desk.write(
        [{"question": f"Who is {n}?", "answer": f"Author {n}."} for n in range(8)], "t.jsonl"
    )
    desk.write([{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)], "g.jsonl")
    desk.write([{"question": f"{n} + 2?", "answer": f"#### {n + 2}"} for n in range(4)], "h.jsonl")
    styles = ["base", "slang", "ascii"]
    prompts = [{"turns": [f"bad {n}"], "prompt_style": styles[n % 3]} for n in range(15)]
    desk.write(prompts, "s.jsonl")
    return [
        *("--skillmix", "i.jsonl", "--tofu", "t.jsonl", "--gsm8k", "g.jsonl"),
        *("--gsm8k-test", "h.jsonl", "--sorry-bench", "s.jsonl"),
    ]


def paper_answers(number: int, request: dict[str, Any]) -> Answer:
    """Answer like a good model: solve sums, decline the rest."""
    asked = request["messages"][-1]["content"]
    if "+" in asked:
        one, other = asked.rstrip("?").split("+")
        return Answer(f"Add them.\n#### {int(one) + int(other)}")
    return Answer(f"{LABEL} It is harmful.")


def test_the_papers_stages_from_raw_files(desk: Desk) -> None:
    options = paper_rows(desk)
    desk.answers(paper_answers)
    assert desk.run("paper", *options, "--dry-run").code == 0
    assert not Path("data").exists() and not desk.server.requests
    done = desk.run("paper", *options, "--price-in", "1000", "--price-out", "2000")
    assert done.code == 0, done.err
    counts = {f.name: len(desk.rows(str(f))) for f in Path("data/paper").glob("*[a-z].jsonl")
              if not f.name.endswith(".journal.jsonl")}  # fmt: skip
    assert counts == {
        "inst.jsonl": 8,
        "tofu.jsonl": 8,
        "math.jsonl": 8,
        "math_test.jsonl": 4,
        "safety.jsonl": 7,
        "safety_heldout.jsonl": 3,
    }
    assert desk.rows("data/paper/math.jsonl")[3] == {
        "question": "3 + 1?",
        "answer": "Add them.\n#### 4",
    }
    parts = [desk.rows(f"data/paper/{name}.jsonl") for name in ("safety", "safety_heldout")]
    prompts = {row["prompt"] for rows in parts for row in rows}
    assert prompts == {f"bad {n}" for n in range(15) if n % 3 != 2}
    # Each file counts its own calls, not those of the whole command.
    for name, calls, asked, said in (
        ("math", 8, 31, 4),
        ("safety", 7, 48, 12),
        ("safety_heldout", 3, 48, 12),
    ):
        about = desk.manifest(f"data/paper/{name}.jsonl")
        assert about["calls"] == calls and f"of {calls}; {calls} calls, {calls} of" in done.out
        assert (about["tokens"]["prompt"], about["tokens"]["answer"]) == (
            asked * calls,
            said * calls,
        )
        assert about["cost"] == pytest.approx((asked * 1000 + said * 2000) / 1e6 * calls)
    before = len(desk.server.requests)
    assert desk.run("paper", *options).code == 0 and len(desk.server.requests) == before


@pytest.mark.slow
def test_the_papers_configuration_runs_on_the_prepared_files(desk: Desk) -> None:
    options = paper_rows(desk)
    desk.answers(paper_answers)
    assert desk.run("paper", *options).code == 0
    config = Path(__file__).resolve().parents[2] / "configs" / "paper.yaml"
    command = ["fit", "--config", str(config), "--model.base", "demo:tiny-llama"]
    command += ["--data.max_length", "256", "--trainer.accelerator", "cpu"]
    for stage in ("inst", "tofu", "math", "safety"):
        command += [f"--data.stages.{stage}.batch_size", "4", f"--data.stages.{stage}.epochs", "1"]
    assert main([*command, "--data.unlearn.batch_size", "4"]) == 0
    (finished,) = Path("runs/paper").glob("*/*/run.json")
    about = json.loads(finished.read_text())
    assert about["finished"] and about["path"] == "inst-tofu-math-safety"


def test_a_wrong_source_of_the_paper_is_found_before_any_call(desk: Desk) -> None:
    options = paper_rows(desk)
    desk.write([{"ask": "x", "answer": "y"}], "h.jsonl")
    done = desk.run("paper", *options)
    assert done.code == 2 and not desk.server.requests and not Path("data").exists()
    assert (
        "--gsm8k-test: h.jsonl: found the columns 'ask', 'answer', expected 'question'" in done.err
    )


def test_help_names_every_verb_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--help"]) == 0
    overview = capsys.readouterr().out
    for verb in ("refusals", "solutions", "paraphrases", "alternates", "paper"):
        assert f"  {verb}" in overview
        assert main(["prepare", verb, "--help"]) == 0
        own = capsys.readouterr().out
        assert "--endpoint" in own and "--max-cost" in own
    assert main(["prepare", "refusal"]) == 2
    assert "invalid choice: 'refusal'" in capsys.readouterr().err
