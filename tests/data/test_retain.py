"""Retain rows: their pairing with forget rows, and sources that are refused."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_examples, tiny_tokenizer, write_rows

from lightning_unlearn.data.batches import BatchPlan, collate, joined
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.paired_batches import PairedPlan
from lightning_unlearn.data.recipes import EvalSet, Recipe, RowSource, Stage
from lightning_unlearn.errors import InputError

FORGET, RETAIN = random_examples(11, seed=1), random_examples(7, seed=2)


def plan(seed: int = 0, batch_size: int = 4, epochs: int = 3, **options: Any) -> PairedPlan:
    recipe = Recipe(epochs=epochs, batch_size=batch_size)
    return PairedPlan(FORGET, recipe, seed, "unlearn", pad_id=2, retain=RETAIN, **options)


def pairs(paired: PairedPlan) -> list[dict[int, int]]:
    """The pairs of each step, from the batches of all processes."""
    found = []
    for step in range(len(paired)):
        batch = paired[step]
        own: dict[int, int] = {}
        for micro in batch.micro_batches:
            assert micro.retain is not None and torch.equal(micro.retain.weight, micro.weight)
            rows = zip(micro.index.tolist(), micro.retain.index.tolist(), strict=True)
            own |= dict(rows) if micro.weight[0] else {}
        found.append(own)
    return found


def test_pairs_depend_on_seed_step_and_row_alone() -> None:
    expected = pairs(plan(micro_batch_size=4))
    assert expected == pairs(plan(micro_batch_size=1)) == pairs(plan(micro_batch_size=2))
    shares = [pairs(plan(micro_batch_size=1, rank=rank, world_size=2)) for rank in range(2)]
    assert expected == [one | other for one, other in zip(*shares, strict=True)]
    # A longer run begins in the same way, and a step may be asked for by itself.
    longer = plan(epochs=5)
    assert pairs(longer)[: len(expected)] == expected
    assert longer.partners(4) == expected[4]
    assert pairs(plan(seed=1)) != expected


def test_all_retain_rows_take_turns_and_counts_are_those_of_the_step() -> None:
    paired = plan()
    rows = [row for step in pairs(paired) for row in step.values()]
    assert len(rows) == 33
    counts = Counter(rows)
    assert set(counts.values()) == {4, 5} and set(counts) == set(range(7))
    for step, own in enumerate(pairs(paired)):
        counted = paired[step].retain
        assert counted is not None and counted.sequences == len(own)
        assert counted.tokens == sum(len(RETAIN[i].answer) for i in own.values())
        # Similar lengths meet, so that padding is short.
        lengths = [len(RETAIN[own[row]]) for row in paired.ordered(step)]
        assert lengths == sorted(lengths)


def test_forget_batches_are_those_of_a_plan_without_retain_rows() -> None:
    plain = BatchPlan(FORGET, Recipe(epochs=3, batch_size=4), 0, "unlearn", pad_id=2)
    paired = plan()
    assert plain.steps == paired.steps
    for step in range(len(plain)):
        for one, other in zip(plain[step].micro_batches, paired[step].micro_batches, strict=True):
            assert torch.equal(one.input_ids, other.input_ids) and one.retain is None


def test_joined_batches_have_the_labels_of_both() -> None:
    first, second = collate(FORGET, [0, 3], pad_id=2), collate(RETAIN, [5, 1, 2], pad_id=2)
    both = joined(first, second)
    flat = both.input_ids.flatten()
    answers = [FORGET[0], FORGET[3], RETAIN[5], RETAIN[1], RETAIN[2]]
    assert flat[both.label_positions + 1].tolist() == both.label_ids.tolist()
    assert both.label_ids.tolist() == [token for e in answers for token in e.answer]
    assert both.mask.sum(-1).tolist() == [len(e.answer) for e in answers]
    assert both.index.tolist() == [0, 3, 5, 1, 2]
    assert torch.equal(both.mask[:2, : first.mask.shape[1]], first.mask)


def made(folder: Path, name: str, numbers: range) -> str:
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in numbers]
    return write_rows(folder / f"{name}.jsonl", rows)


def staged(folder: Path, retain: Any, **options: Any) -> StagedDataModule:
    """Stages a (rows 0 to 5), b (6 to 9, held out 20 to 21), safety (4 to 7); c is on no path."""
    stages = {
        "a": Stage(source=made(folder, "a", range(6))),
        "b": Stage(
            source=made(folder, "b", range(6, 10)),
            heldout=made(folder, "b-heldout", range(20, 22)),
        ),
        "c": Stage(source=made(folder, "c", range(30, 33))),
        "safety": Stage(
            source=made(folder, "safety", range(4, 8)), heldout=made(folder, "s", range(40, 42))
        ),
    }
    given: dict[str, Any] = {
        "stages": stages,
        "forget": "safety",
        "order": ["a", "b", "safety"],
        "eval_sets": {"facts": EvalSet(made(folder, "facts", range(50, 53)))},
        "retain": retain,
    }
    return StagedDataModule(**{**given, **options})


def loaded(folder: Path, retain: Any, **options: Any) -> StagedDataModule:
    data = staged(folder, retain, **options)
    data.load_rows(tiny_tokenizer(), 512)
    data.load_method_rows(retain=True, alternates=False)
    return data


def numbers(data: StagedDataModule) -> list[int]:
    """Which rows are retain rows."""
    texts = (tiny_tokenizer().decode(example.answer) for example in data.method_rows.retain)
    return [int(re.findall(r"\d+", text)[0]) for text in texts]


def test_retain_rows_are_those_of_the_names_without_forget_rows(tmp_path: Path) -> None:
    data = loaded(tmp_path, ["a", "b:train"])
    assert numbers(data) == [0, 1, 2, 3, 8, 9]
    note = "data.retain: 4 of 10 rows are also forget rows; they are left out."
    assert data.method_rows.notes(True, False) == [note]
    # Stages beside the path, held-out rows and evaluation sets.
    data = loaded(tmp_path, ["c", "b:heldout", "safety:heldout", "facts"])
    assert numbers(data) == [30, 31, 32, 20, 21, 40, 41, 50, 51, 52]
    (note,) = data.method_rows.notes(True, False)
    assert note == (
        "data.retain: b:heldout, safety:heldout, facts are evaluated and trained on by the retain "
        "term, so the scores there do not show what generalizes."
    )
    assert data.method_rows.notes(False, False) == []


def test_notes_on_a_stage_beside_the_path_are_given(tmp_path: Path) -> None:
    rows = [{"question": "What?", "answer": "word " * 40, "input": "more"}]
    stage = Stage(source=write_rows(tmp_path / "d.jsonl", rows))
    stages = {**staged(tmp_path, ["a"]).stages, "d": stage}
    data = staged(tmp_path, ["a", "d"], stages=stages, max_length=32)
    data.load_rows(tiny_tokenizer(), 512)
    data.load_method_rows(retain=True, alternates=False)
    unused, cut, _ = data.method_rows.notes(True, False, data.path)
    assert unused.startswith("data.stages.d.source: ") and "'input' is not used" in unused
    assert cut == "d: 1 of 1 answers are truncated at 32 tokens (data.max_length)."
    assert not {unused, cut} & set(data.notes())
    assert len(data.method_rows.notes(True, False, [*data.path, "d"])) == 1


def test_retain_rows_may_have_a_source_of_their_own(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "own.jsonl", [{"q": f"What is {n}?", "a": f"{n}"} for n in (1, 2)])
    first = loaded(tmp_path, RowSource(source=file, prompt="q", answer="a"))
    assert numbers(first) == [1, 2]
    second = staged(tmp_path, RowSource(source=file, prompt="q", answer="a"))
    second.load_rows(tiny_tokenizer(), 512)
    second.adopt(first)
    assert second.method_rows.retain is first.method_rows.retain
    prints = [data.method_rows.fingerprints(True, True) for data in (first, second)]
    assert prints[0] == prints[1] and list(prints[0]) == ["retain"]
    assert loaded(tmp_path, ["c"]).method_rows.fingerprints(True, False) != prints[0]


EXPECTED = (
    "expected stages, evaluation sets (a, a:train, b, b:train, b:heldout, c, c:train, facts), or a "
    "source"
)


@pytest.mark.parametrize(
    ("retain", "message"),
    [
        ([], f"data.retain: found an empty list, {EXPECTED}; or set it to null."),
        (["a", "d"], f"data.retain: found 'd', {EXPECTED}."),
        (["b:test"], f"data.retain: found 'b:test', {EXPECTED}."),
        *(
            (
                [name],
                f"data.retain: found '{name}', the forget stage (data.forget), expected other "
                f"rows: {EXPECTED.removeprefix('expected ')}.",
            )
            for name in ("safety", "safety:train")
        ),
        (
            ["a:heldout"],
            "data.retain: found 'a:heldout', but the stage has no held-out rows; set "
            "data.stages.a.heldout, or name other rows.",
        ),
        (["b", "b:train"], "data.retain: found 'b' twice, expected each row set once."),
        (
            RowSource(),
            "data.retain.source: found nothing, expected a file (.json, .jsonl, .csv, .parquet), a "
            "name like demo:math, or a data set of the Hugging Face hub.",
        ),
        (
            RowSource(source="x", limit=0),
            "data.retain.limit: found 0, expected 1 or more, or null for all rows.",
        ),
    ],
)
def test_retain_rows_that_cannot_be_used_are_refused(
    tmp_path: Path, retain: Any, message: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        staged(tmp_path, retain)


def test_retain_rows_that_are_all_forget_rows_are_refused(tmp_path: Path) -> None:
    message = (
        "data.retain: found 4 rows, all of which are also forget rows (data.forget), expected "
        "other rows; name other stages, evaluation sets, or a source."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        loaded(tmp_path, RowSource(source=made(tmp_path, "same", range(4, 8))))


def test_wrong_rows_of_a_source_name_its_key(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "b"}, {"question": "a", "answer": ""}]
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"^data\.retain\.source: .*bad\.jsonl, row 2, line 2, "):
        loaded(tmp_path, RowSource(source=str(file)))
