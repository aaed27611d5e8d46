"""``lightning-unlearn study``: create a `Study` from a study file and run it."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.compose import (
    MissingValue,
    load_configs,
    merge,
    read_arguments,
    set_key,
    split_config_arguments,
    with_place,
)
from lightning_unlearn.settings.strict_yaml import read_argument, read_value, read_yaml
from lightning_unlearn.study.executors.base import Executor
from lightning_unlearn.study.executors.local import LocalExecutor
from lightning_unlearn.study.executors.ray import RayExecutor
from lightning_unlearn.study.runner import Study
from lightning_unlearn.study.spec import StudyFile, StudySpec, flat, parse_study

# Keys of a study file whose values are mappings with any content.
DEEP = ("fit", "methods", "sweep", "overrides")
# Options that exist on the command line only.
OPTIONS = ("dry-run", "only")


def study(arguments: list[str]) -> int:
    """Run a study, or print its plan.

    Args:
        arguments: arguments of the command.

    Returns:
        Exit code: 0, or 1 if a task failed.

    Raises:
        InputError: for a mistake in the study file or the fit configuration.
    """
    files, others = split_config_arguments(arguments)
    others, only, dry = _split_options(others)
    fits: list[str] = []
    try:
        wanted, fits, fit = read_study(files, others)
        spec = to_spec(wanted, fit, Path(files[-1]).stem if files else "study")
        made = Study(spec, _executor(wanted, spec), figures=wanted.figures)
        if dry:
            try:
                made.show(only)
            finally:
                made.executor.close()
            return 0
        return 1 if made.run(only).failed else 0
    except InputError as error:
        raise InputError(with_place(error, [*fits, *files], others)) from error


def read_study(
    files: list[str], arguments: list[str]
) -> tuple[Namespace, list[str], dict[str, Any]]:
    """Read a study file and the fit configuration that it names.

    Args:
        files: study files; later files override earlier ones.
        arguments: command-line arguments, which override the files.

    Returns:
        The values of the study file, the files of the fit configuration, and its content.

    Raises:
        InputError: for a mistake in the study file, or a file that cannot be read.
    """
    wanted = parse_study(_changed(load_configs(files), arguments))
    if isinstance(wanted.fit, (dict, Namespace)):
        content = wanted.fit.as_dict() if isinstance(wanted.fit, Namespace) else wanted.fit
        return wanted, [], merge(content, wanted.overrides)
    # A path of the fit configuration is relative to the study file that names it.
    homes = [Path(file).parent for file in files if "fit" in read_yaml(file)]
    from_command_line = any(key == "fit" for key, _ in read_arguments(arguments))
    home = homes[-1] if homes and not from_command_line else Path()
    names = wanted.fit if isinstance(wanted.fit, list) else [wanted.fit]
    fits = [str(home / file) for file in names]
    return wanted, fits, merge(load_configs(fits, key="fit"), wanted.overrides)


def to_spec(wanted: Namespace, fit: dict[str, Any], name: str) -> StudySpec:
    """Return a study in plain values.

    Args:
        wanted: values of the study file.
        fit: the fit configuration.
        name: name of the study if the study file gives none.
    """
    methods = {
        label: {"callback": method.callback.as_dict(), "unlearn": dict(method.unlearn)}
        for label, method in (wanted.methods or {}).items()
    }
    return StudySpec(
        wanted.name or name,
        fit,
        json.loads(json.dumps(methods, default=lambda value: value.as_dict())),
        wanted.paths,
        wanted.seeds,
        wanted.sweep,
        wanted.oracle,
        wanted.folder,
    )


def _executor(wanted: Namespace, spec: StudySpec) -> Executor | None:
    """Return the executor of a study; None runs the tasks in this process."""
    if wanted.ray is not None:
        return RayExecutor(spec, wanted.ray, wanted.gpus_per_worker, wanted.cpus_per_worker)
    if wanted.workers:
        return LocalExecutor(spec, wanted.workers, wanted.gpus_per_worker)
    return None


def _split_options(arguments: list[str]) -> tuple[list[str], str | None, bool]:
    """Separate the options from arguments that change keys.

    Returns:
        The other arguments, the conditions of --only, and whether --dry-run was given.
    """
    others: list[str] = []
    only: str | None = None
    dry = False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--dry-run":
            dry = True
        elif argument == "--only" or argument.startswith("--only="):
            _, assigned, value = argument.partition("=")
            condition = value if assigned else next(rest, None)
            only = ",".join(filter(None, [only, condition]))
            if not condition:
                raise InputError("--only: found no value, expected KEY=VALUE,...")
        else:
            others.append(argument)
    return others, only, dry


def _arguments_of_study(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield keys and values of `read_arguments`.

    Raises:
        InputError: for a misspelled option; the message suggests the correct one.
    """

    def check(key: str) -> None:
        known = [*OPTIONS, *(own.name for own in fields(StudyFile))]
        name = key.replace("_", "-")
        close = difflib.get_close_matches(name, known, n=1)
        if "." not in key and close and close[0] in OPTIONS:
            exact = key == close[0]
            what = "a value, expected none." if exact else "an unknown option, did you mean "
            raise InputError(f"--{key}: found {what}{'' if exact else f'--{close[0]}?'}")

    try:
        for key, value in read_arguments(arguments):
            check(key)
            yield key, value
    except MissingValue as error:
        check(error.key)
        raise


def _changed(content: Any, arguments: list[str]) -> Any:
    """Apply the command-line arguments to the content of a study file."""
    for key, value in _arguments_of_study(arguments):
        if value is None:
            raise InputError(f"--{key}: found an unknown option, expected an option of study.")
        if key.startswith("sweep."):
            # The rest of the key is one dotted key, also if the file nests it.
            sweep = flat(content.get("sweep") or {})
            content = {**content, "sweep": {**sweep, key.removeprefix("sweep."): read_value(value)}}
        else:
            # Values below these keys have any type; the types of other keys are known.
            read = read_value if "." in key or key in DEEP else read_argument
            content = set_key(content, key.split("."), read(value))
    return content
