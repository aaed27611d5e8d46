"""Mistakes in the input: one clear message, exit code 2, and no file written."""

import json
import os
import shutil
from pathlib import Path

import pytest
from cli_runs import Workplace, run

from lightning_unlearn.demo import resolve

# Each line repeats the line before nine times; there are six such lines.
BOMB = b"".join(
    b"%c: &%c [%s]\n" % (97 + n, 97 + n, b", ".join([b"*%c" % (96 + n) if n else b"x"] * 9))
    for n in range(8)
)


SOURCE = "data.stages.math.source: math.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"{SOURCE}: found an empty file"),
        (
            '{"question": "a", "answer": "b"}\n{"question": "a"}\n',
            f"{SOURCE}, row 2, line 2: found",
        ),
        ('{"q": "a", "a": "b"}\n', f"{SOURCE}: found 'q', 'a' in the rows, expected the column"),
        ('{"question": "a", "answer": " "}\n', f"{SOURCE}, row 1, line 1, column 'answer': found"),
        ('{"question": "a", "answer": null}\n', f"{SOURCE}, row 1, line 1, column 'answer': found"),
        ('{"question": "a", "answer": "b"}\n{"q', f"{SOURCE}, line 2, column 2: found malformed"),
    ],
)
def test_rows_that_cannot_be_used(place: Workplace, text: str, expected: str) -> None:
    place.write("math.jsonl", text)
    assert place.fit().startswith(expected)


def test_a_file_that_is_missing(place: Workplace) -> None:
    message = place.fit("--data.stages.math.source", "maths.jsonl")
    assert message.startswith("data.stages.math.source: maths.jsonl: found no such file (")
    assert "did you mean math.jsonl" in message


def test_a_prompt_that_leaves_no_room_for_an_answer(place: Workplace) -> None:
    row = json.dumps({"question": "word " * 900, "answer": "b"})
    place.write("math.jsonl", '{"question": "a", "answer": "b"}\n' + row)
    message = place.fit()
    assert message.startswith("math.jsonl, row 2, line 2: the prompt alone has ")
    assert "512" in message and "data.max_length" in message


PATHS = [
    ("data.order: found the unknown stage 'nope', expected some of", ["--data.order=[math, nope]"]),
    ("data.order: found 'math' twice", ["--data.order", "[math, math, safety]"]),
    ("data.order: found math, expected a path with the forget stage", ["--data.order", "[math]"]),
    ("data.order: found an empty list", ["--data.order", "[]"]),
    ("data.forget: found 'nope', expected one of the stages math,", ["--data.forget", "nope"]),
    ("data.position: found 0, expected 1 to 2", ["--data.position", "0"]),
    ("data.position: found 3, expected 1 to 2", ["--data.position", "3"]),
    ("data.permutation: found 3, expected 1 to 2", ["--data.permutation", "3"]),
    (
        "data.order and data.position: found 2 keys that choose the path",
        ["--data.order", "[safety, math]", "--data.position", "1"],
    ),
]


@pytest.mark.parametrize(("expected", "arguments"), PATHS)
def test_paths_that_cannot_be_run(place: Workplace, expected: str, arguments: list[str]) -> None:
    assert place.fit(*arguments).startswith(expected)


def test_a_key_that_a_later_file_removes_is_reported_with_its_line(place: Workplace) -> None:
    place.write("empty.yaml", "data:\n  stages:\n    math:\n")
    place.write("other.yaml", "data: {stages: {math: {batch_size: 2}}}")
    message = place.fit("--config", "empty.yaml", "--config", "other.yaml")
    assert message.startswith("data.stages.math.source: found nothing, expected a file")
    assert message.endswith("(empty.yaml, line 3)")
    place.write("method.yaml", "trainer:\n  callbacks:\n  - {class_path: NPO}\n  - 3\n")
    assert place.fit("--config", "method.yaml").endswith("(method.yaml, line 4)")


