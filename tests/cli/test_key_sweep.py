"""Invalid values for every key of every command: one sentence, exit code 2, and no folder written.

The keys come from the parsers and from the classes that a configuration can name, so new keys are
tested automatically.
"""

import copy
import math
import os
import signal
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from cli_runs import CONFIG, STUDY, Workplace, make_workplace

from lightning_unlearn import monitors, unlearning
from lightning_unlearn.cli.main import main
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.settings import diagnosis
from lightning_unlearn.study.spec import StudyFile
from lightning_unlearn.training import from_config
from lightning_unlearn.training.from_config import ValidateFile
from lightning_unlearn.training.trainer import StagedTrainer

SECONDS = 30
VALUES: dict[str, Any] = {
    "null": None,
    "blank": "",
    "text": "abc xyz",
    "list": ["abc"],
    "mapping": {"abc": 1},
    "true": True,
    "nan": math.nan,
    "inf": math.inf,
    "huge number": 1e20,
    "huge integer": 10**26,
    "negative": -1,
    "zero": 0,
    "empty list": [],
    "empty mapping": {},
    "long": "x" * 300,
    "null character": "a\0b",
    "control character": "\x1b[31m",
}
HUGE, ANY_TEXT = ("huge number", "huge integer"), ("text", "long", "null character")
# Valid values by the end of the key. Besides these, null is valid where the type allows it, and
# true where the type is bool.
VALID: dict[str, tuple[str, ...]] = {
    # Names of folders.
    "trainer.store": ("text",),
    "trainer.run_name": ("text",),
    "trainer.default_root_dir": ("text",),
    "folder": ("text",),
    # Any text is a valid name.
    "name": (*ANY_TEXT, "control character"),
    # Numbers so large that training fails because of its loss; the configuration is valid.
    ".lr": HUGE,
    ".lr[]": HUGE,
    ".weight_decay": (*HUGE, "zero"),
    ".gradient_clip": HUGE,
    ".alpha": HUGE,
    ".beta": HUGE,
    ".gamma": (*HUGE, "negative", "zero"),
    ".temperature": HUGE,
    "checkpoint_minutes": (*HUGE, "zero"),
    # Fractions, rates and counts that may be zero.
    ".warmup": ("zero",),
    ".decay": ("zero",),
    ".momentum": ("zero",),
    ".dropout": ("zero",),
    ".begun": ("zero",),
    ".every_n_steps": ("zero",),
    "seed_everything": ("zero",),
    "seeds[]": ("zero",),
    "workers": ("zero",),
    "gpus_per_worker": ("zero",),
    # An empty mapping or list keeps the defaults.
    "model.lora": ("empty mapping",),
    "data.unlearn": ("empty mapping",),
    "model.adapters": ("empty mapping",),
    "data.learned": ("empty list",),
    "data.eval_sets": ("empty mapping",),
    "methods.GA.unlearn": ("empty mapping",),
    "init_args": ("null", "empty mapping"),
    "overrides": ("empty mapping",),
    "overrides.data": ("empty mapping",),
    "sweep": ("empty mapping",),
    "trainer.logger": ("empty list",),
    "trainer.plugins": ("empty list",),
    # Rows that the method does not use are not read.
    "data.retain.source": (*ANY_TEXT, "control character"),
    "data.alternates": (*ANY_TEXT, "control character"),
    "data.alternates.source": (*ANY_TEXT, "control character"),
    ".retain_weight": ("zero",),
    # Factors of updates, and steps of the oracle.
    "Negation.alpha": ("negative", "zero"),
    "NegationThenReplay.alpha": ("negative", "zero"),
    "ModelStateArithmetic.alpha": ("negative", "zero"),
    "ModelStateArithmetic.beta": ("negative", "zero"),
    "Splice.steps": ("zero",),
    # Splits apply to data sets of the hub only; the stages here are files.
    "split": ("blank", *ANY_TEXT, "control character"),
    # Any text, also none, is a valid instruction, and any other text a valid phrase.
    "LabelLikelihood.phrases": ("list",),
    "MathAccuracy.instruction": ("blank", *ANY_TEXT, "control character"),
    # Ray itself checks its address.
    "ray": ("blank", *ANY_TEXT, "control character"),
}


