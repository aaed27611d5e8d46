"""Evaluation sets: their columns, their names, and their overlap with training rows."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer, write_rows

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.recipes import EvalSet, Stage
from lightning_unlearn.data.rows import read_rows
from lightning_unlearn.errors import InputError

ROW = {
    "question": "Who wrote it?",
    "answer": "Ana Bel.",
    "paraphrased_answer": "It was Ana Bel.",
    "perturbed_answer": ["It was Bo.", "It was Cy."],
    "option1": "Bo.",
    "option2": "Ana Bel.",
}


def source(tmp_path: Path, *changes: dict[str, Any]) -> str:
    rows = [{**ROW, "question": f"Who wrote {n}?", **c} for n, c in enumerate(changes)]
    return write_rows(tmp_path / "probe.jsonl", rows)


def test_paraphrase_and_alternatives_are_read(tmp_path: Path) -> None:
    file = source(tmp_path, {}, {"perturbed_answer": ["Ana Bel.", "Dee."]})
    read = read_rows(file, paraphrase="paraphrased_answer", alternatives="perturbed_answer")
    assert [row.paraphrase for row in read] == ["It was Ana Bel."] * 2
    assert [row.alternatives for row in read] == [("It was Bo.", "It was Cy."), ("Dee.",)]
    (row, _) = read_rows(file, alternatives=["option1", "option2"])
    assert row.alternatives == ("Bo.",) and row.paraphrase is None
    assert read_rows(file)[0].alternatives == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perturbed_answer": "Bo."}, "found a text, expected a list of wrong answers"),
        ({"perturbed_answer": ["Bo.", ""]}, "column 'perturbed_answer': found an empty text"),
        ({"paraphrased_answer": ["It."]}, "column 'paraphrased_answer': found a list, expected"),
    ],
)
def test_values_of_another_kind_are_reported(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = source(tmp_path, {}, change)
    with pytest.raises(InputError, match=f", row 2, line 2.*{re.escape(message)}"):
        read_rows(file, paraphrase="paraphrased_answer", alternatives="perturbed_answer")


@pytest.mark.parametrize("value", [[], None, ["Ana Bel. "]])
def test_rows_without_texts_of_their_own_are_kept(tmp_path: Path, value: Any) -> None:
    change = {"perturbed_answer": value, "paraphrased_answer": None}
    file = source(tmp_path, change, {"paraphrased_answer": " Ana Bel."})
    read = read_rows(file, paraphrase="paraphrased_answer", alternatives="perturbed_answer")
    assert [row.answer for row in read] == ["Ana Bel."] * 2
    assert [row.paraphrase for row in read] == [None, None]
    assert [row.alternatives for row in read] == [(), ("It was Bo.", "It was Cy.")]


def test_a_missing_column_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column 'wrong'; set alternatives to another column"):
        read_rows(source(tmp_path, {}), alternatives="wrong")
    with pytest.raises(InputError, match=r"column 'other'; set paraphrase to another column"):
        read_rows(source(tmp_path, {}), paraphrase="other")


def prepared(tmp_path: Path, **changes: Any) -> StagedDataModule:
    def rows(name: str, count: int) -> str:
        made = [{"question": f"What is {n}?", "answer": f"{n}"} for n in range(count)]
        return write_rows(tmp_path / f"{name}.jsonl", made)

    stages = {
        "tofu": Stage(source=rows("tofu", 6), heldout=rows("tofu-heldout", 2)),
        "safety": Stage(source=rows("safety", 3), heldout=rows("safety-heldout", 4)),
    }
    probes = {"facts": EvalSet(source=rows("facts", 5))}
    data = StagedDataModule(
        **{"stages": stages, "forget": "safety", "eval_sets": probes, **changes}
    )
    data.load_rows(tiny_tokenizer(), 512)
    return data


def test_row_sets_are_named(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    counts = {"tofu": 2, "tofu:train": 6, "tofu:heldout": 2, "safety": 3, "safety:heldout": 4}
    for name, count in {**counts, "safety:train": 3, "facts": 5}.items():
        rows, examples = data.row_set(name)
        assert len(rows) == len(examples) == count
    # Each set has one name, so its values are computed once.
    assert data.set_name("tofu:heldout") == "tofu" and data.set_name("safety:train") == "safety"
    assert data.set_name("safety:heldout") == "safety:heldout"
    assert set(data.measured_fingerprints()) == {"tofu", "safety:heldout", "facts"}


@pytest.mark.parametrize("name", ["fact", "tofu:test", "facts:train", "tofu:"])
def test_unknown_row_sets_are_refused(tmp_path: Path, name: str) -> None:
    known = "tofu, safety, tofu:train, safety:train, tofu:heldout, safety:heldout, facts"
    with pytest.raises(InputError, match=f"found the rows '{name}', expected one of {known}"):
        prepared(tmp_path).set_name(name)


def test_overlap_with_the_forget_rows_is_counted(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    assert data.overlap(["facts"], "safety") == 3
    assert data.overlap(["facts", "tofu"], "safety") == 5


def test_eval_sets_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data.eval_sets.facts.source: found nothing"):
        prepared(tmp_path, eval_sets={"facts": EvalSet()})
    with pytest.raises(
        InputError, match=r"^data.eval_sets.facts.paraphrase: found 'p' beside text"
    ):
        prepared(tmp_path, eval_sets={"facts": EvalSet("x.jsonl", text="t", paraphrase="p")})
    with pytest.raises(
        InputError, match=r"^data.eval_sets: found the name 'tofu', which a stage has"
    ):
        prepared(tmp_path, eval_sets={"tofu": EvalSet(source="x.jsonl")})
    with pytest.raises(
        InputError, match=r"^data.eval_sets: found the name 'a b', expected letters"
    ):
        prepared(tmp_path, eval_sets={"a b": EvalSet(source="x.jsonl")})


def test_fingerprints_change_with_alternatives(tmp_path: Path) -> None:
    def fingerprint(**columns: Any) -> str:
        probe = EvalSet(source=source(tmp_path, {}), **columns)
        return prepared(tmp_path, eval_sets={"facts": probe}).measured_fingerprints()["facts"]

    plain, wrong = fingerprint(), fingerprint(alternatives="perturbed_answer")
    assert plain != wrong and wrong != fingerprint(alternatives=["option1"])


def test_rows_of_another_data_module_are_adopted(tmp_path: Path) -> None:
    first = prepared(tmp_path)
    second = StagedDataModule(stages=first.stages, forget="safety", eval_sets=first.eval_sets)
    second.adopt(first)
    assert second.eval_set_rows["facts"] is first.eval_set_rows["facts"]
    assert second.rows["tofu"] is first.rows["tofu"]