def test_a_method_needs_a_forget_stage_and_the_reverse(place: Workplace) -> None:
    two = place.fit("--trainer.callbacks+=SimNPO", "--trainer.callbacks+=GA")
    assert "found 2 unlearning methods (SimNPO and GA)" in two
    assert "found no unlearning method, expected one for the forget stage" in place.fit(
        "--trainer.callbacks", "[AnswerLikelihood]"
    )
    assert place.fit("--data.forget", "null").startswith("data.forget: found null, but NPO is")
    place.edit("    - class_path: AnswerLikelihood", "    - GA\n    - AnswerLikelihood")
    assert "found 2 unlearning methods (NPO and GA)" in place.fit()


UNKNOWN = [
    (
        "trainer:",
        "sed: 1\ntrainer:",
        "sed",
        "expected one of trainer, model, data, oracle, seed_everything",
    ),
    ("trainer:", "trainer:\n  acelerator: 3", "trainer.acelerator", "did you mean accelerator?"),
    ("model:", "model:\n  bse: 3", "model.bse", "did you mean base?"),
    ("    rank: 4", "    rnk: 4", "model.lora.rnk", "did you mean rank?"),
    ("data:", "data:\n  odrer: 3", "data.odrer", "did you mean order?"),
    ("      lr: 1", "      lrr: 1", "data.stages.math.lrr", "did you mean lr?"),
    ("    lr: 2", "    rate: 2", "data.unlearn.rate", "expected one of lr, epochs, steps"),
    ("{beta: 0.5}", "{betta: 0.5}", "NPO.betta", "did you mean beta?"),
]


@pytest.mark.parametrize(("old", "new", "key", "advice"), UNKNOWN)
def test_an_unknown_key_of_a_file(
    place: Workplace, old: str, new: str, key: str, advice: str
) -> None:
    place.edit(old, new)
    message = place.fit()
    assert message.startswith(f"{key}: found an unknown key, {advice}")
    line = place.line(f"{key.rsplit('.')[-1]}:")
    assert message.endswith(f" ({line})")


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("--nope", "expected one of trainer"),
        ("--trainer.sto", "did you mean store?"),
        ("--model.lora.rnk", "did you mean rank?"),
        ("--data.stages.math.lrr", "did you mean lr?"),
    ],
)
def test_an_unknown_key_of_the_command_line(place: Workplace, flag: str, advice: str) -> None:
    message = place.fit(flag, "1")
    assert message.startswith(f"{flag[2:]}: found an unknown key, {advice}")
    assert "line" not in message


def test_an_unknown_argument_of_the_class_added_last(place: Workplace) -> None:
    message = place.fit("--trainer.callbacks+=SimNPO", "--trainer.callbacks.betta", "2")
    assert message == "SimNPO.betta: found an unknown key, did you mean beta?"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("max_epochs", "data.stages.STAGE.epochs"),
        ("accumulate_grad_batches", "data.stages.STAGE.batch_size and data.micro_batch_size"),
        ("gradient_clip_val", "data.stages.STAGE.gradient_clip"),
        ("seed", "seed_everything"),
    ],
)
def test_arguments_that_a_recipe_replaces(place: Workplace, name: str, advice: str) -> None:
    expected = f"trainer.{name}: this key is not supported; set {advice} instead."
    assert place.fit(f"--trainer.{name}", "3") == expected
    place.edit("trainer:\n", f"trainer:\n  {name}: 3\n")
    assert place.fit() == f"{expected} ({place.line(f'  {name}: 3')})"


