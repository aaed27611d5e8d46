"""Mistakes in a study file or its command line: one message, code 2, nothing written."""

import pytest
from cli_runs import CONFIG, STUDY, Workplace

STUDIES = [
    ("callback: GA", "callback: Nope", "methods.GA.callback: found 'Nope', expected GA, "),
    ("callback: GA", "callback: AnswerLikelihood", "methods.GA.callback: found 'AnswerLikelihood'"),
    ("callback: GA", "callbck: GA", "methods.GA.callbck: found an unknown key, did you mean call"),
    ("callback: GA", "unlearn: {lr: 1}", "methods.GA.callback: found nothing, expected an Unlearn"),
    ("beta: 0.5", "betta: 0.5", "NPO.betta: found an unknown key, did you mean beta?"),
    ("beta: 0.5", "beta: -1", "methods.NPO: NPO.beta: found -1.0, expected a positive number."),
    ("GA\n", "GA\n    unlearn: {lrr: 1}\n", "methods.GA.unlearn.lrr: found an unknown key, did"),
    ("GA\n", "GA\n    unlearn: {lr: abc}\n", "methods.GA.unlearn.lr: found 'abc', expected a num"),
    ("GA\n", "GA\n    unlearn: {lr: -1}\n", "methods.GA.unlearn.lr: found -1.0, expected a posit"),
    ("GA\n", "GA\n    unlearn: 3\n", "methods.GA.unlearn: found 3, expected keys and values"),
    ("GA:", "G/A:", "methods: found the label 'G/A', expected letters, digits and"),
    (
        "GA:",
        "oracle:",
        "methods: found the label 'oracle', which is reserved for models retrained without the "
        "forget stage. Choose another label.",
    ),
    ("paths: positions", "paths: sideways", "paths: found 'sideways', expected one of positions"),
    ("paths: positions", "paths: [[math, nope]]", "paths: found the unknown stage 'nope'"),
    (
        "paths: positions",
        "paths: [[math]]",
        "paths: found math, expected a path with the forget stage",
    ),
    ("paths: positions", "paths: []", "paths: found an empty list"),
    ("paths: positions", "nope: 3", "nope: found an unknown key, expected one of fit, methods"),
    ("config.yaml", "no.yaml", "fit: found 'no.yaml', which can't be read"),
    ("config.yaml", "3", "fit: found 3, expected text or a list or keys and values."),
    ("paths:", "overrides: {data: {nope: 3}}\npaths:", "overrides.data.nope: found an unknown key"),
    (
        "paths:",
        "overrides: {data: null}\npaths:",
        "overrides.data: found null, expected keys and values",
    ),
    (
        "paths:",
        "overrides: {data: {stages: {math: {lr: -1}}}}\npaths:",
        "overrides.data.stages.math.lr: ",
    ),
    (
        "paths:",
        "overrides: {trainer: {max_steps: 3}}\npaths:",
        "overrides.trainer.max_steps: this key is not supported",
    ),
    ("paths: positions", "paths: null", "paths: found null, expected one of positions, permutat"),
    ("paths:", "overrides: null\npaths:", "overrides: found null, expected keys and values"),
    ("beta: 0.5", "beta: .nan", "NPO.beta: found nan, expected a finite number"),
    (
        "GA:",
        "Report:",
        "methods: found the label 'Report', which is the name of a folder or file",
    ),
    ("GA:", "records.parquet:", "methods: found the label 'records.parquet', which is the na"),
    ("GA:", "divergence:", "methods: found the label 'divergence', which is the name of a"),
    ("GA:", f"{'G' * 300}:", "methods: found a name of 300 bytes (GGGGGG"),
]


@pytest.mark.parametrize(("old", "new", "expected"), STUDIES)
def test_mistakes_of_a_study_file(place: Workplace, old: str, new: str, expected: str) -> None:
    place.edit(old, new, "study.yaml")
    message = place.study()
    assert message.startswith(expected)
    assert "study.yaml, line " in message


