"""StagedDataModule: paths, rows, fingerprints, and refused settings."""

import csv
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_models import LLAMA_TEMPLATE, tiny_tokenizer, write_rows

from lightning_unlearn.data.chat import ChatFormat
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.data.examples import data_fingerprint
from lightning_unlearn.data.recipes import Recipe, Stage
from lightning_unlearn.errors import InputError

NAMES = ("inst", "tofu", "math", "safety")
ROWS = [
    {"question": f"What is {a} and {b}?", "answer": f"{a} and {b} is {a + b}."}
    for a, b in itertools.product(range(1, 4), range(1, 3))
]


def stages(*names: str, **values: Any) -> dict[str, Stage]:
    return {name: Stage(**{"source": f"{name}.jsonl", **values}) for name in names or NAMES}


def staged(**options: Any) -> StagedDataModule:
    return StagedDataModule(**{"stages": stages(), "forget": "safety", **options})


def refused(message: str, **options: Any) -> None:
    """Check that the module is refused with exactly this message."""
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        staged(**options)


def test_without_a_choice_the_path_is_the_written_order() -> None:
    assert staged().path == NAMES
    assert staged().position == 4
    assert staged(forget=None).position is None


@pytest.mark.parametrize("order", [NAMES[::-1], ("tofu", "safety"), ("safety",)])
def test_order_gives_the_path_and_may_omit_stages(order: tuple[str, ...]) -> None:
    data = staged(order=list(order))
    assert data.path == order
    assert data.position == order.index("safety") + 1


@pytest.mark.parametrize("forget", NAMES)
@pytest.mark.parametrize("position", [1, 2, 3, 4])
def test_position_moves_the_forget_stage_alone(forget: str, position: int) -> None:
    data = staged(forget=forget, position=position)
    assert data.position == position and data.path[position - 1] == forget
    others = [name for name in data.path if name != forget]
    assert others == [name for name in NAMES if name != forget]
    assert data.path == data.paths("positions")[position - 1]


def test_permutations_are_counted_lexicographically_from_the_written_order() -> None:
    found = [staged(permutation=number).path for number in range(1, 25)]
    assert found == staged().paths("permutations")
    places = [[NAMES.index(name) for name in path] for path in found]
    assert places == sorted(places) and len(set(found)) == 24
    assert found[0] == NAMES and found[-1] == NAMES[::-1]
    assert staged(permutation=2, forget=None).path == ("inst", "tofu", "safety", "math")


def test_positions_are_the_four_paths_of_the_paper() -> None:
    assert staged().paths("positions") == [
        ("safety", "inst", "tofu", "math"),
        ("inst", "safety", "tofu", "math"),
        ("inst", "tofu", "safety", "math"),
        ("inst", "tofu", "math", "safety"),
    ]
    with pytest.raises(
        InputError, match=r"^paths: found positions with data\.forget null, expected"
    ):
        staged(forget=None).paths("positions")


def test_the_path_can_be_set_and_is_checked() -> None:
    data = staged()
    data.path = ("safety", "tofu")
    assert data.path == ("safety", "tofu") and data.position == 1
    with pytest.raises(InputError, match=r"^data\.order: found the unknown stage 'nowhere'"):
        data.path = ("safety", "nowhere")
    assert data.path == ("safety", "tofu")
    with pytest.raises(InputError, match=r"^study\.paths\[2\]: found 'tofu' twice"):
        data.check_order(("tofu", "tofu"), key="study.paths[2]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": {}}, "data.stages: found none, expected at least one stage."),
        (
            {"order": ["inst"], "position": 1},
            "data.order and data.position: found 2 keys that choose the path, expected one; remove "
            "the others.",
        ),
        (
            {"order": ["inst"], "position": 1, "permutation": 1},
            "data.order and data.position and data.permutation: found 3 keys that choose the path, "
            "expected one; remove the others.",
        ),
        (
            {"order": []},
            "data.order: found an empty list, expected names of stages. Stages that model.base has "
            "learned already belong in data.learned.",
        ),
        (
            {"order": ["safety", "maths"]},
            "data.order: found the unknown stage 'maths', expected some of inst, tofu, math, "
            "safety.",
        ),
        (
            {"order": ["safety", "inst", "safety"]},
            "data.order: found 'safety' twice, expected each stage once.",
        ),
        (
            {"order": ["inst", "math"]},
            "data.order: found inst, math, expected a path with the forget stage 'safety', which "
            "is to be unlearned. If model.base has learned 'safety' already, set data.learned: "
            "[safety].",
        ),
        (
            {"position": 0},
            "data.position: found 0, expected 1 to 4 (there are 4 stages).",
        ),
        (
            {"position": 5},
            "data.position: found 5, expected 1 to 4 (there are 4 stages).",
        ),
        (
            {"position": 1, "forget": None},
            "data.position: found 1 with data.forget null, expected a forget stage; set "
            "data.forget.",
        ),
        (
            {"permutation": 0},
            "data.permutation: found 0, expected 1 to 24 (4 stages have 24 orders).",
        ),
        (
            {"permutation": 25},
            "data.permutation: found 25, expected 1 to 24 (4 stages have 24 orders).",
        ),
        (
            {"forget": "harm"},
            "data.forget: found 'harm', expected one of the stages inst, tofu, math, safety.",
        ),
        ({"max_length": 1}, "data.max_length: found 1, expected at least 2."),
        ({"eval_batch_size": 0}, "data.eval_batch_size: found 0, expected at least 1."),
        (
            {"stages": {"safety": Stage()}},
            "data.stages.safety.source: found nothing, expected a file (.json, .jsonl, .csv, "
            ".parquet), a name like demo:math, or a data set of the Hugging Face hub.",
        ),
    ],
)
def test_invalid_paths_are_refused(options: dict[str, Any], message: str) -> None:
    refused(message, **options)


