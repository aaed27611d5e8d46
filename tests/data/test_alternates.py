"""Alternates to the forget answers: a column or a joined source, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer, write_rows

from lightning_unlearn.data.alternates import Alternates
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.paired_batches import PairedPlan
from lightning_unlearn.data.recipes import Recipe, RowSource, Stage
from lightning_unlearn.errors import InputError

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(4)]
OTHERS = [["No.", "Who knows?"], "None.", ["Never.", "It is 2.", "Never."], ["A.", "B.", "C."]]


def staged(folder: Path, alternates: Any, rows: Any = None, **stage: Any) -> StagedDataModule:
    rows = rows or [{**row, "other": other} for row, other in zip(ROWS, OTHERS, strict=True)]
    source = write_rows(folder / "safety.json", rows)
    stages = {"safety": Stage(source=source, **stage)}
    recipe = Recipe(epochs=3, batch_size=2)
    return StagedDataModule(stages, forget="safety", unlearn=recipe, alternates=alternates)


def loaded(*args: Any, **options: Any) -> StagedDataModule:
    data = staged(*args, **options)
    data.load_rows(tiny_tokenizer(), 512)
    data.load_method_rows(retain=False, alternates=True)
    return data


def alternates_of(data: StagedDataModule) -> Alternates:
    assert data.method_rows.alternates is not None
    return data.method_rows.alternates


def texts(data: StagedDataModule) -> list[list[str]]:
    """The alternates of each row; each must have the prompt of its row."""
    found, tokenizer = alternates_of(data), tiny_tokenizer()
    left = list(found.examples)
    grouped = [[left.pop(0) for _ in range(count)] for count in found.counts]
    for own, example in zip(grouped, data.examples["safety"], strict=True):
        assert {e.prompt for e in own} == {example.prompt}
    return [[tokenizer.decode(e.answer, skip_special_tokens=True) for e in own] for own in grouped]


EXPECTED = [["No.", "Who knows?"], ["None."], ["Never."], ["A.", "B.", "C."]]


def test_a_column_has_a_text_or_a_list_of_texts(tmp_path: Path) -> None:
    data = loaded(tmp_path, "other")
    assert texts(data) == EXPECTED
    assert data.method_rows.notes(False, True) == [
        "data.alternates: other: 2 alternates repeat the forget answer or another one; left out."
    ]
    # The column is used, so no note calls it unused.
    assert not any("'other'" in note for note in data.notes())
    assert texts(loaded(tmp_path, "other", limit=2)) == EXPECTED[:2]


def test_a_source_is_joined_by_prompt(tmp_path: Path) -> None:
    rows = [
        {"q": "What is 3?", "a": ["A.", "B."]},
        {"q": " What is 0?\n", "a": "No."},
        {"q": "What is 1?", "a": "None."},
        {"q": "What is 9?", "a": "Nothing."},
        {"q": "What is 2?", "a": "Never."},
        {"q": "What is 0?", "a": "Who knows?"},
        {"q": "What is 3?", "a": "C."},
    ]
    source = write_rows(tmp_path / "others.json", rows)
    data = loaded(tmp_path, RowSource(source=source, prompt="q", answer="a"))
    assert texts(data) == EXPECTED
    (note,) = data.method_rows.notes(False, True)
    assert note.endswith("others.json: 1 of 8 alternates belong to no forget row; left out.")
    same = alternates_of(loaded(tmp_path, "other"))
    assert same.fingerprint() == alternates_of(data).fingerprint()
    chats = [
        {"chat": [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": "X."}]}
        for row in rows
    ]
    source = write_rows(tmp_path / "chats.json", chats)
    data = loaded(tmp_path, RowSource(source=source, messages="chat"))
    assert texts(data) == [["X."], ["X."], ["X."], ["X."]]


def plan_of(data: StagedDataModule, seed: int, **changes: Any) -> PairedPlan:
    plan = data.start_stage("unlearn", seed, 0, 1, retain=False, alternates=True)
    assert isinstance(plan, PairedPlan)
    return plan


def test_the_alternates_of_a_row_take_turns(tmp_path: Path) -> None:
    data = loaded(tmp_path, "other")
    seen: dict[int, list[int]] = {}
    plan = plan_of(data, seed=3)
    for step in range(len(plan)):
        for micro in plan[step].micro_batches:
            others = micro.alternates
            assert others is not None and torch.equal(others.weight, micro.weight)
            for row, number in zip(micro.index.tolist(), others.index.tolist(), strict=True):
                seen.setdefault(row, []).append(number)
                assert number == alternates_of(data).number(3, step // 2, row)
    assert sorted(seen[3]) == [4, 5, 6] and seen[1] == [2, 2, 2]
    assert seen[0][0] == seen[0][2] and sorted(seen[0][:2]) == [0, 1]


def refused(message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=message):
        loaded(*args, **options)


def test_alternates_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    refused(
        r"^data\.alternates: found the columns 'question', 'answer', 'other' in .*safety\.json "
        r"\(data\.stages\.safety\.source\), expected the column 'wrong'; name another column, or ",
        tmp_path,
        "wrong",
    )
    bare = [{**row, "other": other} for row, other in zip(ROWS, ["", None, [], "X"], strict=True)]
    refused(
        r"^data\.alternates: other: found no alternate for 3 of 4 forget rows, expected at least "
        r"one that differs from the answer, for every row; add it, or remove these rows: "
        r".*safety\.json, row 1, line 1; .*, row 2, line 2; .*, row 3, line 3\.$",
        tmp_path,
        "other",
        bare,
    )
    numbers = [{**row, "other": {"text": "no"}} for row in ROWS]
    refused(
        r"row 1, line 1, column 'other': found an object, expected text; .*3 more rows have",
        tmp_path,
        "other",
        numbers,
    )
    refused(
        r"^data\.alternates: found it with the forget stage 'safety', which is plain text, ",
        tmp_path,
        "other",
        text="answer",
    )
    with pytest.raises(InputError, match=r"^data\.alternates: found an empty text, expected a col"):
        staged(tmp_path, " ")
    with pytest.raises(InputError, match=r"^data\.alternates\.text: found 'a', expected null: "):
        staged(tmp_path, RowSource(source="x", text="a"))


def test_a_source_that_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "x.json", [{"question": "Why 1?", "answer": "No."}] * 2)
    refused(
        rf"^data\.alternates\.source: {re.escape(source)}: found 2 alternates, none of which has "
        r"the prompt of a forget row, expected the same prompts: the first one has 'Why 1\?', the "
        r"first forget row has 'What is 0\?'\. Name the columns of the prompt",
        tmp_path,
        RowSource(source=source),
    )
    twice = [*ROWS, {"question": "What is 1?", "answer": "It is one."}]
    known = write_rows(tmp_path / "y.json", [{**row, "answer": "No."} for row in ROWS])
    refused(
        r": found two forget rows with one prompt and different answers, .*safety\.json, row 2, "
        r"line 2 and .*safety\.json, row 5, line 5, expected different prompts: ",
        tmp_path,
        RowSource(source=known),
        twice,
    )
    part = write_rows(tmp_path / "z.json", [{**row, "answer": "No."} for row in ROWS[:3]])
    refused(
        r"z\.json: found no alternate for 1 of 4 forget rows, .*safety\.json, row 4, line 4\.$",
        tmp_path,
        RowSource(source=part),
    )
    refused(
        r"^data\.alternates\.source: .*z\.json: found 'question', 'answer' in the rows, expected "
        r"the column 'response'",
        tmp_path,
        RowSource(source=part, answer="response"),
    )
