"""The surface is frozen on purpose: golden files, help texts, and the shipped configurations.

After a wanted change of the surface, write the golden files again:

    lightning-unlearn fit --config configs/demo.yaml --print_config | grep -v '^#' \
        > tests/golden/print_config.yaml
    python -c "import lightning_unlearn as l; print(*l.__all__, sep='\\n')" > tests/golden/all.txt
"""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from commands import Workplace, make_workplace, run

import lightning_unlearn
from lightning_unlearn.cli import main
from lightning_unlearn.configuration import compose, compose_files
from lightning_unlearn.data.recipe import Stage
from lightning_unlearn.help import HELP, OVERVIEW
from lightning_unlearn.lightning_cli import StagedCLI
from lightning_unlearn.study import command

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    return make_workplace(tmp_path, monkeypatch, capsys)


def test_the_names_of_the_package_are_the_golden_ones() -> None:
    assert lightning_unlearn.__all__ == (GOLDEN / "all.txt").read_text().split()
    for name in lightning_unlearn.__all__:
        assert getattr(lightning_unlearn, name) is not None
    assert dir(lightning_unlearn) == sorted(lightning_unlearn.__all__)


def test_the_whole_configuration_is_the_golden_one(capsys: pytest.CaptureFixture[str]) -> None:
    demo = str(ROOT / "configs" / "demo.yaml")
    assert main(["fit", "--config", demo, "--print_config"]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if not line.startswith("#")]
    assert "\n".join(lines) + "\n" == (GOLDEN / "print_config.yaml").read_text()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_shipped_configuration_is_taken(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = compose_files([str(file)])
    if "study" in file.name:
        wanted = command._parse(content)
        names = [wanted.fit] if isinstance(wanted.fit, str) else wanted.fit
        fit = compose_files([str(file.parent / name) for name in names])
        study = command._make(file.stem, wanted, compose(fit, wanted.change))
        assert study.plan.cells
    else:
        # Tests reach no hub; a model of the hub is left out, everything else counts.
        local = {"model": {"base": "demo:tiny-llama"}}
        cli = StagedCLI(None, compose(content, local), [])
        assert cli.datamodule.stages
    assert not list(tmp_path.iterdir())


HELP_CASES = [["--help"], ["-h"], [], *([c, "--help"] for c in HELP), ["fit", "--a", "1", "-h"]]


@pytest.mark.parametrize("arguments", HELP_CASES, ids=" ".join)
def test_help_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    expected = HELP[arguments[0]] if arguments and arguments[0] in HELP else OVERVIEW
    assert main(arguments) == (0 if arguments else 2)
    assert capsys.readouterr().out == expected + "\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([c, "--help"] for c in HELP)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from lightning_unlearn.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse', 'pandas', 'rich'}; "
        "print(*(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "\n")


def test_help_lines_fit_a_terminal() -> None:
    for text in (OVERVIEW, *HELP.values()):
        assert max(map(len, text.splitlines())) <= 100


VALUES = {
    "--seed_everything": "3",
    "--trainer.callbacks+": "SimNPO",
    "--trainer.store": "store",
    "--trainer.default_root_dir": "runs",
    "--trainer.accelerator": "cpu",
    "--trainer.devices": "1",
    "--trainer.strategy": "auto",
    "--trainer.precision": "bf16-true",
    "--model.base": "demo:tiny-llama",
    "--model.lora.rank": "2",
    "--model.lora.targets": "[q_proj, v_proj]",
    "--model.lora": "null",
    "--model.gradient_checkpointing": "true",
    "--model.merge": "true",
    "--data.order": "[safety, math]",
    "--data.position": "1",
    "--data.permutation": "2",
    "--data.forget": "math",
    "--data.stages.STAGE.source": "safety.jsonl",
    "--data.unlearn.lr": "1e-4",
    "--data.micro_batch_size": "2",
}
# Told apart from keys of the configuration: the parser has them, the objects do not.
OPTIONS = {"--config", "--print_config", "--help-all", "--stage"}


def flags(text: str) -> set[str]:
    """Everything that looks like an option before the examples."""
    return set(re.findall(r"--[A-Za-z][\w.+-]*\w\+?", text.split("\nexample")[0]))


def test_every_key_of_the_help_is_one_of_the_parser(place: Workplace) -> None:
    named = flags(HELP["fit"]) | flags(HELP["validate"])
    assert named - OPTIONS - {"--KEY"} == set(VALUES)
    assert named & OPTIONS == OPTIONS
    unchanged = place.parse().config_text()
    for flag, value in VALUES.items():
        flag = flag.replace("STAGE", "math")
        text = place.parse(f"{flag}={value}").config_text()
        default = flag in ("--trainer.accelerator", "--trainer.strategy", "--model.base")
        default = default or flag == "--trainer.default_root_dir"
        assert default or text != unchanged, flag


def test_the_recipe_keys_of_the_help_are_recipe_keys() -> None:
    named = set(re.findall(r" \.(\w+)", HELP["fit"]))
    assert named and named <= {field.name for field in fields(Stage)}


def test_every_key_of_the_study_help_is_one_of_a_study(place: Workplace) -> None:
    values = {
        "--name": "mine",
        "--fit": "config.yaml",
        "--paths": "permutations",
        "--methods.LABEL.callback": "SimNPO",
        "--methods.LABEL.unlearn.lr": "1e-4",
        "--change.KEY": "2",
        "--change.data.unlearn.lr": "1e-4",
        "--folder": "out",
    }
    assert flags(HELP["study"]) - {"--config", "--KEY"} == set(values)
    given = {
        k.replace("LABEL", "GA").replace("KEY", "model.lora.rank"): v for k, v in values.items()
    }
    content = command._changed(
        compose_files(["study.yaml"]), [f"{flag}={value}" for flag, value in given.items()]
    )
    wanted = command._parse(content)
    study = command._make(wanted.name, wanted, compose(compose_files([wanted.fit]), wanted.change))
    assert study.name == "mine"
    assert study.folder == Path("out")
    assert len(study.plan.paths) == 2
    assert study.module.lora is not None and study.module.lora.rank == 2
    assert study.recipes["GA"].lr == study.recipes["NPO"].lr == 1e-4
    assert study.recipes["GA"].batch_size == 8


def test_a_method_of_a_study_is_changed_from_the_command_line(place: Workplace) -> None:
    arguments = ["--methods.NPO.callback.beta", "2", "--methods.GA.unlearn.epochs", "3"]
    wanted = command._parse(command._changed(compose_files(["study.yaml"]), arguments))
    assert wanted.methods["NPO"].callback.init_args.beta == 2
    study = command._make("s", wanted, compose_files(["config.yaml"]))
    assert (study.recipes["GA"].epochs, study.recipes["NPO"].epochs) == (3, 1)


def test_all_keys_are_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: lightning-unlearn ")
    for key in ("--trainer.store", "--model.lora", "--data.stages", "--seed_everything"):
        assert key in text


def test_the_version_is_told() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"lightning-unlearn {lightning_unlearn.__version__}\n"
