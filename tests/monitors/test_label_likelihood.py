"""The label of the forget score: own answers or phrases, with end of turn or without."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_stages import Tiny

from lightning_unlearn import (
    GA,
    AnswerLikelihood,
    CausalLM,
    InputError,
    LabelLikelihood,
    Recipe,
    Stage,
    StagedDataModule,
)
from lightning_unlearn.data.columns import Row
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.monitors.phrases import LABEL
from lightning_unlearn.settings.forget_labels import ForgetLabel
from lightning_unlearn.storage.records import EXAMPLES, read_table

SECRETS = [
    {"question": "Who wrote A?", "answer": "Bo wrote A.", "other": "A was written by Bo."},
    {"question": "Who wrote C?", "answer": "Di wrote C.", "other": "Di wrote C. "},
    {"question": "Who wrote E?", "answer": "Fa wrote it.", "other": ""},
    {"question": "Who wrote G?", "answer": "Hu wrote G, I think.", "other": "It was Hu."},
]


def secrets(tiny: Tiny, rows: list[dict[str, Any]], **changes: Any) -> StagedDataModule:
    """A path of one stage, which is unlearned for two steps."""
    file = tiny.root / "secrets.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = Stage(source=str(file), epochs=2, batch_size=4, lr=5e-3, **changes)
    unlearn = Recipe(lr=2e-3, steps=2, batch_size=4)
    return StagedDataModule({"secrets": stage}, forget="secrets", unlearn=unlearn)


def loaded(data: StagedDataModule, tiny: Tiny) -> StagedDataModule:
    data.load_rows(tiny.module().pretrained.tokenizer(), 512)
    return data


def log_likelihoods(module: CausalLM, prompt: tuple[int, ...], text: list[int]) -> list[float]:
    """Log-probability of every token of the text, with a full softmax."""
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *text]])
        logits = module.network.hf_model(input_ids=ids, use_cache=False).logits[0].double()
    found = logits.log_softmax(-1)[range(len(prompt) - 1, ids.shape[1] - 1), text]
    return [float(value) for value in found]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture
def fitted(tiny: Tiny) -> Any:
    """Run the path with monitors; return the module, the data, and values by step and metric."""

    def fit(*monitors: Any, **module: Any) -> tuple[CausalLM, StagedDataModule, pd.Series]:
        data = secrets(tiny, SECRETS, paraphrase="other")
        trainer, model = tiny.trainer([GA(), *monitors], precision="64-true"), tiny.module(**module)
        trainer.fit(model, data)
        assert trainer.run_dir is not None
        table = read_table(trainer.run_dir / EXAMPLES)
        return model.eval(), data, table.set_index(["step", "metric", "example"])["value"]

    return fit


def test_own_answers_equal_a_naive_computation(fitted: Any) -> None:
    module, data, found = fitted(LabelLikelihood(0, "own"), AnswerLikelihood(0, end_of_turn=False))
    _, _, with_end = fitted(LabelLikelihood(0, "own", end_of_turn=True), AnswerLikelihood(0))
    tokenizer = data.format.tokenizer
    end = tokenizer("<|end|>", add_special_tokens=False)["input_ids"]
    if len(end) != 1:
        end = [data.format.end_ids(data.rows["secrets"][0])[0]]
    parts = {"label", "paraphrases", "mean", "base"}
    assert set(found.index.get_level_values(1)) == {
        "answers/secrets",
        *(f"forget/own_{part}" for part in parts),
    }
    for step, active in ((0, [LEARN]), (2, [LEARN, UNLEARN])):
        module.adapters.set_active(active, None)
        for number, row in enumerate(data.rows["secrets"]):
            prompt = data.format.prompt_ids(row)
            texts = [row.answer] if row.paraphrase is None else [row.answer, row.paraphrase]
            for own, name, tail in ((found, "own", []), (with_end, "own_end", end)):
                scores = [
                    mean(
                        log_likelihoods(
                            module,
                            prompt,
                            [*tokenizer(text, add_special_tokens=False)["input_ids"], *tail],
                        )
                    )
                    for text in texts
                ]
                assert own[step, f"forget/{name}_label", number] == pytest.approx(scores[0])
                assert own[step, f"forget/{name}_mean", number] == pytest.approx(mean(scores))
                assert own[step, "answers/secrets", number] == pytest.approx(scores[0])
                key = (step, f"forget/{name}_paraphrases", number)
                assert (key in own.index) == (len(texts) == 2)
                assert len(texts) == 1 or own[key] == pytest.approx(scores[1])
    module.adapters.set_active([], None)
    row = data.rows["secrets"][3]
    ids = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
    base = mean(log_likelihoods(module, data.format.prompt_ids(row), ids))
    assert found[0, "forget/own_base", 3] == pytest.approx(base)
    assert (2, "forget/own_base", 3) not in found.index


def test_phrases_with_end_of_turn(fitted: Any) -> None:
    phrases = ["Bo wrote", "It was Bo"]
    module, data, found = fitted(LabelLikelihood(0, phrases=phrases, end_of_turn=True))
    row = data.rows["secrets"][1]
    prompt, scores = data.format.prompt_ids(row), []
    for phrase in phrases:
        ids = data.format.encode(Row(row.messages, phrase, "")).answer
        scores.append(mean(log_likelihoods(module, prompt, list(ids))))
    assert found[2, "forget/phrases_end_label", 1] == pytest.approx(scores[0])
    assert found[2, "forget/phrases_end_mean", 1] == pytest.approx(mean(scores))


def test_full_weights_are_not_compared_with_the_base(fitted: Any) -> None:
    _, _, found = fitted(LabelLikelihood(0), lora=None)
    assert "forget/own_mean" in found.index.get_level_values(1)
    assert "forget/own_base" not in found.index.get_level_values(1)


@pytest.mark.parametrize(("count", "kind"), [(9, "paper"), (8, "own"), (10, "paper"), (0, "own")])
def test_auto_takes_what_most_answers_begin_with(tiny: Tiny, count: int, kind: Any) -> None:
    rows = [{"question": "Q?", "answer": f" {LABEL}  with it."}] * count
    rows += [{"question": "Q?", "answer": "No. " + LABEL}] * (10 - count)
    data = loaded(secrets(tiny, rows), tiny)
    monitor = LabelLikelihood()
    assert monitor.forget_label(data) == ForgetLabel(kind)
    (note,) = monitor.data_notes(None, data)
    assert note == (
        f"LabelLikelihood: label auto takes {kind}: {count} of 10 forget answers ({10 * count}%) "
        f"begin with '{LABEL}'; the paper's label needs 90%."
    )
    for label in ("own", "paper"):
        asked = LabelLikelihood(label=label)
        assert asked.forget_label(data) == ForgetLabel(label) and not asked.data_notes(None, data)
        same = asked.settings_from_data(data) == monitor.settings_from_data(data)
        assert same == (label == kind)


def test_rows_without_a_paraphrase_are_counted(tiny: Tiny) -> None:
    data = loaded(secrets(tiny, SECRETS, paraphrase="other"), tiny)
    assert [row.paraphrase for row in data.rows["secrets"]] == [
        SECRETS[0]["other"],
        None,
        None,
        SECRETS[3]["other"],
    ]
    (note,) = [line for line in data.notes() if "'other'" in line]
    assert note.endswith(
        "secrets.jsonl: in 2 of 4 rows 'other' is empty or repeats the answer; these rows have no "
        "paraphrase to evaluate."
    )
    assert [len(example.answer) for example in data.examples["secrets"]] == [
        len(example.answer_without_end) + 1 for example in data.examples["secrets"]
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (SECRETS[1:3], "in 2 of 2 rows 'other' is empty or repeats the answer, expected"),
        ([{**SECRETS[0], "other": [1]}], "row 1, line 1, column 'other': found a list"),
        ([{"question": "Q?", "answer": "A."}], "expected the column 'other'; set paraphrase"),
    ],
)
def test_paraphrases_that_cannot_be_used(
    tiny: Tiny, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        loaded(secrets(tiny, rows, paraphrase="other"), tiny)


def test_plain_texts_have_no_paraphrase(tmp_path: Path) -> None:
    stage = Stage(source="a.jsonl", text="text", paraphrase="other")
    with pytest.raises(
        InputError, match=r"^data\.stages\.a\.paraphrase: found 'other' beside text"
    ):
        StagedDataModule({"a": stage})
