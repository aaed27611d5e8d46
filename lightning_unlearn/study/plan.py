"""Plan of a study: a tree whose nodes are prefixes of paths and whose leaves are runs.

A plan consists of plain values: reading it needs neither torch nor lightning.
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
FORMAT = 2
LEAVES = ("unlearn", "oracle")


@dataclass(frozen=True)
class Trial:
    """One trial of a study: a combination of path, method, seed and setting.

    Attributes:
        path: the stages in order.
        place: number of the path in the study, counted from 1.
        position: position of the forget stage in the path, counted from 1.
        method: label of the unlearning method, or "oracle".
        seed: seed of all random numbers.
        sweep: swept keys and their values.
        keys: keys of the trial's entries in the stage store, in order. Trials with the same last
            key are one run.
        run: folder of the run, relative to the folder of the study.
    """

    path: tuple[str, ...]
    place: int
    position: int
    method: str
    seed: int
    sweep: tuple[tuple[str, Any], ...]
    keys: tuple[str, ...]
    run: str

    def find(
        self,
        folder: Path,
        sizes_only: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> Path | None:
        """Find the folder of the trial's finished run; return None if there is none.

        Args:
            folder: folder of the study.
            sizes_only: see `find_run`.
            report: see `find_run`.
        """
        return find_run(folder / self.run, self.keys[-1], sizes_only, report)


@dataclass(frozen=True)
class Task:
    """One task of a study: it makes a store entry, either a trained stage or a run.

    Attributes:
        key: key of the entry in the stage store.
        stage: name of the stage, "unlearn" or "oracle".
        parent: key of the task whose weights it starts from; None for the base model.
        trial: index of the first trial that needs the task.
        number: index of the task among the keys of that trial, counted from 0.
        tokens: number of tokens that training processes.
        oracle: key of the stage that trains the oracle it is compared with; None for none.
        history: keys of the tasks that make the other models that its result is computed from.
    """

    key: str
    stage: str
    parent: str | None
    trial: int
    number: int
    tokens: int
    oracle: str | None = None
    history: tuple[str, ...] = ()

    @property
    def needs(self) -> list[str]:
        """Return the keys of the tasks that must be finished first."""
        return [key for key in (self.parent, self.oracle, *self.history) if key is not None]

    @property
    def is_run(self) -> bool:
        """Return whether the task completes a run."""
        return self.stage in LEAVES


@dataclass(frozen=True)
class StudyPlan:
    """The trials of a study, and the tree of tasks that they share.

    Attributes:
        name: name of the study.
        folder: folder of the results.
        store: folder of the stage store.
        trials: all trials; trials that share a prefix are neighbors.
        tasks: all tasks, parents before children, in the order of the trials.
        remarks: notes for the user before the study starts.
        machine: hardware and software of the process that made the plan.
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
        """Return the tasks by key."""
        return {task.key: task for task in self.tasks}

    @property
    def stages(self) -> list[Task]:
        """Return the distinct stage trainings."""
        return [task for task in self.tasks if not task.is_run]

    @property
    def stages_apart(self) -> int:
        """Return the number of stage trainings if no two models shared a prefix."""
        ends = {trial.keys[:-1] for trial in self.trials}
        return sum(map(len, ends))

    def runs(self) -> list[Trial]:
        """Return one trial per run: the first of the trials with the same last key."""
        found: dict[str, Trial] = {}
        for trial in self.trials:
            found.setdefault(trial.keys[-1], trial)
        return list(found.values())

    @cached_property
    def through(self) -> dict[str, list[Trial]]:
        """Return the trials that need each task, by key of the task."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            for key in trial.keys:
                found.setdefault(key, []).append(trial)
        return found

    def label(self, task: Task) -> str:
        """Return the name of a task: the folder of a run, or the prefix that ends in a stage."""
        trial = self.trials[task.trial]
        if task.is_run:
            return visible(trial.run)
        names = self._prefix(task)
        setting = common_setting([trial.sweep for trial in self.through[task.key]])
        return visible(f"{'-'.join(names)} (seed {trial.seed}{', ' if setting else ''}{setting})")

    def _prefix(self, task: Task) -> list[str]:
        """Return the names of the stages up to that of a task."""
        names = [task.stage]
        while task.parent is not None:
            task = self.task[task.parent]
            names.insert(0, task.stage)
        return names

    def needed(self, trials: Iterable[Trial]) -> list[Task]:
        """Return the tasks that the given trials need, in order."""
        keys = {key for trial in trials for key in trial.keys}
        # Go backwards: the tasks that a task needs come before it.
        for task in reversed(self.tasks):
            if task.key in keys:
                keys.update(task.needs)
        return [task for task in self.tasks if task.key in keys]

    def select(self, only: str | None) -> list[Trial]:
        """Select trials by conditions.

        Args:
            only: conditions such as ``path=4,method=NPO``. Conditions on one key are alternatives;
                conditions on different keys must all hold. Keys are path (number, or stages joined
                by "-"), position, method, seed and the swept keys, complete or by their last part.
                None selects all trials.

        Returns:
            The selected trials.

        Raises:
            InputError: for a key or value that no trial has.
        """
        if only is None:
            return list(self.trials)
        wanted: dict[str, list[str]] = {}
        swept = [key for key, _ in self.trials[0].sweep] if self.trials else []
        keys = ["path", "position", "method", "seed", *swept]
        # Commas inside brackets belong to a value.
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
            raise InputError(
                f"--only: found {only!r}, expected conditions that at least one trial of the study "
                "fulfills."
            )
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
        """Write the plan to study.json, for ``lightning-unlearn status``."""
        values = seal_values({"format": FORMAT, **asdict(self)})
        records.write_text(folder / FILE, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "StudyPlan":
        """Read the plan that `write` wrote to a folder.

        Raises:
            InputError: if the file cannot be read, was changed, or is of another version.
        """
        file = folder / FILE
        try:
            return cls.read(read_values(file))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        except (Damage, KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{file} cannot be read: {error}. Write it again with: lightning-unlearn study "
                "--config FILE"
            ) from error

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "StudyPlan":
        """Return the plan from the values of study.json, or from its ``asdict``.

        Raises:
            InputError: if the values are of another version.
        """
        if values.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"found format {values['format']} of another version of lightning-unlearn, "
                f"expected {FORMAT}. Write it again with: lightning-unlearn study --config FILE"
            )
        trials = [
            Trial(
                **{
                    **trial,
                    "path": tuple(trial["path"]),
                    "keys": tuple(trial["keys"]),
                    "sweep": tuple((key, value) for key, value in trial["sweep"]),
                }
            )
            for trial in values["trials"]
        ]
        tasks = [
            Task(**{**task, "history": tuple(task.get("history", ()))}) for task in values["tasks"]
        ]
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
    """Return the plan that another process made.

    Args:
        answer: the answer of that process: the ``asdict`` of the plan, or the refusal.

    Raises:
        InputError: the error of that process, if it refused to plan.
    """
    if "refused" in answer:
        error = InputError(answer["refused"])
        if answer["path"] is not None:
            error.path = tuple(answer["path"])  # type: ignore[attr-defined]
        raise error
    return StudyPlan.read(answer["plan"])


def refusal(error: InputError) -> dict[str, Any]:
    """Return the answer of a process that refuses to plan."""
    return {"refused": str(error), "path": getattr(error, "path", None)}


def common_setting(settings: Sequence[Sequence[tuple[str, Any]]]) -> str:
    """Return the text of the keys and values that several settings have in common.

    Args:
        settings: swept keys and values, the same keys in each.

    Returns:
        The text, with the same short names of keys everywhere in the study.
    """
    common = [all(pair in setting for setting in settings) for pair in settings[0]]
    values = [
        written(value) if same else None
        for (_, value), same in zip(settings[0], common, strict=True)
    ]
    return setting_name([key for key, _ in settings[0]], values)


def written(value: Any) -> str:
    """Return a swept value as text; a string is read as YAML first, so 3e-5 becomes 0.00003."""
    value = read_value(value) if isinstance(value, str) else value
    return json.dumps(value) if isinstance(value, (list, dict)) else short_value(value)


def _values(trial: Trial, key: str) -> set[str]:
    """Return the texts that stand for a trial's value of a key."""
    if key == "path":
        return {str(trial.place), "-".join(trial.path)}
    if key in ("position", "method", "seed"):
        return {str(getattr(trial, key))}
    return {written(dict(trial.sweep)[key])}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
