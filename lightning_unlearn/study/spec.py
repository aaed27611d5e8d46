"""The study file: the settings of a study, as YAML and as plain values."""

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

# Files and folders of a study besides the folders of its methods.
FOLDERS = (
    *("logs", "stages", "store", "report", "divergence"),
    *(FILE, STEPS, EXAMPLES, TRAINING),
)
# Larger numbers of workers, GPUs or cores are taken for typing mistakes.
MOST_WORKERS = 4096
# Keys that cannot be swept, and the key of the study file that sets each.
SET_BY_STUDY = {
    "seed_everything": "seeds",
    "trainer.seed": "seeds",
    "data.order": "paths",
    "data.learned": "one study per list of learned stages",
    "data.position": "paths",
    "data.permutation": "paths",
    "data.oracle": "oracle",
    "data.forget": "one study per forget stage",
    "trainer.run_name": "folder",
    "trainer.default_root_dir": "folder",
    "trainer.store": "overrides.trainer.store",
}


@dataclass
class Method:
    """An unlearning method of a study.

    Attributes:
        callback: the unlearning method.
        unlearn: changes of the recipe of unlearning (data.unlearn) for this method.
    """

    callback: Unlearning
    unlearn: dict[str, Any] = field(default_factory=dict)


@dataclass
class StudyFile:
    """The keys of a study file.

    Attributes:
        fit: a fit configuration: a file, several files to merge (relative to the study file), or
            the configuration itself.
        methods: the unlearning methods by label.
        paths: "positions", "permutations", or lists of stage names.
        seeds: run every trial once per seed; null takes the seed of the fit configuration.
        sweep: values by key of the fit configuration; run every trial once per combination.
        oracle: also train and evaluate the oracle of every path (the model retrained without the
            forget stage). A model that is retrained already is named by the key oracle of the fit
            configuration instead, and is the oracle of all runs.
        workers: number of processes that run tasks at the same time; 0 runs them in this process.
        gpus_per_worker: number of GPUs per process; null gives each process one GPU if there are
            enough, else none.
        ray: address of a Ray cluster that runs the tasks, or "auto".
        cpus_per_worker: number of CPU cores that a task requests from the Ray cluster.
        name: name of the study; null takes the name of the file.
        folder: folder of the results; null takes trainer.default_root_dir.
        figures: draw figures and page at the end; false writes the tables only.
        overrides: changes of the fit configuration.
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
    """A study in plain values, which can be sent to another process.

    Attributes:
        name: name of the study.
        fit: the fit configuration.
        methods: methods by label, each with ``callback`` (class_path and init_args) and optionally
            ``unlearn``.
        paths: "positions", "permutations", or lists of stage names.
        seeds: seeds of the runs; None takes the seed of the fit configuration.
        sweep: swept values by dotted key.
        oracle: whether to train and evaluate the oracles.
        folder: folder of the results; None takes the folder of the fit configuration.
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
        """Check everything that does not depend on the fit configuration.

        Raises:
            InputError: for a wrong value; the message names the key.
        """
        if not self.methods and not self.oracle:
            raise InputError("methods: found none, expected at least one unlearning method.")
        for label in self.methods:
            dotted = label.startswith(".")
            if not label or dotted or not all(c.isalnum() or c in "_.+" for c in label):
                raise InputError(
                    f"methods: found the label {label!r}, expected letters, digits and _ . +, and "
                    "no dot at the beginning: labels are names of folders and curves."
                )
            check_folder(label, "methods")
            # Some file systems ignore the case of letters.
            if label.lower() in FOLDERS:
                raise InputError(
                    f"methods: found the label {label!r}, which is the name of a folder or file of "
                    "every study. Choose another label."
                )
            if label.lower() == ORACLE:
                raise InputError(
                    f"methods: found the label {label!r}, which is reserved for models retrained "
                    "without the forget stage. Choose another label."
                )
        if self.paths == []:
            raise InputError("paths: found an empty list, expected at least one path.")
        if isinstance(self.paths, list):
            for place, path in enumerate(self.paths):
                if path in self.paths[:place]:
                    raise InputError(
                        f"paths: found {'-'.join(path)} twice, expected each path once."
                    )
        seeds = self.seeds
        if seeds is not None:
            if not seeds:
                raise InputError("seeds: found an empty list, expected at least one seed.")
            for place, seed in enumerate(seeds):
                if not 0 <= seed <= LARGEST_SEED:
                    raise InputError(f"seeds: found {seed}, expected 0 to {LARGEST_SEED}.")
                if seed in seeds[:place]:
                    raise InputError(f"seeds: found {seed} twice, expected each seed once.")
        for key, values in self.sweep.items():
            self._check_swept(key, values)

    def _check_swept(self, key: str, values: list[Any]) -> None:
        if not values:
            raise InputError(f"sweep.{key}: found an empty list, expected at least one value.")
        texts = [json.dumps(_normalized(value)) for value in values]
        for place, text in enumerate(texts):
            if text in texts[:place]:
                found = json.dumps(values[place])
                raise InputError(f"sweep.{key}: found {found} twice, expected each value once.")
        for fixed, instead in SET_BY_STUDY.items():
            if key == fixed or key.startswith(f"{fixed}."):
                raise InputError(f"sweep.{key}: {fixed} cannot be swept. Use {instead} instead.")
        for label, method in self.methods.items():
            for name in method.get("unlearn", {}):
                if key in ("data.unlearn", f"data.unlearn.{name}"):
                    raise InputError(
                        f"sweep.{key}: methods.{label}.unlearn.{name} sets the same key. Remove "
                        "one of the two."
                    )

    def settings(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the swept values, by key."""
        for values in itertools.product(*self.sweep.values()):
            yield dict(zip(self.sweep, values, strict=True))

    def write(self) -> str:
        """Return the values as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "StudySpec":
        """Return the study from the JSON of `write`."""
        return cls(**json.loads(text))


def parse_study(content: dict[str, Any]) -> Namespace:
    """Parse the content of a study file.

    Methods stay specifications, because every run creates its own objects.

    Args:
        content: content of the file, with the changes of the command line.

    Returns:
        The values by key of `StudyFile`.

    Raises:
        InputError: for an unknown key or a wrong value.
    """
    # Remove the sweep: the parser would read its dotted keys as nested ones.
    sweep = content.get("sweep", {})
    rest = {key: value for key, value in content.items() if key != "sweep"}
    # Diagnose before parsing: the parser accepts null for every type.
    if mistake := diagnose(rest, StudyFile):
        raise mistake
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(StudyFile)
    try:
        found = parser.parse_args(["--config", json.dumps(rest)])
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"study: {' '.join(str(error).split())}") from None
    # Restore these values: the parser reads NaN and infinity as text.
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
        raise InputError(
            f"workers: found {found.workers} and ray {found.ray}, expected one of the two. Set "
            "workers to 0, or ray to null."
        )
    return found


