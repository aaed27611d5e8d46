"""The study file: what a study is, as YAML and as plain values."""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from lightning_unlearn.data.datamodule import ORACLE
from lightning_unlearn.errors import InputError
from lightning_unlearn.settings.diagnosis import diagnose, show
from lightning_unlearn.settings.folder_names import check_folder
from lightning_unlearn.settings.strict_yaml import read_value
from lightning_unlearn.storage.records import EXAMPLES, STEPS, TRAINING
from lightning_unlearn.study.plan import FILE
from lightning_unlearn.training.from_config import LARGEST_SEED
from lightning_unlearn.unlearning.base import Unlearning

# What else is in the folder of a study, beside those of its methods.
FOLDERS = (
    *("logs", "stages", "store", "report", "divergence"),
    *(FILE, STEPS, EXAMPLES, TRAINING),
)
# More processes or GPUs for one worker are a slip of the pen.
MOST_WORKERS = 4096
# Swept keys that something else of a study decides.
ELSEWHERE = {
    "seed_everything": "seeds",
    "trainer.seed": "seeds",
    "data.order": "paths",
    "data.position": "paths",
    "data.permutation": "paths",
    "data.oracle": "oracle",
    "data.forget": "a study of its own for each stage to forget",
    "trainer.run_name": "folder",
    "trainer.default_root_dir": "folder",
    "trainer.store": "overrides.trainer.store",
}


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
        fit: a fit configuration: a file, several that compose, relative to the study file, or the
            configuration itself.
        methods: the unlearning methods by label.
        paths: "positions", "permutations", or lists of stage names.
        seeds: everything once for each; null takes the fit configuration's one.
        sweep: values by key of the fit configuration; everything once for each combination.
        oracle: also train every path without the forget stage, and measure it.
        workers: processes that work at the same time; 0 is this process alone.
        gpus_per_worker: GPUs that each of them sees; null is one where there are enough, else none.
        ray: address of a Ray cluster that does the work, or "auto".
        cpus_per_worker: CPU cores that a task asks of the Ray cluster.
        name: of the study; null takes the file's.
        folder: where results go; null takes trainer.default_root_dir.
        figures: draw figures and page once the work is done; false writes the tables alone.
        overrides: changes to the fit configuration.
    """

    fit: str | list[str] | dict[str, Any]
    methods: dict[str, Method]
    paths: Literal["positions", "permutations"] | list[list[str]] = "positions"
    seeds: list[int] | None = None
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    oracle: bool = False
    workers: int = 0
    gpus_per_worker: int | None = None
    ray: str | None = None
    cpus_per_worker: int = 1
    name: str | None = None
    folder: str | None = None
    figures: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """A study in plain values, as another process can take it.

    Attributes:
        name: of the study.
        fit: the fit configuration.
        methods: by label: ``callback``, with class_path and init_args, and ``unlearn``, which may
            be left out.
        paths: "positions", "permutations", or lists of stage names.
        seeds: of the runs; null takes the fit configuration's.
        sweep: values by dotted key.
        oracle: also the paths without the forget stage.
        folder: where results go; null takes the fit configuration's.
    """

    name: str
    fit: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    paths: str | list[list[str]] = "positions"
    seeds: list[int] | None = None
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    oracle: bool = False
    folder: str | None = None

    def check(self) -> None:
        """Refuse what can be seen to be wrong without the fit configuration.

        Raises:
            InputError: naming the key.
        """
        if not self.methods and not self.oracle:
            raise InputError("methods: found none, expected at least one unlearning method.")
        for label in self.methods:
            dotted = label.startswith(".")
            if not label or dotted or not all(c.isalnum() or c in "_.+" for c in label):
                raise InputError(
                    f"methods: found the label {label!r}, expected letters, digits and _ . +, not "
                    "beginning with a dot: labels make up folders and curves."
                )
            check_folder(label, "methods")
            # Some file systems do not tell capitals from small letters.
            if label.lower() in FOLDERS:
                raise InputError(
                    f"methods: found the label {label!r}, which is a folder or file of every "
                    "study; choose another."
                )
            if label.lower() == ORACLE:
                raise InputError(
                    f"methods: found the label {label!r}, which is that of models retrained "
                    "without the forget stage; choose another."
                )
        if self.paths == []:
            raise InputError("paths: found an empty list, expected at least one path.")
        if isinstance(self.paths, list):
            for place, path in enumerate(self.paths):
                if path in self.paths[:place]:
                    raise InputError(f"paths: found {'-'.join(path)} twice; a path is walked once.")
        seeds = self.seeds
        if seeds is not None:
            if not seeds:
                raise InputError("seeds: found an empty list, expected at least one seed.")
            for place, seed in enumerate(seeds):
                if not 0 <= seed <= LARGEST_SEED:
                    raise InputError(f"seeds: found {seed}, expected 0 to {LARGEST_SEED}.")
                if seed in seeds[:place]:
                    raise InputError(f"seeds: found {seed} twice; a seed is run once.")
        for key, values in self.sweep.items():
            self._check_swept(key, values)

    def _check_swept(self, key: str, values: list[Any]) -> None:
        if not values:
            raise InputError(f"sweep.{key}: found an empty list, expected at least one value.")
        alike = [json.dumps(_alike(value)) for value in values]
        for place, text in enumerate(alike):
            if text in alike[:place]:
                found = json.dumps(values[place])
                raise InputError(f"sweep.{key}: found {found} twice; a value is swept once.")
        for decided, instead in ELSEWHERE.items():
            if key == decided or key.startswith(f"{decided}."):
                raise InputError(f"sweep.{key}: {decided} can't be swept: use {instead} instead.")
        for label, method in self.methods.items():
            for name in method.get("unlearn", {}):
                if key in ("data.unlearn", f"data.unlearn.{name}"):
                    raise InputError(
                        f"sweep.{key}: methods.{label}.unlearn.{name} sets it too; keep one."
                    )

    def settings(self) -> Iterator[dict[str, Any]]:
        """Every combination of the swept values, by key."""
        for values in itertools.product(*self.sweep.values()):
            yield dict(zip(self.sweep, values, strict=True))

    def write(self) -> str:
        """The values as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "StudySpec":
        """The values from what `write` gave."""
        return cls(**json.loads(text))


