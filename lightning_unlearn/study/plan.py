"""What a study has to do, counted before it starts: a tree of stage prefixes with runs as leaves.

Plain values: neither torch nor lightning is needed to read a plan back.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.settings.labels import setting_name, short_value
from lightning_unlearn.settings.strict_yaml import read_value
from lightning_unlearn.storage import records
from lightning_unlearn.storage.run_folders import find_run
from lightning_unlearn.storage.seals import Damage, read_values, seal_values

FILE = "study.json"
FORMAT = 1
LEAVES = ("unlearn", "oracle")


@dataclass(frozen=True)
class Trial:
    """One trial of the grid.

    Attributes:
        path: the stages in order.
        place: number of the path in the study, from 1.
        position: place of the forget stage in the path, from 1.
        method: label of the unlearning method, or "oracle".
        seed: of everything random.
        sweep: swept keys and their values.
        walk: keys in the stage store of what is made for it, in order. Trials that end in the same
            key are one run.
        run: folder of the run inside the study's.
    """

    path: tuple[str, ...]
    place: int
    position: int
    method: str
    seed: int
    sweep: tuple[tuple[str, Any], ...]
    walk: tuple[str, ...]
    run: str

    def find(
        self,
        folder: Path,
        sizes_only: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> Path | None:
        """The folder of its finished run in that of the study; None if there is none.

        Args:
            folder: of the study.
            sizes_only: as of `find_run`.
            report: as of `find_run`.
        """
        return find_run(folder / self.run, self.walk[-1], sizes_only, report)


@dataclass(frozen=True)
class Task:
    """A store entry that the study needs: a trained stage, or a run at its end.

    Attributes:
        key: in the stage store.
        stage: name of the stage, "unlearn" or "oracle".
        parent: key of what it starts from; None for the base model.
        trial: number of the first trial that needs it.
        number: its place in that trial's walk, from 0.
        tokens: tokens that pass through training.
        oracle: key of the trained stage whose model it is compared with while it is made; None for
            none.
    """

    key: str
    stage: str
    parent: str | None
    trial: int
    number: int
    tokens: int
    oracle: str | None = None

    @property
    def needs(self) -> list[str]:
        """Keys of what must be made before it."""
        return [key for key in (self.parent, self.oracle) if key is not None]

    @property
    def is_run(self) -> bool:
        """Whether a run ends here."""
        return self.stage in LEAVES


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study, and the tree of what they share.

    Attributes:
        name: of the study.
        folder: where its results go.
        store: folder of the stage store.
        trials: the grid; those that share a prefix are neighbors.
        tasks: what is to be made, parents before children, in the order of the trials.
        remarks: what the user should know before it starts.
        machine: where and with what numbers are computed, as far as the process that plans knows.
    """

    name: str
    folder: str
    store: str
    trials: tuple[Trial, ...]
    tasks: tuple[Task, ...]
    remarks: tuple[str, ...] = ()
    machine: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def task(self) -> dict[str, Task]:
        """The tasks by key."""
        return {task.key: task for task in self.tasks}

    @property
    def stages(self) -> list[Task]:
        """The distinct stage trainings."""
        return [task for task in self.tasks if not task.is_run]

    @property
    def stages_apart(self) -> int:
        """Stage trainings if every trained model were made from the start."""
        ends = {trial.walk[:-1] for trial in self.trials}
        return sum(map(len, ends))

    def runs(self) -> list[Trial]:
        """One trial per run: of those that end in the same key, the first."""
        found: dict[str, Trial] = {}
        for trial in self.trials:
            found.setdefault(trial.walk[-1], trial)
        return list(found.values())

    @cached_property
    def through(self) -> dict[str, list[Trial]]:
        """The trials that need each task, by its key."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            for key in trial.walk:
                found.setdefault(key, []).append(trial)
        return found

    def label(self, task: Task) -> str:
        """A task in words: of a run its folder, of a stage the prefix that ends with it."""
        trial = self.trials[task.trial]
        if task.is_run:
            return visible(trial.run)
        names = [self.task[key].stage for key in trial.walk[: task.number + 1]]
        setting = common_setting([trial.sweep for trial in self.through[task.key]])
        return visible(f"{'-'.join(names)} (seed {trial.seed}{', ' if setting else ''}{setting})")

    def needed(self, trials: Iterable[Trial]) -> list[Task]:
        """The tasks that some trials need, in order."""
        keys = {key for trial in trials for key in trial.walk}
        # What a task needs comes before it.
        for task in reversed(self.tasks):
            if task.key in keys:
                keys.update(task.needs)
        return [task for task in self.tasks if task.key in keys]

    def select(self, only: str | None) -> list[Trial]:
        """A part of the grid.

        Args:
            only: conditions such as ``path=4,method=NPO``. Those on one key are alternatives,
                those on different keys must all hold. Keys are path (number, or stages joined by
                "-"), position, method, seed and the swept keys, whole or by their last part.

        Returns:
            The trials, or all for None.

        Raises:
            InputError: for a key or value that no trial has.
        """
        if only is None:
            return list(self.trials)
        wanted: dict[str, list[str]] = {}
        swept = [key for key, _ in self.trials[0].sweep] if self.trials else []
        keys = ["path", "position", "method", "seed", *swept]
        # Commas inside brackets are those of a value.
        for condition in re.split(r",(?![^\[{]*[\]}])", only):
            key, equals, value = (part.strip() for part in condition.partition("="))
            close = [known for known in swept if known.endswith(f".{key}")]
            key = close[0] if key not in keys and len(close) == 1 else key
            value = written(value) if key in swept else value
            if not equals or key not in keys:
                raise InputError(
                    f"--only: found {condition!r}, expected KEY=VALUE with a key of "
                    f"{', '.join(keys)}."
                )
            known_values = {text for trial in self.trials for text in _values(trial, key)}
            if value not in known_values:
                raise InputError(
                    f"--only: found {key}={value}, expected one of "
                    f"{', '.join(sorted(known_values))}."
                )
            wanted.setdefault(key, []).append(value)
        chosen = [
            trial
            for trial in self.trials
            if all(_values(trial, key) & set(values) for key, values in wanted.items())
        ]
        if not chosen:
            raise InputError(f"--only: found {only!r}, and no trial of the study has all of that.")
        return chosen

    def __str__(self) -> str:
        shared, apart = len(self.stages), self.stages_apart
        parts = [_count(shared, "stage training")]
        if shared < apart:
            parts[0] += f" instead of {apart}"
        leaves = Counter(task.stage for task in self.tasks if task.is_run)
        parts += [_count(leaves["unlearn"], "unlearning")] if leaves["unlearn"] else []
        parts += [_count(leaves["oracle"], "oracle")] if leaves["oracle"] else []
        return ", ".join(parts)

    def write(self, folder: Path) -> None:
        """Keep the plan as study.json, for ``lightning-unlearn status``."""
        values = seal_values({"format": FORMAT, **asdict(self)})
        records.write_text(folder / FILE, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "StudyPlan":
        """The plan that `write` left in a folder.

        Raises:
            InputError: it can't be read, is not as it was written, or is of another version.
        """
        file = folder / FILE
        try:
            return cls.read(read_values(file))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        except (Damage, KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{file} can't be read: {error}; run the study again to have it written anew."
            ) from error

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "StudyPlan":
        """The plan from what `write` wrote, or from its ``asdict``.

        Raises:
            InputError: if it is of another version.
        """
        if values.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"found format {values['format']}, expected {FORMAT}; it is of another version of "
                "lightning-unlearn: run the study again to have it written anew."
            )
        trials = [
            Trial(
                **{
                    **trial,
                    "path": tuple(trial["path"]),
                    "walk": tuple(trial["walk"]),
                    "sweep": tuple((key, value) for key, value in trial["sweep"]),
                }
            )
            for trial in values["trials"]
        ]
        tasks = [Task(**task) for task in values["tasks"]]
        if not trials or not tasks:
            raise ValueError("found no trials, expected some")
        return cls(
            values["name"],
            values["folder"],
            values["store"],
            tuple(trials),
            tuple(tasks),
            tuple(values["remarks"]),
            dict(values.get("machine") or {}),
        )


def plan_of(answer: Mapping[str, Any]) -> StudyPlan:
    """The plan that another process made.

    Args:
        answer: its answer: the plan as of ``asdict``, or why there is none.

    Raises:
        InputError: what that process refused.
    """
    if "refused" in answer:
        error = InputError(answer["refused"])
        if answer["path"] is not None:
            error.path = tuple(answer["path"])  # type: ignore[attr-defined]
        raise error
    return StudyPlan.read(answer["plan"])


def refusal(error: InputError) -> dict[str, Any]:
    """The answer of a process that refuses to plan."""
    return {"refused": str(error), "path": getattr(error, "path", None)}


def common_setting(settings: Sequence[Sequence[tuple[str, Any]]]) -> str:
    """What settings have in common, in words; keys are named alike wherever the study names them.

    Args:
        settings: swept keys and values, the same keys in each.
    """
    common = [all(pair in setting for setting in settings) for pair in settings[0]]
    values = [
        written(value) if same else None
        for (_, value), same in zip(settings[0], common, strict=True)
    ]
    return setting_name([key for key, _ in settings[0]], values)


def written(value: Any) -> str:
    """A swept value as text; one that is text already is read as YAML, so 3e-5 is 0.00003."""
    value = read_value(value) if isinstance(value, str) else value
    return json.dumps(value) if isinstance(value, (list, dict)) else short_value(value)


def _values(trial: Trial, key: str) -> set[str]:
    """How a trial's value of a key may be written."""
    if key == "path":
        return {str(trial.place), "-".join(trial.path)}
    if key in ("position", "method", "seed"):
        return {str(getattr(trial, key))}
    return {written(dict(trial.sweep)[key])}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
