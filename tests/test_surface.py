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
from cli_runs import Workplace, make_workplace, run

import lightning_unlearn
from lightning_unlearn.cli.help import HELP, OVERVIEW
from lightning_unlearn.cli.main import main
from lightning_unlearn.cli.study import read_study, study, to_spec
from lightning_unlearn.data.recipes import Stage
from lightning_unlearn.settings.compose import load_configs, merge
from lightning_unlearn.study.spec import StudyFile
from lightning_unlearn.study.task_runner import TaskRunner
from lightning_unlearn.training.from_config import StagedCLI

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


PLANS = {
    "demo-depth.yaml": "60 stage trainings instead of 72, 24 unlearnings",
    "demo-orders.yaml": "64 stage trainings instead of 114, 24 unlearnings, 6 oracles",
    "demo-seeds.yaml": "52 stage trainings instead of 76, 48 unlearnings, 4 oracles",
    "demo-study.yaml": "13 stage trainings instead of 19, 12 unlearnings, 1 oracle",
    "demo-sweep.yaml": "13 stage trainings instead of 19, 32 unlearnings, 1 oracle",
}


# The larger plans of one kind take seconds.
LARGE = ("demo-orders.yaml", "demo-sweep.yaml")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.name, marks=[pytest.mark.slow] if file.name in LARGE else [])
        for file in CONFIGS
    ],
)
def test_every_shipped_configuration_is_taken(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, text = load_configs([str(file)]), file.read_text()
    if "methods" in content:
        wanted, _, fit = read_study([str(file)], [])
        plan = TaskRunner(to_spec(wanted, fit, file.stem)).plan()
        assert plan.name == file.stem
        assert str(plan) == PLANS[file.name]
        # A comment that counts stages counts right.
        for shared, apart in re.findall(r"(\d+) stage\s+(?:# )?trainings instead of (\d+)", text):
            each = len(wanted.seeds) if "for each seed" in text else 1
            assert (int(shared) * each, int(apart) * each) == (len(plan.stages), plan.stages_apart)
    else:
        # Tests reach no hub; a model of the hub is left out, everything else counts.
        local = {"model": {"base": "demo:tiny-llama"}}
        cli = StagedCLI(None, merge(content, local), [])
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
        "import sys; from lightning_unlearn.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse', 'jinja2', 'pandas'}; "
        "heavy |= {'rich'}; "
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
    "--trainer.checkpoint_steps": "5",
    "--trainer.snapshot_steps": "5",
    "--trainer.strategy": "auto",
    "--trainer.precision": "bf16-true",
    "--model.base": "demo:tiny-llama",
    "--model.lora.rank": "2",
    "--model.lora.target_modules": "[q_proj, v_proj]",
    "--model.lora": "null",
    "--model.quantization": "nf4",
    "--model.gradient_checkpointing": "true",
    "--model.save_merged": "true",
    "--model.compile": "true",
    "--data.order": "[safety, math]",
    "--data.position": "1",
    "--data.permutation": "2",
    "--data.forget": "math",
    "--data.learned": "[math]",
    "--data.oracle": "true",
    "--oracle.base": "demo:tiny-llama",
    "--data.stages.STAGE.source": "safety.jsonl",
    "--data.unlearn.lr": "1e-4",
    "--data.retain": "[math]",
    "--data.alternates": "response",
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
    for line in HELP["fit"].splitlines():
        named = set(re.findall(r" \.(\w+)", line))
        assert named <= {field.name for field in fields(Stage)} | {"checkpoint_minutes"}
        assert not named or "data." in line or "trainer.checkpoint" in line


# How the help names keys of a study, as they are given here, and a value.
STUDY_VALUES = {
    "--name": ("--name", "mine"),
    "--fit": ("--fit", "config.yaml"),
    "--paths": ("--paths", "permutations"),
    "--methods.LABEL.callback": ("--methods.GA.callback", "SimNPO"),
    "--methods.LABEL.unlearn.lr": ("--methods.GA.unlearn.lr", "1e-4"),
    "--seeds": ("--seeds", "[3, 4]"),
    "--sweep.data.unlearn.lr": ("--sweep.data.unlearn.epochs", "[1, 2]"),
    "--oracle": ("--oracle", "true"),
    "--overrides.KEY": ("--overrides.model.lora.rank", "2"),
    "--overrides.data.unlearn.lr": ("--overrides.data.unlearn.lr", "1e-3"),
    "--folder": ("--folder", "out"),
    "--figures": ("--figures", "false"),
    "--workers": ("--workers", "3"),
    "--gpus_per_worker": ("--gpus_per_worker", "2"),
    "--ray": ("--ray", "null"),
    "--cpus_per_worker": ("--cpus_per_worker", "4"),
}
# Taken by the command itself.
STUDY_OPTIONS = {"--config", "--KEY", "--dry-run", "--only"}


def test_every_key_of_the_study_help_is_one_of_a_study(place: Workplace) -> None:
    assert flags(HELP["study"]) == set(STUDY_VALUES) | STUDY_OPTIONS
    keys = {flag[2:].partition(".")[0] for flag in STUDY_VALUES}
    assert keys == {field.name for field in fields(StudyFile)}
    arguments = [f"{flag}={value}" for flag, value in STUDY_VALUES.values()]
    wanted, fits, fit = read_study(["study.yaml"], arguments)
    assert fits == ["config.yaml"]
    assert (wanted.workers, wanted.gpus_per_worker, wanted.ray) == (3, 2, None)
    assert wanted.cpus_per_worker == 4 and wanted.figures is False
    spec = to_spec(wanted, fit, "study")
    assert (spec.name, spec.paths, spec.seeds, spec.oracle) == (
        "mine",
        "permutations",
        [3, 4],
        True,
    )
    assert spec.methods["GA"]["callback"]["class_path"].endswith("SimNPO")
    assert (spec.methods["GA"]["unlearn"], spec.methods["NPO"]["unlearn"]) == ({"lr": 1e-4}, {})
    assert (fit["model"]["lora"]["rank"], fit["data"]["unlearn"]["lr"]) == (2, 1e-3)
    plan = TaskRunner(spec).plan()
    assert (plan.name, plan.folder) == ("mine", "out")
    assert len(plan.trials) == 2 * 2 * (2 + 1) * 2
    assert str(plan) == "8 stage trainings instead of 10, 16 unlearnings, 2 oracles"


def test_the_options_of_the_study_help_are_taken(place: Workplace) -> None:
    assert study(["--config", "study.yaml", "--dry-run", "--only", "path=1,method=NPO"]) == 0
    assert place.capsys.readouterr().out.endswith("1 of 4 trials; 0 of 3 tasks are in the store.\n")


def test_a_method_of_a_study_is_changed_from_the_command_line(place: Workplace) -> None:
    arguments = ["--methods.NPO.callback.beta", "2", "--methods.GA.unlearn.epochs", "3"]
    wanted, _, fit = read_study(["study.yaml"], arguments)
    methods = to_spec(wanted, fit, "study").methods
    assert methods["NPO"]["callback"]["init_args"]["beta"] == 2
    assert methods["GA"]["unlearn"] == {"epochs": 3} and methods["NPO"]["unlearn"] == {}


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
