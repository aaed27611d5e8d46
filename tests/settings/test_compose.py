"""Configuration files: how they are read, merged, and changed by the command line."""

from pathlib import Path
from typing import Any

import pytest
from cli_runs import CONFIG, Workplace, make_workplace

from lightning_unlearn import GA, NPO, InputError, SimNPO
from lightning_unlearn.cli.main import main
from lightning_unlearn.cli.study import read_study, to_spec
from lightning_unlearn.monitors import AnswerLikelihood, LabelLikelihood
from lightning_unlearn.settings.compose import merge, read_arguments, set_key
from lightning_unlearn.settings.strict_yaml import line_of, read_yaml


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)


def read(text: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "a.yaml").write_text(text)
    return read_yaml(tmp_path / "a.yaml")


def test_values_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "a: 1e-5\nb: 2.0E+3\nc: 2024-01-01\nd: null\ne: 'None'\nf: .5e1\ng: 1_0e"
    assert read(text, tmp_path) == {
        "a": 1e-5,
        "b": 2000.0,
        "c": "2024-01-01",
        "d": None,
        "e": "None",
        "f": 5.0,
        "g": "1_0e",
    }


def test_anchors_and_merge_keys_are_not_duplicates(tmp_path: Path) -> None:
    text = "a: &common {lr: 1, epochs: 2}\nb:\n  <<: *common\n  lr: 3"
    assert read(text, tmp_path)["b"] == {"lr": 3, "epochs": 2}


def test_a_later_file_changes_only_what_it_names() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 5}}
    assert merge(base, {"a": {"b": 2}}) == {"a": {"b": 2, "c": [1, 2]}, "d": {"e": 5}}
    assert merge(base, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 5}}


def test_another_class_replaces_the_arguments_too() -> None:
    base = {"callback": {"class_path": "NPO", "init_args": {"beta": 1}}}
    same = merge(base, {"callback": {"class_path": "NPO", "init_args": {"beta": 2}}})
    assert same["callback"]["init_args"] == {"beta": 2}
    other = {"callback": {"class_path": "GA"}}
    assert merge(base, other) == other


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("a.b", {"a": {"b": 9}, "list": ["NPO"]}),
        ("new.key", {"a": {"b": 1}, "list": ["NPO"], "new": {"key": 9}}),
        ("list+", {"a": {"b": 1}, "list": ["NPO", 9]}),
        ("a.c+", {"a": {"b": 1, "c": [9]}, "list": ["NPO"]}),
        (
            "list.beta",
            {"a": {"b": 1}, "list": [{"class_path": "NPO", "init_args": {"beta": 9}}]},
        ),
    ],
)
def test_the_command_line_changes_one_value(keys: str, expected: Any) -> None:
    content = {"a": {"b": 1}, "list": ["NPO"]}
    assert set_key(content, keys.split("."), 9) == expected
    assert content == {"a": {"b": 1}, "list": ["NPO"]}


def test_arguments_are_keys_and_values() -> None:
    given = ["--a", "1", "--b=2", "--print_config", "--c", "-3", "--d=", "--e.help"]
    expected = [("a", "1"), ("b", "2"), ("print_config", None), ("c", "-3"), ("d", "")]
    assert list(read_arguments(given)) == [*expected, ("e.help", None)]
    with pytest.raises(InputError, match=r"^found the argument 'stray', expected --KEY VALUE"):
        list(read_arguments(["--a", "1", "stray"]))