def test_a_study_without_methods(place: Workplace) -> None:
    place.write("study.yaml", "fit: config.yaml\nmethods: {}\n")
    message = "methods: found none, expected at least one unlearning method."
    assert place.study() == f"{message} (study.yaml, line 2)"
    place.write("study.yaml", "fit: config.yaml\n")
    assert place.study() == "methods: found nothing, expected keys and values."
    place.write("study.yaml", "methods: {GA: {callback: GA}}\n")
    assert place.study() == "fit: found nothing, expected text or a list or keys and values."


TOO_LARGE = "expected 0 to 4294967295."


KEYS = [
    ("seeds: []", "seeds: found an empty list, expected at least one seed."),
    ("seeds: [1, 2, 1]", "seeds: found 1 twice, expected each seed once."),
    ("seeds: [-1]", f"seeds: found -1, {TOO_LARGE}"),
    ("seeds: [4294967296]", f"seeds: found 4294967296, {TOO_LARGE}"),
    ("seeds: [a]", "seeds: found 'a', expected an integer."),
    ("seeds: [1.5]", "seeds: found 1.5, expected an integer."),
    ("seeds: [true]", "seeds: found true, expected an integer."),
    ("seeds: 3", "seeds: found 3, expected a list or null."),
    ("oracle: 3", "oracle: found 3, expected true or false."),
    ("workers: -1", "workers: found -1, expected 0 or more."),
    ("workers: many", "workers: found 'many', expected an integer."),
    ("gpus_per_worker: -1", "gpus_per_worker: found -1, expected 0 or more."),
    ("cpus_per_worker: 0", "cpus_per_worker: found 0, expected 1 or more."),
    ("ray: 3", "ray: found 3, expected text or null."),
    (
        "workers: 2\nray: auto",
        "workers: found 2 and ray auto, expected one of the two. Set workers to 0, or ray to null.",
    ),
]


@pytest.mark.parametrize(("text", "message"), KEYS)
def test_wrong_values_of_a_study_file(place: Workplace, text: str, message: str) -> None:
    place.write("study.yaml", f"{STUDY}{text}\n")
    assert place.study() == f"{message} ({place.line(text.split()[0], 'study.yaml')})"


CALLED = "keys of the fit configuration, each with a list of values."


ADVICE = {
    "seed_everything": "seeds",
    "trainer.seed": "seeds",
    "data.order": "paths",
    "data.position": "paths",
    "data.permutation": "paths",
    "data.oracle": "oracle",
    "data.forget": "one study per forget stage",
    "trainer.run_name": "folder",
    "trainer.default_root_dir": "folder",
    "trainer.store": "overrides.trainer.store",
}


SWEEPS = [
    ("null", "", f"found null, expected {CALLED}"),
    ("3", "", f"found 3, expected {CALLED}"),
    ("[data.unlearn.lr]", "", f"found a list, expected {CALLED}"),
    ("[]", "data.unlearn.lr", "found an empty list, expected at least one value."),
    ("0.1", "data.unlearn.lr", "found 0.1, expected a list of values."),
    ("null", "data.unlearn.lr", "found null, expected a list of values."),
    ("abc", "data.unlearn.lr", "found 'abc', expected a list of values."),
    ("[0.1, 0.2, 1e-1]", "data.unlearn.lr", "found 0.1 twice, expected each value once."),
    ("[1, 1.0]", "data.unlearn.lr", "found 1.0 twice, expected each value once."),
    ("[null]", "data.unlearn.lr", "found null, expected a number."),
    ("[0.1, abc]", "data.unlearn.lr", "found 'abc', expected a number."),
    ("[0.1, -1]", "data.unlearn.lr", "found -1.0, expected a positive number."),
    ("[[1]]", "data.unlearn.lr", "found a list, expected a number."),
    (
        "[0]",
        "model.lora.rank",
        "found 0, expected at least 1. To train all weights instead of adapters, set model.lora: "
        "null.",
    ),
    ("[1]", "data.unlearn.lrr", "found an unknown key, did you mean lr?"),
    ("[1]", "data.unlern.lr", "data.unlern: found an unknown key, did you mean unlearn?"),
    ("[1]", "dta.unlearn.lr", "dta: found an unknown key, did you mean data?"),
    ("[1]", "data.unlearn.lr.x", "data.unlearn.lr: found keys and values, expected a number."),
    ("[{lrr: 1}]", "data.unlearn", "data.unlearn.lrr: found an unknown key, did you mean lr?"),
    (
        "[1]",
        "trainer.callbacks.beta",
        "GA.beta: found an unknown key, expected one of retain_weight, retain_loss.",
    ),
    (
        "[1]",
        "trainer.max_steps",
        "this key is not supported; set data.stages.STAGE.steps instead.",
    ),
    (
        "[8, 7]\n  data.micro_batch_size: [2]",
        "data.stages.math.batch_size",
        "found 7, which is not divisible by 1 process(es) x data.micro_batch_size 2 = 2. Choose a "
        "multiple of 2, such as 6 or 8, or another micro-batch size.",
    ),
    *(
        ("[1]", key, f"{key} cannot be swept. Use {instead} instead.")
        for key, instead in ADVICE.items()
    ),
    ("[1]", "data.order.more", "data.order cannot be swept. Use paths instead."),
]