@dataclass(frozen=True)
class Case:
    """A key with a value.

    Attributes:
        command: fit, validate or study.
        key: the dotted key.
        value: name of the value in `VALUES`.
        config: the fit configuration.
        study: the study file, if the key belongs to one.
    """

    command: str
    key: str
    value: str
    config: Any
    study: Any = None


def leaves(hint: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys below a type, recursively; NAME stands for a name that the user chooses."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if prefix:
        yield prefix, hint
    parts = members if origin in (typing.Union, types.UnionType) else [hint]
    for part in parts:
        inner = typing.get_args(part)
        if diagnosis._is_group(part):
            for key, below in diagnosis._parameters(part)[0].items():
                yield from leaves(below, (*prefix, key))
        elif typing.get_origin(part) is dict and diagnosis._is_group(inner[1]):
            yield from leaves(inner[1], (*prefix, "NAME"))


def changed(content: Any, path: tuple[str, ...], value: Any) -> Any:
    made = at = copy.deepcopy(content)
    for key in path[:-1]:
        at[key] = at[key] if isinstance(at.get(key), dict) else {}
        at = at[key]
    at[path[-1]] = value
    return made


def base() -> Any:
    content = yaml.safe_load(CONFIG)
    content["trainer"]["enable_progress_bar"] = False
    content["data"]["eval_sets"] = {"facts": {"source": "math.jsonl"}}
    return content


def cases_of_fit() -> Iterator[tuple[Case, Any]]:
    names = {"stages": "math", "eval_sets": "facts"}
    for path, hint in leaves(ValidateFile):
        path = tuple(names[path[n - 1]] if key == "NAME" else key for n, key in enumerate(path))
        command = "validate" if path == ("stage",) else "fit"
        for name, value in VALUES.items():
            yield Case(command, ".".join(path), name, changed(base(), path, value)), hint
    kinds = [getattr(module, name) for module in (monitors, unlearning) for name in module.__all__]
    for kind in kinds:
        if not isinstance(kind, type) or kind in (
            Monitor,
            unlearning.Unlearning,
            unlearning.PathAware,
        ):
            continue
        if not issubclass(kind, Monitor | unlearning.Unlearning):
            continue
        for key, hint in diagnosis._parameters(kind)[0].items():
            for name, value in VALUES.items():
                spec = {"class_path": kind.__name__, "init_args": {key: value}}
                callbacks = ["NPO", spec] if issubclass(kind, Monitor) else [spec]
                config = changed(base(), ("trainer", "callbacks"), callbacks)
                yield Case("fit", f"{kind.__name__}.{key}", name, config), hint


BELOW = [
    ("methods", "GA"),
    ("methods", "GA", "callback"),
    ("methods", "NPO", "callback", "class_path"),
    ("methods", "NPO", "callback", "init_args"),
    ("methods", "NPO", "callback", "init_args", "beta"),
    ("methods", "GA", "unlearn"),
    ("methods", "GA", "unlearn", "lr"),
    ("sweep", "data.unlearn.lr"),
    ("sweep", "model.lora.rank"),
    ("overrides", "data"),
    ("overrides", "data", "unlearn", "lr"),
    ("overrides", "trainer", "store"),
]


def cases_of_study() -> Iterator[tuple[Case, Any]]:
    for path, hint in [*leaves(StudyFile), *((path, Any) for path in BELOW)]:
        if "NAME" in path:
            continue
        for name, value in VALUES.items():
            study = changed(yaml.safe_load(STUDY), path, value)
            yield Case("study", ".".join(path), name, base(), study), hint
            if path[0] in ("paths", "seeds", "sweep", "fit") and path != ("sweep",):
                study = changed(yaml.safe_load(STUDY), path, [value])
                yield Case("study", f"{'.'.join(path)}[]", name, base(), study), int


def is_valid(case: Case, hint: Any) -> bool:
    """Return whether a value is valid; see `VALID`."""
    value = VALUES[case.value]
    parts = [hint, *typing.get_args(hint)]
    if case.value == "null" and (type(None) in parts or (hint is Any and case.key in NULLABLE)):
        return True
    if value is True and (bool in parts or hint is bool):
        return True
    return any(case.key.endswith(key) and case.value in values for key, values in VALID.items())


NULLABLE = ("trainer.plugins",)


class Reached(BaseException):
    """Raised when all checks are done and training would start."""


class TooSlow(BaseException):
    """Raised when the command takes too long."""


def outcome(case: Case, place: Workplace) -> str:
    """Run a command; return "" for one error message, "taken" for code 0, or what is wrong."""
    place.write("config.yaml", yaml.safe_dump(case.config, sort_keys=False))
    arguments = [case.command, "--config", "config.yaml"]
    if case.study is not None:
        place.write("study.yaml", yaml.safe_dump(case.study, sort_keys=False))
        arguments = ["study", "--config", "study.yaml", "--dry-run"]
    before = set(os.listdir())
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        code = main(arguments)
    except Reached:
        code = 0
    except TooSlow:
        return f"not done after {SECONDS} s"
    except SystemExit as stop:
        return f"exit {stop.code}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        left = sorted(set(os.listdir()) - before)
        printed = place.capsys.readouterr()
    if left:
        return f"left {left}"
    if code == 0:
        return "taken"
    if code != 2 or not printed.err.startswith("error: ") or printed.err.count("\n") != 1:
        return f"code {code}: {printed.err[:300]}"
    if any(ord(c) < 32 for c in printed.err[:-1]):
        return f"control characters: {printed.err[:300]!r}"
    return ""


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Workplace]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    def reached(*arguments: Any) -> None:
        raise Reached

    monkeypatch.setattr(StagedTrainer, "launch_processes", reached)
    before = signal.signal(signal.SIGALRM, late)
    yield make_workplace(tmp_path, monkeypatch, capsys)
    signal.signal(signal.SIGALRM, before)