def test_the_line_of_a_value(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a:\n  x.y: 1\n  list:\n    - p\n    - q: 3\n")
    lines = {("a",): 1, ("a", "x", "y"): 2, ("a", "list", 0): 4, ("a", "list", 1, "q"): 5}
    for path, line in lines.items():
        assert line_of(tmp_path / "a.yaml", path) == line
    assert line_of(tmp_path / "a.yaml", ("a", "z")) is None
    assert line_of(tmp_path / "a.yaml", ("a", "list", 7)) is None


def test_a_second_file_changes_one_key_of_one_stage(place: Workplace) -> None:
    place.write("b.yaml", "data: {stages: {math: {lr: 0.5}, safety: {source: other.jsonl}}}")
    data = place.parse("--config", "b.yaml").datamodule
    assert list(data.stages) == ["math", "safety"]
    assert (data.stages["math"].lr, data.stages["math"].source) == (0.5, "math.jsonl")
    assert (data.stages["safety"].source, data.stages["safety"].batch_size) == ("other.jsonl", 8)
    assert data.unlearn.lr == 2e-4


def test_the_command_line_overrides_files_before_and_after_it(place: Workplace) -> None:
    place.write("b.yaml", "data: {stages: {math: {lr: 0.5}}}")
    first = ["--data.stages.math.lr", "1e-4", "--config", "b.yaml"]
    last = ["--config=b.yaml", "--data.stages.math.lr=1e-4"]
    for arguments in (first, last):
        math = place.parse(*arguments).datamodule.stages["math"]
        assert (math.lr, math.batch_size, math.source) == (1e-4, 8, "math.jsonl")


def test_keys_of_every_depth_are_set_from_the_command_line(place: Workplace) -> None:
    place.edit("    rank: 4", "    rank: 4\n    alpha: 7")
    cli = place.parse(
        *("--data.order", "[safety,math]", "--data.unlearn.lr", "5e-4"),
        *("--data.stages.math.epochs", "3", "--model.lora.rank", "2", "--seed_everything", "5"),
    )
    assert cli.datamodule.path == ("safety", "math")
    assert (cli.datamodule.unlearn.lr, cli.datamodule.unlearn.batch_size) == (5e-4, 8)
    assert (cli.datamodule.stages["math"].epochs, cli.datamodule.stages["math"].lr) == (3, 1e-3)
    assert cli.model.settings.lora is not None
    assert (cli.model.settings.lora.rank, cli.model.settings.lora.alpha) == (2, 7)
    assert cli.trainer.seed == 5
    assert place.parse("--model.lora", "null").model.settings.lora is None


def test_a_method_of_the_command_line_replaces_the_method_of_the_file(place: Workplace) -> None:
    trainer = place.parse("--trainer.callbacks+=SimNPO", "--trainer.callbacks.beta", "2").trainer
    (method,) = trainer.run_callbacks.methods
    assert isinstance(method, SimNPO) and method.beta == 2
    assert [type(monitor) for monitor in trainer.monitors] == [AnswerLikelihood]


def test_a_method_of_the_command_line_replaces_a_single_callback(
    place: Workplace,
) -> None:
    start, end = "  callbacks:\n", "model:\n"
    text = Path("config.yaml").read_text()
    head, rest = text.split(start)
    place.write("config.yaml", f"{head}  callbacks: NPO\n{end}{rest.split(end)[1]}")
    (method,) = place.parse("--trainer.callbacks+=GA").trainer.run_callbacks.methods
    assert isinstance(method, GA)
    trainer = place.parse("--trainer.callbacks+=LabelLikelihood").trainer
    assert [type(c) for c in (*trainer.run_callbacks.methods, *trainer.monitors)] == [
        NPO,
        LabelLikelihood,
    ]


def test_a_monitor_of_the_command_line_is_added_to_those_of_the_file(place: Workplace) -> None:
    arguments = ["--trainer.callbacks+=LabelLikelihood", "--trainer.callbacks.every_n_steps", "3"]
    trainer = place.parse(*arguments).trainer
    (method,) = trainer.run_callbacks.methods
    assert isinstance(method, NPO) and method.beta == 0.5
    first, second = trainer.monitors
    assert isinstance(first, AnswerLikelihood) and isinstance(second, LabelLikelihood)
    assert second.every_n_steps == 3


def test_the_stored_configuration_parses_to_itself(place: Workplace) -> None:
    text = place.parse("--trainer.callbacks+=SimNPO", "--data.stages.math.lr", "0.5").config_text()
    place.write("config.yaml", text)
    assert place.parse().config_text() == text


METHODS = "methods: {GA: {callback: GA}}\n"


def test_paths_of_a_study_file_are_relative_to_its_folder(place: Workplace) -> None:
    Path("deep").mkdir()
    place.write("deep/fit.yaml", CONFIG)
    place.write("deep/more.yaml", "data: {unlearn: {lr: 0.5}}")
    place.write("deep/study.yaml", f"fit: [fit.yaml, more.yaml]\n{METHODS}")
    place.write("later.yaml", "overrides: {data: {unlearn: {epochs: 7}}}\nfolder: out\n")
    _, fits, fit = read_study(["deep/study.yaml", "later.yaml"], [])
    assert fits == ["deep/fit.yaml", "deep/more.yaml"]
    assert fit["data"]["unlearn"] == {"lr": 0.5, "batch_size": 8, "epochs": 7}
    wanted, fits, _ = read_study(["deep/study.yaml"], ["--fit", "config.yaml"])
    assert fits == ["config.yaml"] and wanted.folder is None


def test_a_study_file_may_contain_its_fit_configuration(place: Workplace) -> None:
    inside = "".join(f"  {line}\n" for line in CONFIG.splitlines())
    place.write("study.yaml", f"fit:\n{inside}{METHODS}overrides: {{data: {{forget: math}}}}\n")
    _, fits, fit = read_study(["study.yaml"], ["--fit.model.lora.rank", "2"])
    expected = set_key(read_yaml("config.yaml"), ["model", "lora", "rank"], 2)
    assert fits == [] and fit == set_key(expected, ["data", "forget"], "math")


def test_swept_keys_may_be_nested_or_dotted(place: Workplace) -> None:
    values: dict[str, list[Any]] = {"data.unlearn.lr": [1e-5, 0.5], "model.lora.rank": [2, None]}
    dotted = "sweep: {data.unlearn.lr: [1e-5, 0.5], model.lora.rank: [2, null]}\n"
    nested = "sweep: {data: {unlearn.lr: [1e-5, 0.5]}, model: {lora: {rank: [2, null]}}}\n"
    for text in (dotted, nested):
        place.write("study.yaml", f"fit: config.yaml\n{METHODS}{text}")
        wanted, _, fit = read_study(["study.yaml"], [])
        assert wanted.sweep == values
        settings = list(to_spec(wanted, fit, "study").settings())
        assert settings == [
            {"data.unlearn.lr": rate, "model.lora.rank": rank}
            for rate in (1e-5, 0.5)
            for rank in (2, None)
        ]
        wanted, _, _ = read_study(
            ["study.yaml"], ["--sweep.data.unlearn.lr", "[3]", "--sweep.data.max_length=[64]"]
        )
        assert wanted.sweep == {**values, "data.unlearn.lr": [3], "data.max_length": [64]}


PRINTED = [
    [],
    ["--trainer.callbacks+=SimNPO"],
    ["--trainer.callbacks+=SimNPO", "--trainer.callbacks.beta", "2"],
    ["--trainer.callbacks+=GA", "--trainer.callbacks+={class_path: LabelLikelihood}"],
    ["--trainer.callbacks+=[LabelLikelihood, lightning.pytorch.callbacks.Timer]"],
    ["--trainer.callbacks", "GA", "--model.lora", "null", "--trainer.run_name", "3"],
    ["--trainer.logger={class_path: CSVLogger, init_args: {save_dir: logs}}"],
    ["--trainer.strategy", "{class_path: FSDP2, init_args: {cpu_offload: true}}"],
    ["--data.eval_sets", "{facts: {source: math.jsonl, alternatives: [a, b]}}"],
    ["--data.unlearn.betas", "[0.5, 0.75]", "--trainer.run_name", "1e5"],
    ["--model.lora.target_modules", "[q_proj]", "--data.order", "[safety, math]"],
]


@pytest.mark.parametrize("arguments", PRINTED)
def test_the_printed_configuration_parses_to_itself(place: Workplace, arguments: list[str]) -> None:
    given = ["fit", "--config", "config.yaml", *arguments, "--print_config"]
    assert main(given) == 0
    printed = place.capsys.readouterr()
    assert printed.err == ""
    place.write("printed.yaml", printed.out)
    assert main(["fit", "--config", "printed.yaml", "--print_config"]) == 0
    assert place.capsys.readouterr().out == printed.out
    names = [
        name for name in ("SimNPO", "GA", "NPO") if f"lightning_unlearn.{name}\n" in printed.out
    ]
    assert len(names) == 1


EARLIER = {"data": {"stages": {"a": {"lr": 1, "source": "x"}, "b": {"lr": 2}}, "forget": "a"}}


@pytest.mark.parametrize(
    ("later", "stages"),
    [
        ({"a": None}, {"b": {"lr": 2}}),
        ({"a": {"replace": True, "lr": 3}}, {"a": {"lr": 3}, "b": {"lr": 2}}),
        ({"replace": True, "c": {"lr": 3}}, {"c": {"lr": 3}}),
        # Nothing to remove: the type of the key refuses it.
        ({"c": None}, {**EARLIER["data"]["stages"], "c": None}),
        (
            {"a": {"replace": False}},
            {"a": {"lr": 1, "source": "x", "replace": False}, "b": {"lr": 2}},
        ),
    ],
)
def test_a_later_file_removes_and_replaces(later: Any, stages: Any) -> None:
    found = merge(EARLIER, {"data": {"stages": later}})
    assert found == {"data": {"stages": stages, "forget": "a"}}


def test_null_stays_a_value_elsewhere_and_replace_an_argument() -> None:
    assert merge({"model": {"lora": {"rank": 4}}}, {"model": {"lora": None}}) == {
        "model": {"lora": None}
    }
    own = {"class_path": "Mine", "init_args": {"replace": True, "stages": {"a": None}}}
    assert merge({"callback": "GA"}, {"callback": own}) == {"callback": own}
    assert merge({}, {"data": {"replace": True, "forget": "a"}}) == {"data": {"forget": "a"}}


def test_the_printed_configuration_names_what_later_files_removed_and_replaced(
    place: Workplace,
) -> None:
    later = "data: {stages: {math: null}, unlearn: {replace: true, lr: 0.25, steps: 1}}"
    place.write("later.yaml", later)
    assert main(["fit", "--config", "config.yaml", "--config", "later.yaml", "--print_config"]) == 0
    printed = place.capsys.readouterr().out
    assert printed.splitlines()[:2] == [
        "# data.stages.math: removed by later.yaml",
        "# data.unlearn: replaced by later.yaml",
    ]
    place.write("printed.yaml", printed)
    assert main(["fit", "--config", "printed.yaml", "--print_config"]) == 0
    assert place.capsys.readouterr().out == "\n".join(printed.splitlines()[2:]) + "\n"