@pytest.mark.parametrize(("values", "key", "message"), SWEEPS)
def test_wrong_sweeps(place: Workplace, values: str, key: str, message: str) -> None:
    if not key:
        place.write("study.yaml", f"{STUDY}sweep: {values}\n")
        assert place.study() == f"sweep: {message} (study.yaml, line 8)"
        return
    place.write("study.yaml", f"{STUDY}sweep:\n  {key}: {values}\n")
    assert place.study() == f"sweep.{key}: {message} (study.yaml, line 9)"


IN_OTHER_PLACES = [case for case in SWEEPS if "\n" not in case[0]][3::6]


@pytest.mark.parametrize(("values", "key", "message"), IN_OTHER_PLACES)
def test_sweeps_in_other_places(place: Workplace, values: str, key: str, message: str) -> None:
    """Nested keys have their own line; keys of the command line have no line."""
    *outer, last = key.split(".")
    nested = "".join(f"{'  ' * (depth + 1)}{part}:\n" for depth, part in enumerate(outer))
    end = f"{'  ' * (len(outer) + 1)}{last}: {values}\n"
    place.write("study.yaml", f"{STUDY}sweep:\n{nested}{end}")
    assert place.study() == f"sweep.{key}: {message} (study.yaml, line {9 + len(outer)})"
    place.write("study.yaml", STUDY)
    assert place.study(f"--sweep.{key}", values) == f"sweep.{key}: {message}"


def test_a_swept_file_that_is_missing(place: Workplace) -> None:
    message = place.study("--sweep.data.stages.math.source", "[math.jsonl, no.jsonl]")
    assert message.startswith("sweep.data.stages.math.source: no.jsonl: found no such file (")


def test_a_swept_argument_that_the_method_refuses(place: Workplace) -> None:
    place.write("study.yaml", "fit: config.yaml\nmethods:\n  NPO: {callback: NPO}\n")
    message = place.study("--sweep.trainer.callbacks.beta", "[1, -1]")
    expected = "NPO.beta: found -1.0, expected a positive number."
    assert message == f"sweep.trainer.callbacks.beta: {expected}"


def test_swept_values_that_contradict_each_other(place: Workplace) -> None:
    message = place.study(
        *("--sweep.data.unlearn.warmup", "[0.1, 0.6]", "--sweep.data.unlearn.decay", "[0.1, 0.6]")
    )
    assert message == (
        "sweep: warmup = 0.6, decay = 0.6: data.unlearn.warmup: found 0.6, expected warmup + decay "
        "(here 0.6) of at most 1."
    )


@pytest.mark.parametrize(("key", "values"), [("data.unlearn.lr", "[1]"), ("data.unlearn", "[{}]")])
def test_a_swept_key_that_a_method_sets_too(place: Workplace, key: str, values: str) -> None:
    place.edit("callback: GA\n", "callback: GA\n    unlearn: {lr: 1}\n", "study.yaml")
    message = place.study(f"--sweep.{key}", values)
    assert (
        message == f"sweep.{key}: methods.GA.unlearn.lr sets the same key. Remove one of the two."
    )