def wrong(cases: Iterator[tuple[Case, Any]], place: Workplace) -> list[str]:
    found = []
    for case, hint in cases:
        how = outcome(case, place)
        # A valid value may still be refused, for example if no evaluation set has that name.
        if how and not (how == "taken" and is_valid(case, hint)):
            found.append(f"{case.command} {case.key}: {case.value}: {how}")
    return found


def test_the_keys_are_those_of_the_parser(place: Workplace) -> None:
    place.write("config.yaml", yaml.safe_dump(base()))
    ours = {".".join(path) for path, _ in leaves(ValidateFile)}
    actions = place.parse().parser._actions
    theirs = {action.dest for action in actions} - {"config"}
    theirs = {key for key in theirs if not key.endswith(("help", "print_config", "print_shtab"))}
    assert len(theirs) > 30 and theirs <= ours
    deep = (
        "data.stages.NAME.lr",
        "data.eval_sets.NAME.source",
        "model.lora.rank",
        "data.unlearn.lr",
    )
    assert ours >= {*deep, "stage"}


@pytest.mark.parametrize("cases", [cases_of_fit, cases_of_study])
def test_values_that_are_refused_before_parsing(
    place: Workplace, cases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Test the values that types of keys refuse; the slow test covers the others.
    def parsed(*arguments: Any, **options: Any) -> None:
        raise Reached

    monkeypatch.setattr(from_config.LightningCLI, "__init__", parsed)
    monkeypatch.setattr("lightning_unlearn.study.spec.ArgumentParser.parse_args", parsed)
    refused = ("null", "nan")
    chosen = [(case, hint) for case, hint in cases() if case.value in refused]
    # A class or the study refuses these later.
    later = {
        "trainer.plugins",
        "data.order",
        "trainer.callbacks",
        "sweep",
        "overrides",
        "fit",
        "methods.",
    }
    chosen = [(c, h) for c, h in chosen if not any(c.key.startswith(k) for k in later)]
    assert len(chosen) > 20
    assert not (found := wrong(iter(chosen), place)), "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [cases_of_fit, cases_of_study])
@pytest.mark.exhaustive
def test_no_value_causes_a_traceback(place: Workplace, cases: Any) -> None:
    assert not (found := wrong(cases(), place)), "\n".join(found)
