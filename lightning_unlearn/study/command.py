"""The study command: a study file to a `Study`."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from lightning_unlearn.configuration import (
    change,
    compose,
    compose_files,
    read_arguments,
    read_value,
    read_yaml,
    take_configs,
    with_place,
)
from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.lightning_cli import StagedCLI, is_method
from lightning_unlearn.mistakes import find_mistake
from lightning_unlearn.progress import StageProgress
from lightning_unlearn.study.engine import Study
from lightning_unlearn.trainer import StagedTrainer
from lightning_unlearn.unlearning.base import Unlearning


@dataclass
class Method:
    """A column of a study.

    Attributes:
        callback: the unlearning method.
        unlearn: what differs in the recipe of unlearning.
    """

    callback: Unlearning
    unlearn: dict[str, Any] = field(default_factory=dict)


@dataclass
class StudyFile:
    """A study as written in YAML.

    Attributes:
        fit: fit configuration, or several that compose, relative to the study file.
        methods: the unlearning methods by label.
        paths: "positions", "permutations", or lists of stage names.
        name: of the study; null takes the file's.
        folder: where table and figures go; null takes trainer.default_root_dir.
        change: changes to the fit configuration.
    """

    fit: str | list[str]
    methods: dict[str, Method]
    paths: Literal["positions", "permutations"] | list[list[str]] = "positions"
    name: str | None = None
    folder: str | None = None
    change: dict[str, Any] = field(default_factory=dict)


def study(arguments: list[str]) -> int:
    """Run a study.

    Args:
        arguments: of the command.

    Returns:
        0, or 1 if a run failed.

    Raises:
        InputError: for a mistake in the study file or the fit configuration.
    """
    files, others = take_configs(arguments)
    fits: list[str] = []
    try:
        content = _changed(compose_files(files), others)
        wanted = _parse(content)
        # The fit configuration is named relative to the file that names it.
        homes = [Path(file).parent for file in files if "fit" in read_yaml(file)]
        from_command_line = any(key == "fit" for key, _ in read_arguments(others))
        home = homes[-1] if homes and not from_command_line else Path()
        named = [str(home / file) for file in _as_list(wanted.fit)]
        fit = compose(compose_files(named, key="fit"), wanted.change)
        fits = named
        name = wanted.name or (Path(files[-1]).stem if files else "study")
        made = _make(name, wanted, fit)
    except InputError as error:
        raise InputError(with_place(error, [*fits, *files], others)) from error
    return 1 if made.run().failed else 0


def _make(name: str, wanted: Namespace, content: dict[str, Any]) -> Study:
    """The study of a study file and its fit configuration."""
    shared = StagedCLI(None, {**content, "trainer": _without_methods(content)}, [])
    clis = {label: _cli_of(label, method, content) for label, method in wanted.methods.items()}
    data: StagedDataModule = shared.datamodule
    paths: Sequence[tuple[str, ...]]
    if wanted.paths in ("positions", "permutations"):
        paths = data.paths(wanted.paths)
    else:
        paths = [data.check_order(path, "paths") for path in wanted.paths]
    if not paths:
        raise InputError("paths: found an empty list, expected at least one path.")

    def make_trainer(label: str, bar: StageProgress) -> StagedTrainer:
        cli = clis[label]
        settings = cli.parser.instantiate(cli.config).trainer
        callbacks = _as_list(settings.callbacks)
        if settings.enable_progress_bar:
            callbacks = [bar, *callbacks]
        trainer = StagedTrainer(**{**vars(settings), "callbacks": callbacks})
        assert trainer.method is not None
        trainer.method.name = label
        trainer.announces = False
        trainer.config_text = cli.config_text()
        return trainer

    recipes = {label: cli.datamodule.unlearn for label, cli in clis.items()}
    folder = Path(wanted.folder or shared.trainer.default_root_dir)
    return Study(name, shared.model, data, paths, recipes, make_trainer, folder)


def _changed(content: Any, arguments: list[str]) -> Any:
    """A study file's content, changed by the command line."""
    for key, value in read_arguments(arguments):
        if value is None:
            raise InputError(f"--{key}: not an option of study.")
        content = change(content, key.split("."), read_value(value))
    return content


def _parse(content: dict[str, Any]) -> Namespace:
    """A study file; methods stay specifications, made anew for each run."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(StudyFile)
    try:
        found = parser.parse_args(["--config", json.dumps(content)])
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise find_mistake(content, StudyFile) or InputError(
            f"study: {' '.join(str(error).split())}"
        ) from None
    if not found.methods:
        raise InputError("methods: found none, expected at least one unlearning method.")
    for label in found.methods:
        if not label or not all(c.isalnum() or c in "_.+" for c in label):
            raise InputError(
                f"methods: found the label {label!r}, expected letters, digits and _ . +: labels "
                "make up folders and curves."
            )
    return found


def _cli_of(label: str, method: Namespace, content: dict[str, Any]) -> StagedCLI:
    """The fit configuration of one method."""
    trainer = _without_methods(content)
    trainer["callbacks"] = [*trainer["callbacks"], method.callback.as_dict()]
    changed = compose(content, {"data": {"unlearn": dict(method.unlearn)}})
    try:
        return StagedCLI(None, {**changed, "trainer": trainer}, [])
    except InputError as error:
        # Only what the method itself says is its own; the rest is the fit configuration's.
        own = f"methods.{label}.unlearn."
        keys = "|".join(map(re.escape, method.unlearn))
        text, count = re.subn(rf"^data\.unlearn\.(?=({keys})\b)", own, str(error))
        raise InputError(text if count else f"methods.{label}: {error}") from error


def _without_methods(content: dict[str, Any]) -> dict[str, Any]:
    """The trainer's configuration with the monitors but without an unlearning method."""
    trainer = dict(content.get("trainer") or {})
    callbacks = _as_list(trainer.get("callbacks"))
    parsed = StagedCLI(None, content, []).config.get("trainer.callbacks")
    trainer["callbacks"] = [
        spec for spec, seen in zip(callbacks, _as_list(parsed), strict=True) if not is_method(seen)
    ]
    return trainer


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