def test_a_mistake_of_a_method_is_not_reported_for_the_sweep(place: Workplace) -> None:
    place.edit("callback: GA\n", "callback: GA\n    unlearn: {epochs: 0}\n", "study.yaml")
    message = place.study("--sweep.data.unlearn.lr", "[1]")
    assert message.startswith("methods.GA.unlearn.epochs: found 0, expected at least 1: a stage of")
    assert message.endswith("(study.yaml, line 6)")


def test_mistakes_of_a_fit_configuration_inside_the_study_file(place: Workplace) -> None:
    inside = "".join(f"  {line}\n" for line in CONFIG.splitlines())
    place.write("study.yaml", f"fit:\n{inside}{STUDY.partition(chr(10))[2]}")
    place.edit("lr: 2.0e-4", "lr: abc", "study.yaml")
    expected = "data.unlearn.lr: found 'abc', expected a number."
    assert place.study() == f"{expected} ({place.line('lr: abc', 'study.yaml')})"


@pytest.mark.parametrize("arguments", [["--only"], ["--only="], ["--dry-run", "--only"]])
def test_only_without_conditions(place: Workplace, arguments: list[str]) -> None:
    assert place.study(*arguments) == "--only: found no value, expected KEY=VALUE,..."


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_conditions_that_no_trial_fulfills(place: Workplace, dry: list[str]) -> None:
    assert place.study(*dry, "--only", "path=9") == (
        "--only: found path=9, expected one of 1, 2, math-safety, safety-math."
    )
    assert place.study(*dry, "--only=lr=1") == (
        "--only: found 'lr=1', expected KEY=VALUE with a key of path, position, method, seed."
    )


def test_mistakes_of_the_fit_configuration_of_a_study(place: Workplace) -> None:
    place.edit("lr: 2.0e-4", "lr: abc")
    message = "data.unlearn.lr: found 'abc', expected a number."
    assert place.study() == f"{message} ({place.line('lr: abc')})"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--methods.GA.unlearn.lrr", "1"],
            "methods.GA.unlearn.lrr: found an unknown key, did you",
        ),
        (["--methods.GA.callback", "Nope"], "methods.GA.callback: found 'Nope', expected GA"),
        (["--methods.NPO.callback.beta", "-1"], "methods.NPO: NPO.beta: found -1.0"),
        (
            ["--overrides.data.unlearn.lr", "abc"],
            "overrides.data.unlearn.lr: found 'abc', expected a num",
        ),
        (["--dryrun"], "--dryrun: found an unknown option, did you mean --dry-run?"),
        (
            ["--dry_run", "--oracle", "true"],
            "--dry_run: found an unknown option, did you mean --dry",
        ),
        (["--dry-run=1"], "--dry-run: found a value, expected none."),
        (["--workers", "1e20"], "workers: found 1e+20, expected an integer."),
        (
            ["--workers", f"1{'0' * 20}"],
            "workers: found 100000000000000000000, which is too large.",
        ),
        (["--workers", "100000"], "workers: found 100000, expected at most 4096."),
        (["--folder", ""], "folder: found '', expected the name of a folder."),
        (["--name", " "], "name: found ' ', expected a name, or null for the file's."),
        (["--paths", "[" * 10000], f"paths: found '{'[' * 100}'..., expected"),
        (["--overrides.data.forget", "null"], "paths: found positions with data.forget null"),
        (["--overrides", "3"], "overrides: found 3, expected keys and values"),
        (["--data.position", "1"], "data: found an unknown key, expected one of fit, methods"),
        (
            ["--print_config"],
            "--print_config: found an unknown option, expected an option of study.",
        ),
        (["stray"], "found the argument 'stray', expected --KEY VALUE."),
    ],
)
def test_mistakes_of_a_study_command_line(
    place: Workplace, arguments: list[str], expected: str
) -> None:
    assert place.study(*arguments).startswith(expected)