TYPES = [
    ("data.stages.math.lr", "abc", "found 'abc', expected a number"),
    ("data.stages.math.lr", "-1", "found -1.0, expected a positive number"),
    ("data.stages.math.lr", ".nan", "found nan, expected a finite number"),
    ("data.stages.math.batch_size", "1.5", "found 1.5, expected an integer"),
    ("data.stages.math.batch_size", "true", "found true, expected an integer"),
    ("data.stages.math.epochs", "0", "found 0, expected at least 1"),
    ("data.stages.math.steps", "0", "found 0, expected at least 1"),
    ("data.stages.math.schedule", "abc", "found 'abc', expected one of wsd, cosine, constant"),
    ("data.unlearn", "3", "found 3, expected keys and values"),
    ("data.order", "math", "found 'math', expected a list or null"),
    ("data.unlearn.betas", "[1]", "found a list, expected a list of 2 values"),
    ("model.lora", "3", "found 3, expected keys and values or null"),
    ("model.lora.rank", "many", "found 'many', expected an integer"),
    ("model.lora.rank", "0", "found 0, expected at least 1"),
    ("model.quantization", "int8", "found 'int8', expected nf4 or null"),
    ("model.quantization", "4", "found 4, expected nf4 or null"),
    ("model.save_merged", "3", "found 3, expected true or false"),
    ("trainer.logger", "3", "found 3, expected true or false or a Logger"),
    ("seed_everything", "true", "found true, expected an integer"),
    ("seed_everything", "1.5", "found 1.5, expected an integer"),
    ("seed_everything", "abc", "found 'abc', expected an integer"),
    ("seed_everything", "-1", "found -1, expected 0 to 4294967295"),
    ("trainer.accelerator", "abacus", "invalid accelerator name"),
    ("trainer.precision", "7-bit", "Precision '7-bit' is invalid"),
    ("trainer.strategy", "wish", "invalid strategy name"),
    ("trainer.strategy", "ddp_spawn", "Set trainer.strategy to ddp"),
    ("trainer.devices", "-3", "should be an int > 0"),
    (
        "data.max_length",
        "100000",
        "found 100000, expected at most 512, the context of demo:tiny-llama",
    ),
    ("data.max_length", "1", "found 1, expected at least 2"),
    ("model.lora.target_modules", "[nope]", "found 'nope', which matches no layer"),
    ("model.lora.target_modules", "nope", "found 'nope'"),
]


@pytest.mark.parametrize(("key", "value", "expected"), TYPES)
def test_wrong_values(place: Workplace, key: str, value: str, expected: str) -> None:
    message = place.fit(f"--{key}", value)
    assert message.startswith(f"{key}: ") and expected in message
    assert "line" not in message.replace("linear", "")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("lr: 1.0e-3", "lr: abc", "data.stages.math.lr"),
        ("lr: 1.0e-3", "lr: .nan", "data.stages.math.lr"),
        ("lr: 2.0e-4", "lr: -1", "data.unlearn.lr"),
        ("beta: 0.5", "beta: big", "NPO.beta"),
        ("rank: 4", "rank: big", "model.lora.rank"),
        ("accelerator: cpu", "accelerator: big", "trainer.accelerator"),
        ("accelerator: cpu", "run_name: 3", "trainer.run_name"),
        ("seed_everything: 0", "seed_everything: 2024-01-01", "seed_everything"),
    ],
)
def test_wrong_values_of_a_file_are_reported_with_their_line(
    place: Workplace, old: str, new: str, key: str
) -> None:
    place.edit(old, new)
    message = place.fit()
    assert message.startswith(f"{key}: ")
    assert message.endswith(f" ({place.line(new)})")


def test_the_line_is_that_of_the_last_file_with_the_key(place: Workplace) -> None:
    place.write("b.yaml", "data:\n  unlearn:\n    lr: abc\n")
    message = place.fit("--config", "b.yaml")
    assert message == "data.unlearn.lr: found 'abc', expected a number. (b.yaml, line 3)"


def test_values_that_a_class_refuses(place: Workplace) -> None:
    message = place.fit("--trainer.callbacks+=NPO", "--trainer.callbacks.beta", "-1")
    assert message == "NPO.beta: found -1.0, expected a positive number."