def _normalized(value: Any) -> Any:
    """Return one form for values that mean the same, such as 1, 1.0 and '1'."""
    if isinstance(value, list):
        return [_normalized(item) for item in value]
    if isinstance(value, dict):
        return {key: _normalized(value[key]) for key in sorted(value)}
    value = read_value(value) if isinstance(value, str) else value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def flat(sweep: Any, prefix: str = "") -> dict[str, Any]:
    """Convert the nested keys of a sweep to dotted keys.

    Args:
        sweep: the value of ``sweep`` in a study file.
        prefix: the dotted key of ``sweep``, with a dot at the end.

    Returns:
        Values by dotted key.

    Raises:
        InputError: if a level is not a mapping, is empty, or a key appears twice.
    """
    if not isinstance(sweep, dict):
        raise InputError(
            f"sweep: found {show(sweep)}, expected keys of the fit configuration, each with a list "
            "of values."
        )
    values: dict[str, Any] = {}
    for key, value in sweep.items():
        name = f"{prefix}{key}"
        if value == {}:
            raise InputError(f"sweep.{name}: found {{}}, expected a list of values.")
        found = flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        if twice := set(found) & set(values):
            raise InputError(
                f"sweep.{min(twice)}: found twice, dotted and nested, expected each key once."
            )
        values |= found
    return values