@pytest.mark.parametrize("name", ["unlearn", "oracle", "", "a-b", "a/b", "..", "two words"])
def test_names_of_stages_must_make_folders_and_curves(name: str) -> None:
    refused(
        f"data.stages: found the name {name!r}, expected letters, digits and underscores, and "
        "neither 'unlearn' nor 'oracle': folders and curves have these names.",
        stages=stages("safety", name),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0}, "lr: found 0, expected a positive number."),
        ({"lr": float("inf")}, "lr: found inf, expected a positive number."),
        ({"lr": float("nan")}, "lr: found nan, expected a positive number."),
        (
            {"epochs": 0},
            "epochs: found 0, expected at least 1: a stage of 0 steps trains nothing; remove it "
            "instead.",
        ),
        (
            {"steps": 0},
            "steps: found 0, expected at least 1: a stage of 0 steps trains nothing; remove it "
            "instead.",
        ),
        ({"batch_size": 0}, "batch_size: found 0, expected at least 1 sequence."),
        ({"warmup": -0.1}, "warmup: found -0.1, expected a share between 0 and 1."),
        ({"decay": 1.5}, "decay: found 1.5, expected a share between 0 and 1."),
        (
            {"warmup": 0.6, "decay": 0.5},
            "warmup: found 0.6, expected warmup + decay (here 0.5) of at most 1.",
        ),
        ({"weight_decay": -1}, "weight_decay: found -1, expected a finite number, 0 or more."),
        ({"betas": (0.9, 1.0)}, "betas: found (0.9, 1.0), expected two numbers in [0, 1)."),
        ({"momentum": 1}, "momentum: found 1, expected a number in [0, 1)."),
        (
            {"gradient_clip": 0},
            "gradient_clip: found 0, expected a positive norm, or null.",
        ),
    ],
)
def test_recipes_that_cannot_train_are_refused(values: dict[str, Any], message: str) -> None:
    refused(f"data.unlearn.{message}", unlearn=Recipe(**values))
    refused(
        f"data.stages.tofu.{message}", stages={**stages(), "tofu": stages("tofu", **values)["tofu"]}
    )


def test_recipes_at_the_limits_are_accepted() -> None:
    staged(unlearn=Recipe(epochs=0, steps=1, warmup=0.5, decay=0.5, betas=(0.0, 0.0)))
    staged(unlearn=Recipe(schedule="cosine", warmup=1.0, decay=1.0))


def test_the_key_of_a_recipe_omits_the_source_of_the_rows() -> None:
    key = Recipe(lr=0.5).key()
    assert Stage(lr=0.5, source="a.csv", prompt="p", limit=3).key() == key
    assert Stage(lr=0.25, source="a.csv").key() != key
    # AdamW has no momentum, and no steps are given.
    assert set(key) == set(Recipe.__dataclass_fields__) - {"steps", "momentum"}
    assert Recipe(steps=3, epochs=7).key() == Recipe(steps=3).key()
    assert Recipe(schedule="cosine", decay=0.5).key() == Recipe(schedule="cosine").key()