def test_classes_that_cannot_be_found(place: Workplace) -> None:
    ours = (
        "AnswerLikelihood, AnswerStatistics, GA, LabelLikelihood, MathAccuracy, Membership, "
        "Memorization, ModelStateArithmetic, NPO, NegationThenReplay, OracleDistance, Replay, "
        "Rewind, SimNPO, Splice, StageNegation, TOFU, TaskNegation, or module.Class"
    )
    assert place.fit("--trainer.callbacks+=Nope").startswith(
        f"trainer.callbacks: found 'Nope', expected {ours}"
    )
    assert "but there is no module nowhere here" in place.fit("--trainer.callbacks+=nowhere.Nope")
    place.write("mine_broken.py", "1 / 0")
    place.write("mine_other.py", "class Other: ...")
    for name, reason in {
        "mine_broken.A": "but importing mine_broken fails with ZeroDivisionError: division by zero",
        "mine_other.A": "but the module mine_other has no A",
        "mine_other.Other": "which is not a Callback",
    }.items():
        found = f"trainer.callbacks: found '{name}', {reason}"
        assert place.fit(f"--trainer.callbacks+={name}").startswith(found)
    place.edit("class_path: NPO", "class_path: Nope")
    message = place.fit()
    assert message.startswith("trainer.callbacks: found 'Nope', expected")
    assert message.endswith(f" ({place.line('class_path: Nope')})")


def test_a_misspelt_class_path(place: Workplace) -> None:
    place.edit("class_path: NPO", "class_pth: NPO")
    message = place.fit()
    assert message.startswith("trainer.callbacks: found the unknown key 'class_pth', did you mean")
    assert message.endswith(f" ({place.line('class_pth')})")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: 1\nb: 2\na: 3\n", "bad.yaml, line 3: found the key 'a' again (first in line 1)"),
        (b"a: 1\nb: None\n", "bad.yaml, line 2: found None, which YAML reads as text; write null"),
        (b"a: 1\nb: [1\nc: 2\n", "bad.yaml, line 3: found invalid YAML"),
        (b"a: b: c\n", "bad.yaml, line 1: found invalid YAML"),
        (b"a: *nope\n", "bad.yaml, line 1: found invalid YAML: found undefined alias 'nope'"),
        (b"? [a]\n: b\n", "bad.yaml, line 1: found a list or mapping as a key"),
        (b"a: 1\n2: b\n", "bad.yaml, line 2: found the key 2, which YAML does not read as text;"),
        (b"a:\n  null: b\n", "bad.yaml, line 2: found the key null, which YAML does not read as"),
        (b"a: &b [*b]\n", "bad.yaml, line 1: found an alias inside the value that it refers to."),
        (
            b"a: " + b"[" * 10000,
            "bad.yaml, line 1: found more than 100 nested levels, expected fewer.",
        ),
        (b"{a: " * 10000, "bad.yaml, line 1: found more than 100 nested levels, expected fewer."),
        (
            BOMB,
            "bad.yaml, line 6: found more than 100000 values (with expanded aliases), expected",
        ),
        (
            b"a: !!binary aGk=\n",
            "bad.yaml: found a value that is not text, a number, a list or a mapping",
        ),
        (b"a: \xff\n", "--config: found 'bad.yaml', which can't be read: not UTF-8 text"),
        (b"- a\n- b\n", "bad.yaml: found a list, expected keys and values"),
        (b"just text\n", "bad.yaml: found a single value, expected keys and values"),
        (b"", "bad.yaml: found nothing, expected keys and values"),
    ],
)
def test_files_that_are_not_a_configuration(place: Workplace, text: bytes, expected: str) -> None:
    place.write("bad.yaml", text)
    assert place.fit("--config", "bad.yaml").startswith(expected)
    place.write("study.yaml", text)
    assert place.study().startswith(expected.replace("bad.yaml", "study.yaml"))


def test_files_that_cannot_be_opened(place: Workplace) -> None:
    os.mkfifo("pipe")
    assert place.fit("--config", "pipe") == "--config: found 'pipe', expected a regular file."
    assert place.fit("--config", "a\0b").endswith("a file name cannot contain a null character.")
    assert place.fit("--config", "x" * 300).endswith("which can't be read: File name too long.")
    reason = "which can't be read: No such file or directory."
    assert place.fit("--config", "no.yaml") == f"--config: found 'no.yaml', {reason}"
    assert place.fit("--config=.") == "--config: found '.', which can't be read: Is a directory."
    assert place.fit("--config") == "--config: found nothing after it, expected a YAML file."


