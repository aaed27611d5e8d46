"""Stages that the base model has learned: paths that begin with them, and what is refused."""

from typing import Any

import pytest
from tiny_stages import Tiny

from lightning_unlearn import InputError, Stage, StagedDataModule

NAMES = ("inst", "tofu", "math", "safety")


def staged(**options: Any) -> StagedDataModule:
    stages = {name: Stage(source=f"{name}.jsonl") for name in NAMES}
    return StagedDataModule(**{"stages": stages, "forget": "safety", **options})


@pytest.mark.parametrize(
    ("options", "path", "trained", "position"),
    [
        ({"learned": ["safety"], "order": []}, "safety", "", 1),
        ({"learned": ["safety"]}, "safety-inst-tofu-math", "inst-tofu-math", 1),
        ({"learned": ["tofu", "safety"], "order": ["inst"]}, "tofu-safety-inst", "inst", 2),
        ({"learned": ["tofu"]}, "tofu-inst-math-safety", "inst-math-safety", 4),
        ({"learned": ["tofu"], "position": 2}, "tofu-safety-inst-math", "safety-inst-math", 2),
        ({"learned": ["tofu"], "permutation": 6}, "tofu-safety-math-inst", "safety-math-inst", 2),
        ({"learned": ["tofu"], "oracle": True}, "tofu-inst-math-safety", "inst-math", None),
        ({"learned": ["tofu"], "forget": None, "order": []}, "tofu", "", None),
    ],
)
def test_every_path_begins_with_the_learned_stages(
    options: dict[str, Any], path: str, trained: str, position: int | None
) -> None:
    data = staged(**options)
    assert ("-".join(data.path), "-".join(data.training_stages)) == (path, trained)
    assert data.position == position
    assert data.prefix == (*data.learned, *data.training_stages)
    data.path = data.path
    assert "-".join(data.path) == path


def test_the_paths_of_a_study_begin_with_the_learned_stages() -> None:
    data = staged(learned=["tofu", "inst"])
    assert data.paths("positions") == [("tofu", "inst", "safety", "math"), data.path]
    assert data.paths("permutations") == [data.path, ("tofu", "inst", "safety", "math")]
    assert staged(learned=["safety"]).paths("permutations")[0] == ("safety", "inst", "tofu", "math")


REFUSED = [
    (
        {"learned": ["secrets"]},
        "data.learned: found 'secrets', expected names of data.stages: inst, tofu, math, safety. "
        "Add 'secrets' to data.stages, with the rows that model.base has learned as its source.",
    ),
    (
        {"learned": ["safety", "safety"]},
        "data.learned: found 'safety' twice, expected each stage once.",
    ),
    (
        {"learned": ["safety"], "order": ["inst", "safety"]},
        "data.order: found 'safety', which is also in data.learned, expected only stages that "
        "model.base has not learned. Remove 'safety' from one of the two.",
    ),
    (
        {"learned": ["inst"], "order": []},
        "data.order: found an empty list, expected a path with the forget stage 'safety', which is "
        "to be unlearned. If model.base has learned 'safety' already, set data.learned: [safety].",
    ),
    (
        {"learned": ["safety"], "oracle": True},
        "data.oracle: found true with 'safety' in data.learned, expected false: model.base has "
        "learned the forget stage, so no oracle can be trained from it. Train one from a model "
        "that has not learned it, and name that with oracle: {base: ORACLE}.",
    ),
    (
        {"learned": ["safety"], "position": 1},
        "data.position: found 1 with 'safety' in data.learned, expected null: what model.base has "
        "learned cannot be moved; remove data.position.",
    ),
    (
        {"learned": ["inst"], "position": 1},
        "data.position: found 1, expected 2 to 4 (there are 3 stages after the learned ones).",
    ),
    (
        {"learned": ["inst", "tofu", "math", "safety"], "permutation": 2},
        "data.permutation: found 2, but data.learned has all stages, so there is nothing to order; "
        "remove data.permutation.",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_wrong_learned_stages_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        staged(**options)
    assert str(refused.value) == message


def test_learned_stages_are_evaluated_like_others(tiny: Tiny) -> None:
    module = tiny.module()
    data = tiny.datamodule(learned=["math", "safety"], order=["inst"])
    data.load_rows(module.pretrained.tokenizer(), module.pretrained.context_length)
    assert [len(data.row_set(name)[0]) for name in ("math", "math:train", "inst")] == [5, 10, 8]
    assert data.training_examples("unlearn") == data.examples["safety"]
    assert set(data.measured_fingerprints()) == {"math", "inst"}