def prepared(folder: Path, **options: Any) -> StagedDataModule:
    """Return two stages with their rows; tofu has held-out rows."""
    source = write_rows(folder / "rows.jsonl", ROWS)
    heldout = write_rows(folder / "heldout.jsonl", ROWS[:2])
    both = {
        "tofu": Stage(source=source, heldout=heldout, batch_size=4),
        "safety": Stage(source=source, limit=3, batch_size=2),
    }
    data = StagedDataModule(**{"stages": both, "forget": "safety", **options})
    data.load_rows(tiny_tokenizer(), 512)
    return data


def test_rows_are_read_and_encoded_for_the_stages_of_the_path(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    form = ChatFormat(tiny_tokenizer(), 512)
    assert [len(data.rows[name]) for name in ("tofu", "safety")] == [6, 3]
    for name in data.path:
        assert data.examples[name] == [form.encode(row) for row in data.rows[name]]
        assert data.training_examples(name) == data.examples[name]
    assert data.training_examples("unlearn") == data.examples["safety"]
    assert data.row_sets.truncations(data.path, data.format) == []
    assert set(prepared(tmp_path, order=["safety"]).rows) == {"safety"}


def test_preparing_again_reads_only_what_is_new(tmp_path: Path) -> None:
    data = prepared(tmp_path, order=["safety"])
    before = data.examples["safety"]
    data.path = ("tofu", "safety")
    data.load_rows(tiny_tokenizer(), 512)
    assert data.examples["safety"] is before and len(data.examples["tofu"]) == 6


def test_stages_are_evaluated_on_held_out_rows_if_they_have_any(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    rows, examples = data.eval_rows("tofu")
    assert [row.answer for row in rows] == [record["answer"] for record in ROWS[:2]]
    assert examples == data.examples["tofu"][:2]
    assert data.eval_rows("safety") == (data.rows["safety"], data.examples["safety"])
    rows = data_fingerprint(data.examples["tofu"][:2])
    assert data.measured_fingerprints()["tofu"].startswith(rows)
    assert set(data.measured_fingerprints()) == {"tofu"}


def test_recipes_by_stage(tmp_path: Path) -> None:
    data = prepared(tmp_path, unlearn=Recipe(lr=0.5))
    assert data.recipe("unlearn").lr == 0.5
    assert data.recipe("tofu") is data.stages["tofu"]


def test_fingerprints_change_with_rows_and_not_with_the_file_format(tmp_path: Path) -> None:
    def fingerprint(source: Path, **values: Any) -> str:
        data = StagedDataModule({"tofu": Stage(source=str(source), **values)})
        data.load_rows(tiny_tokenizer(LLAMA_TEMPLATE), 512)
        return data.fingerprint("tofu")

    lines = tmp_path / "rows.jsonl"
    write_rows(lines, ROWS)
    array = tmp_path / "rows.json"
    array.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    table = tmp_path / "other-name.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["extra", "answer", "question"])
        writer.writeheader()
        writer.writerows({**record, "extra": "unused"} for record in ROWS)
    chats = tmp_path / "chats.jsonl"
    write_rows(
        chats,
        [
            {
                "chat": [
                    {"role": "user", "content": record["question"]},
                    {"role": "assistant", "content": record["answer"]},
                ]
            }
            for record in ROWS
        ],
    )
    first = fingerprint(lines)
    assert fingerprint(array) == fingerprint(table) == fingerprint(chats, messages="chat") == first
    # Training settings are not part of the fingerprint of the rows.
    assert fingerprint(lines, lr=0.5, epochs=3, limit=len(ROWS)) == first
    changed = [
        ROWS[::-1],
        ROWS[:-1],
        [*ROWS[:-1], {**ROWS[-1], "answer": "Five!"}],
        [*ROWS[:-1], {**ROWS[-1], "question": "Why?"}],
    ]
    found = {first, fingerprint(lines, limit=2), fingerprint(lines, prompt="answer")}
    for records in changed:
        write_rows(lines, records)
        found.add(fingerprint(lines))
    assert len(found) == 7


def test_the_fingerprint_of_unlearning_is_that_of_the_forget_stage(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    assert data.fingerprint("unlearn") == data.fingerprint("safety") != data.fingerprint("tofu")


def test_truncated_answers_are_counted(tmp_path: Path) -> None:
    endings = ("", "", "", " Indeed it is.", " That is sure.", "")
    records = [
        {**record, "answer": record["answer"] + ending}
        for record, ending in zip(ROWS, endings, strict=True)
    ]
    source = write_rows(tmp_path / "endings.jsonl", records)
    both = {"tofu": Stage(source=source), "safety": Stage(source=source, limit=3)}

    def read(max_length: int) -> StagedDataModule:
        data = StagedDataModule(both, max_length=max_length)
        data.load_rows(tiny_tokenizer(), 512)
        return data

    usual = max(len(example) for example in read(512).examples["safety"])
    data = read(usual)
    assert [example.truncated for example in data.examples["tofu"]] == list(map(bool, endings))
    assert all(len(example) <= usual for example in data.examples["tofu"])
    assert data.row_sets.truncations(data.path, data.format) == [
        f"tofu: 2 of 6 answers are truncated at {usual} tokens (data.max_length)."
    ]


def test_a_prompt_that_is_too_long_names_the_row(tmp_path: Path) -> None:
    write_rows(tmp_path / "long.jsonl", [ROWS[0], {"question": "a " * 99, "answer": "b"}])
    data = StagedDataModule({"tofu": Stage(source=str(tmp_path / "long.jsonl"))}, max_length=64)
    with pytest.raises(InputError, match=r"long\.jsonl, row 2, line 2: the prompt alone has \d+ "):
        data.load_rows(tiny_tokenizer(), 512)


def test_max_length_beyond_the_context_is_refused(tmp_path: Path) -> None:
    data = staged(max_length=513)
    with pytest.raises(
        InputError,
        match=r"^data\.max_length: found 513, expected at most 512, the context of models/base "
        r"in tokens\.$",
    ):
        data.load_rows(tiny_tokenizer(), 512, name="models/base")


def test_a_missing_template_names_the_model() -> None:
    with pytest.raises(InputError, match=r"^models/base has no chat template"):
        staged().load_rows(tiny_tokenizer(None), 512, name="models/base")


def test_an_unreadable_source_names_its_key(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    missing = str(tmp_path / "none.jsonl")
    for stage, key in (
        (Stage(source=missing), "source"),
        (Stage(source=source, heldout=missing), "heldout"),
    ):
        data = StagedDataModule({"tofu": stage})
        with pytest.raises(InputError, match=rf"^data\.stages\.tofu\.{key}: .*none\.jsonl"):
            data.load_rows(tiny_tokenizer(), 512)


def test_batches_are_checked_for_every_recipe_before_training() -> None:
    data = staged(micro_batch_size=4, unlearn=Recipe(batch_size=6))
    with pytest.raises(InputError, match=r"^data\.unlearn\.batch_size: found 6, which is not"):
        data.check_batches(1)
    data = staged(stages=stages(batch_size=12), unlearn=Recipe(batch_size=6))
    data.check_batches(1)
    data.check_batches(3)
    with pytest.raises(
        InputError, match=r"^data\.stages\.inst\.batch_size: found 12, which is not"
    ):
        data.check_batches(5)
    # A recipe of unlearning that is not used is not checked.
    staged(stages=stages(batch_size=12), unlearn=Recipe(batch_size=5), forget=None).check_batches(4)


def test_the_loader_yields_the_selected_stage(tmp_path: Path) -> None:
    data = prepared(tmp_path, unlearn=Recipe(batch_size=3, epochs=2))
    assert [len(data.start_stage(name, 0, 0, 1)) for name in ("tofu", "safety", "unlearn")] == [
        2,
        2,
        2,
    ]
    plan = data.start_stage("tofu", seed=1, rank=0, world_size=1)
    batches = list(data.train_dataloader())
    assert len(batches) == 2 and plan.pad_id == tiny_tokenizer().pad_token_id
    assert [batch.sequences for batch in batches] == [4, 2]
    unlearning = data.start_stage("unlearn", 1, 0, 1)
    assert unlearning.examples == data.examples["safety"]
    # The order of rows depends on the name of the stage, not on its position in the path.
    steps = prepared(tmp_path, order=["safety", "tofu"]).start_stage("tofu", 1, 0, 1).steps
    assert plan.steps == steps


def test_begin_names_the_recipe_that_is_not_divisible(tmp_path: Path) -> None:
    data = prepared(tmp_path, unlearn=Recipe(batch_size=3))
    for stage, key in (("tofu", r"data\.stages\.tofu"), ("unlearn", r"data\.unlearn")):
        with pytest.raises(InputError, match=rf"^{key}\.batch_size: "):
            data.start_stage(stage, 0, 0, 5)


def test_without_a_padding_token_any_id_pads(tmp_path: Path) -> None:
    data = StagedDataModule({"tofu": Stage(source=write_rows(tmp_path / "rows.jsonl", ROWS))})
    data.load_rows(tiny_tokenizer(pad=None), 512)
    assert data.pad_id == 0