def test_commands_without_what_they_need(place: Workplace) -> None:
    for command in ("fit", "validate", "study"):
        message = place.refused(command)
        assert message.startswith(f"{command}: found no configuration, expected --config FILE")
    message = place.refused("fti", "--config", "config.yaml")
    assert message.startswith("found the command 'fti', expected one of fit, validate, study, stat")
    assert place.fit("stray") == "found the argument 'stray', expected --KEY VALUE."
    assert place.fit("--data.order") == "--data.order: found nothing after it, expected a value."
    place.write("empty.yaml", "seed_everything: 1")
    for command in ("fit", "validate"):
        message = place.refused(command, "--config", "empty.yaml")
        assert message == "model.base: found nothing, expected text."
    message = place.refused("fit", "--model.base", "demo:tiny-llama")
    assert message == "data.stages: found nothing, expected keys and values."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found './model', which is not a folder, expected a Hugging Face model folder"),
        ({}, "found the folder ./model without config.json"),
        ({"config.json": "{"}, "model/config.json: found invalid JSON"),
        ({"config.json": "{}"}, "whose configuration can't be loaded: Unrecognized model"),
        ({"config.json": '{"model_type": "llama"}'}, "without model.safetensors and without"),
    ],
)
def test_bases_that_are_not_a_model(
    place: Workplace, content: dict[str, str] | None, expected: str
) -> None:
    if content is not None:
        Path("model").mkdir()
        for name, text in content.items():
            place.write(f"model/{name}", text)
    message = place.fit("--model.base", "./model")
    assert message.startswith("model.base: ") and expected in message
    assert "which is not an embedded model" in place.fit("--model.base", "demo:nope")


def test_a_tokenizer_without_chat_template(place: Workplace) -> None:
    shutil.copytree(resolve("demo:tiny-llama"), "plain")
    Path("plain/chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads(Path("plain/tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    place.write("plain/tokenizer_config.json", json.dumps(settings))
    message = place.fit("--model.base", "./plain")
    assert (
        message.startswith("./plain has no chat template") and "data.chat_template_from" in message
    )


def test_batches_that_cannot_be_divided(place: Workplace) -> None:
    message = place.fit("--data.micro_batch_size", "3")
    assert message.startswith("data.stages.math.batch_size: found 8, which is not divisible by ")
    assert "data.micro_batch_size 3" in message
    assert message.endswith(f"({place.line('batch_size: 8').replace('24', '18')})")


def test_folders_that_are_files(place: Workplace) -> None:
    place.write("file", "")
    store = place.fit("--trainer.store", "file")
    assert store == "trainer.store: found file, a file, expected a folder."
    root = place.fit("--trainer.default_root_dir", "file", "--trainer.store", "store")
    assert root.startswith("trainer.default_root_dir: found file/")


def test_validate_needs_a_stored_model_and_monitors(place: Workplace) -> None:
    assert place.validate().startswith("stage: found unlearn, but ")
    assert "has no model of this path" in place.validate("--stage", "math")
    expected = "stage: found 'nope', expected one of base, math, safety, unlearn."
    assert place.validate("--stage", "nope") == expected
    without = place.validate("--trainer.callbacks", "[NPO]")
    assert without.startswith("trainer.callbacks: found no monitor")
    assert place.fit("--stage", "math").startswith("stage: found an unknown key")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit"], "error: fit: found no configuration"),
        pytest.param(
            ["fit", "--config", "config.yaml", "--data.unlearn.lr", "abc"],
            "error: data.unlearn.lr: ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_message_of_a_child_process(
    place: Workplace, arguments: list[str], expected: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(expected) and done.stderr.count("\n") == 1