def parse_study(content: dict[str, Any]) -> Namespace:
    """A study file's values; methods stay specifications, made anew for each run.

    Args:
        content: of the file, changed by the command line.

    Raises:
        InputError: for a key or value that does not fit.
    """
    # Dotted keys of a sweep are kept from the parser, which would take them for nested ones.
    sweep = content.get("sweep", {})
    rest = {key: value for key, value in content.items() if key != "sweep"}
    # First, for the parser takes null for anything.
    if mistake := diagnose(rest, StudyFile):
        raise mistake
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(StudyFile)
    try:
        found = parser.parse_args(["--config", json.dumps(rest)])
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"study: {' '.join(str(error).split())}") from None
    # The parser would take NaN and the like for text.
    found.overrides = rest.get("overrides", {})
    if isinstance(rest["fit"], dict):
        found.fit = rest["fit"]
    found.sweep = flat(sweep)
    for key, values in found.sweep.items():
        if not isinstance(values, list):
            raise InputError(f"sweep.{key}: found {show(values)}, expected a list of values.")
    for key, least in (("workers", 0), ("gpus_per_worker", 0), ("cpus_per_worker", 1)):
        value = found[key]
        if value is not None and value < least:
            raise InputError(f"{key}: found {value}, expected {least} or more.")
        if value is not None and value > MOST_WORKERS:
            raise InputError(f"{key}: found {value}, expected at most {MOST_WORKERS}.")
    if found.name is not None and not found.name.strip():
        raise InputError(f"name: found {found.name!r}, expected a name, or null for the file's.")
    if found.folder is not None:
        check_folder(found.folder, "folder")
    if found.workers and found.ray is not None:
        raise InputError("workers: ray does the work already; keep one of the two.")
    return found


def _alike(value: Any) -> Any:
    """A value as all that are written otherwise and mean the same: 1, 1.0 and '1'."""
    if isinstance(value, list):
        return [_alike(item) for item in value]
    if isinstance(value, dict):
        return {key: _alike(value[key]) for key in sorted(value)}
    value = read_value(value) if isinstance(value, str) else value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def flat(sweep: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys of a sweep as dotted ones."""
    if not isinstance(sweep, dict):
        raise InputError(
            f"sweep: found {show(sweep)}, expected keys of the fit configuration, each with a list "
            "of values."
        )
    values: dict[str, Any] = {}
    for key, value in sweep.items():
        name = f"{prefix}{key}"
        if value == {}:
            raise InputError(f"sweep.{name}: found keys and values without any, expected a list.")
        found = flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        if twice := set(found) & set(values):
            raise InputError(
                f"sweep.{min(twice)}: found twice, with dots and nested; a key is swept once."
            )
        values |= found
    return values
