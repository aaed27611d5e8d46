"""Rows, templates and tokens that cannot be used: one sentence, and no files are written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Workplace, make_workplace
from tiny_models import tiny_tokenizer
from transformers import AutoTokenizer

from lightning_unlearn import (
    EvalSet,
    InputError,
    LabelLikelihood,
    MathAccuracy,
    Stage,
    StagedDataModule,
)
from lightning_unlearn.demo import resolve

PLAIN = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
HEADER = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('Only user and model') }}{% endif %}"
)


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)


def lines_of(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def chat(*texts: str, roles: tuple[str, ...]) -> dict[str, Any]:
    pairs = zip(roles, texts, strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


def sibling(template: Any, tokens: tuple[str, ...] = ()) -> None:
    """Copy the demo model to ./model, with another template or further tokens."""
    shutil.copytree(resolve("demo:tiny-llama"), "model")
    tokenizer = AutoTokenizer.from_pretrained("model")
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained("model")


def test_a_row_that_the_template_refuses(place: Workplace) -> None:
    sibling(NO_SYSTEM + PLAIN + HEADER)
    rows = (
        chat("What is B?", "A letter.", roles=("user", "assistant")),
        chat("Be brief.", "What is A?", "A letter.", roles=("system", "user", "assistant")),
    )
    place.write("chats.jsonl", lines_of(*rows))
    message = place.fit(
        "--model.base=./model",
        "--data.stages.math.source=chats.jsonl",
        "--data.stages.math.messages=messages",
    )
    assert message == (
        "chats.jsonl, row 2, line 2: the chat template fails on this row (Only user and model), "
        "expected a chat that it accepts; change or remove the row, or name a model with another "
        "template (data.chat_template_from)."
    )
    # The advice works: the template of the demo accepts such a row.
    assert "noway" in place.fit(
        "--model.base=./model",
        "--data.chat_template_from=demo:tiny-llama",
        "--data.stages.math.source=chats.jsonl",
        "--data.stages.math.messages=messages",
        "--trainer.callbacks+=MathAccuracy",
        "--trainer.callbacks.stage=noway",
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}", "./model: found a chat template that does not compile"),
        ("{{ '' }}", "math.jsonl, row 1, line 1: the chat template omits the question"),
        (
            "{{ messages[0].content }}" + HEADER,
            "math.jsonl, row 1, line 1: the chat template omits",
        ),
        (
            "{% for i in range(10**9) %}{% endfor %}" + PLAIN,
            "math.jsonl, row 1, line 1: the chat template fails on this row (Range too big.",
        ),
    ],
)
def test_templates_that_cannot_be_used(place: Workplace, template: str, expected: str) -> None:
    sibling(template)
    assert place.fit("--model.base=./model").startswith(expected)


GOOD = {"question": "What is A?", "answer": "A letter. #### 3"}
BAD = {"question": "What is next?", "answer": "It is <extra1>."}
WRONG = {**GOOD, "paraphrased": "A sign.", "wrong": ["A number.", "An <extra1>."]}


def test_a_token_that_the_model_lacks(place: Workplace) -> None:
    sibling(None, ("<extra1>",))
    place.write("safety.jsonl", lines_of(GOOD, BAD))
    assert place.fit("--model.base=./model") == (
        "safety.jsonl, row 2, line 2: the answer has the token '<extra1>' with id 1024, expected "
        "ids below 1024, the number of rows of the embedding of ./model. Remove that text, or use "
        "a model whose embedding has a row for every token."
    )


LABEL, MATHS = LabelLikelihood(phrases=["No <extra1>"]), MathAccuracy(instruction="Write <extra1>.")


@pytest.mark.parametrize(
    ("rows", "heldout", "probe", "monitor", "where"),
    [
        ([GOOD, BAD], None, None, None, "rows.jsonl, row 2, line 2: the answer has"),
        ([GOOD], [GOOD, BAD], None, None, "held.jsonl, row 2, line 2: the answer has"),
        ([GOOD], None, [GOOD | WRONG, BAD | WRONG], None, "probe.jsonl, row 1, line 1: the answer"),
        (
            [GOOD],
            None,
            [{**WRONG, "wrong": ["No."]}, {**WRONG, "paraphrased": "<extra1>", "wrong": ["No."]}],
            None,
            "probe.jsonl, row 2, line 2: the answer has",
        ),
        ([GOOD], None, None, LABEL, "rows.jsonl, row 1, line 1, phrase 'No <extra1>': the phrase"),
        ([GOOD], None, None, MATHS, "rows.jsonl, row 1, line 1: the prompt has"),
    ],
)
def test_all_texts_are_encoded_before_training(
    place: Workplace, rows: Any, heldout: Any, probe: Any, monitor: Any, where: str
) -> None:
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["<extra1>"])
    for name, content in (("rows", rows), ("held", heldout), ("probe", probe)):
        place.write(f"{name}.jsonl", lines_of(*content or []))
    held = "held.jsonl" if heldout else None
    facts = EvalSet("probe.jsonl", paraphrase="paraphrased", alternatives="wrong")
    data = StagedDataModule(
        {"good": Stage(source="math.jsonl"), "math": Stage(source="rows.jsonl", heldout=held)},
        forget="math",
        eval_sets={"facts": facts} if probe else None,
    )
    with pytest.raises(InputError) as caught:
        data.load_rows(tokenizer, 512, vocabulary=size)
        monitor.check(data)
    assert str(caught.value).startswith(where)
    assert f"the token '<extra1>' with id {size}, expected ids below {size}" in str(caught.value)


def test_phrases_that_do_not_fit_after_a_prompt(place: Workplace) -> None:
    rows = [GOOD, {"question": "Where? " * 20, "answer": "A"}]
    place.write("rows.jsonl", lines_of(*rows))
    data = StagedDataModule({"a": Stage(source="rows.jsonl")}, forget="a")
    phrase = "I must decline this"

    def check(room: int, **options: Any) -> None:
        data.load_rows(tiny_tokenizer(), room)
        LabelLikelihood(phrases=["No", phrase], **options).check(data)

    check(512)
    assert data.format is not None
    prompt = len(data.examples["a"][1].prompt)
    tokens = len(data.format.phrase_ids(data.rows["a"][0], phrase))
    check(prompt + tokens)
    check(prompt + tokens - 1, limit=1)
    with pytest.raises(
        InputError,
        match=rf"^LabelLikelihood: rows\.jsonl, row 2, line 2: found a prompt of {prompt} tokens "
        rf"and a phrase of {tokens}, expected at most {prompt + tokens - 1} together, the context",
    ):
        check(prompt + tokens - 1)


def test_every_truncated_answer_is_counted(place: Workplace) -> None:
    long = " and so on" * 30
    probe = [GOOD | {"other": "It's a letter." + long, "wrong": ["No.", "No" + long]}, GOOD | WRONG]
    place.write("probe.jsonl", lines_of(*({"other": "It", **row} for row in probe)))
    place.write("held.jsonl", lines_of(GOOD, GOOD | {"answer": long}))
    data = StagedDataModule(
        {"a": Stage(source="math.jsonl", heldout="held.jsonl")},
        max_length=64,
        eval_sets={"facts": EvalSet("probe.jsonl", paraphrase="other", alternatives="wrong")},
    )
    data.load_rows(tiny_tokenizer(), 512)
    found = [line for line in data.notes() if "are truncated" in line]
    end = "are truncated at 64 tokens (data.max_length)."
    assert found == [
        f"facts, paraphrases and alternatives: 2 of 6 answers {end}",
        f"a:heldout: 1 of 2 answers {end}",
    ]


def test_control_characters_of_a_name_are_escaped(place: Workplace) -> None:
    name = "a\x1b[2J\n.jsonl"
    place.write(name, lines_of(GOOD, {"question": "a"}))
    message = place.fit(f"--data.stages.math.source={name}")
    assert message.startswith(r"data.stages.math.source: a\x1b[2J\n.jsonl, row 2, line 2: found")


def test_a_folder_with_control_characters_is_refused(place: Workplace) -> None:
    folder = "runs\x1b[2J\n"
    arguments = ["--config", "config.yaml", f"--trainer.default_root_dir={folder}"]
    message = place.refused("fit", *arguments)
    assert message.startswith(
        r"trainer.default_root_dir: found 'runs\x1b[2J\n', which has a control char"
    )
