"""The workbench: what makes the tasks of a study's tree, in whichever process."""

import gc
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.data.datamodule import ORACLE, StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.view import BASE
from lightning_unlearn.settings.compose import change, compose
from lightning_unlearn.settings.folder_names import check_folder
from lightning_unlearn.settings.labels import setting_name
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.study.plan import StudyPlan, Task, Trial, common_setting, written
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.training.from_config import StagedCLI, is_method
from lightning_unlearn.training.path_plan import PlannedStage
from lightning_unlearn.training.progress import StageProgress
from lightning_unlearn.training.trainer import StagedTrainer

Setting = tuple[tuple[str, Any], ...]

# Of the data's configuration; the rest decides which rows are read, and how stages train.
SET_BY_CELL = ("order", "position", "permutation", "oracle", "unlearn")


@dataclass(frozen=True)
class _Point:
    """A trial of the grid before it is known what it shares with others."""

    path: tuple[str, ...]
    place: int
    method: str
    seed: int
    setting: Setting


class TaskRunner:
    """Trainer, model and data of every trial of a study.

    Args:
        spec: the study.
        say: called with sentences about what can't be seen in the results, such as damage.

    Raises:
        InputError: for a mistake in the study or in its fit configuration.
    """

    def __init__(self, spec: StudySpec, say: Callable[[str], None] = print) -> None:
        spec.check()
        self.spec = spec
        self.say = say
        self._clis: dict[tuple[str, str], StagedCLI] = {}
        self._data: dict[str, StagedDataModule] = {}
        self._model: tuple[str, CausalLM] | None = None
        self._without_methods = _without_methods(spec.fit)
        self._first = self._cli(next(iter(spec.methods), ORACLE), next(spec.settings()))
        trainer = self._first.trainer
        self.folder = Path(spec.folder or trainer.default_root_dir)
        self.store = StageStore(trainer.store.folder, report=say)
        self._plan: StudyPlan | None = None

    def plan(self) -> StudyPlan:
        """The study's tree, after everything that can be found wrong beforehand.

        Raises:
            InputError: for whatever a run would refuse before it trains.
        """
        if self._plan is not None:
            return self._plan
        points = list(self._points())
        checked = set()
        walks = []
        tasks: dict[str, Task] = {}
        remarks: dict[str, None] = {}
        for number, point in enumerate(points):
            model, data = self._place(point)
            trainer = self._trainer(point)
            alike = (point.path, point.method, json.dumps(point.setting))
            if alike not in checked:
                checked.add(alike)
                self._check(trainer, point)
                remarks |= dict.fromkeys(trainer.remarks(model, data))
                if not self.spec.oracle:
                    remarks |= dict.fromkeys(_without_oracle(trainer))
            walk = trainer.plan(model, data)
            walks.append(tuple(stage.key for stage in walk))
            for place, stage in enumerate(walk):
                parent = walk[place - 1].key if place else None
                if stage.key not in tasks:
                    tokens = _tokens(data, stage)
                    tasks[stage.key] = Task(
                        stage.key, stage.name, parent, number, place, tokens, _key(stage.oracle)
                    )
        self._plan = StudyPlan(
            self.spec.name,
            str(self.folder),
            str(self.store.folder.absolute()),
            tuple(self._cells(points, walks)),
            tuple(tasks.values()),
            tuple(remarks),
            self._first.trainer.machine,
        )
        return self._plan

    def make(self, key: str, bar: StageProgress | None) -> bool:
        """Make a task: train a stage, or carry out a run and fill its folder.

        Args:
            key: of the task; what it starts from is in the store.
            bar: shows progress; None for none.

        Returns:
            Whether anything had to be trained or measured.

        Raises:
            Exception: whatever went wrong; the bench can make other tasks.
        """
        plan = self.plan()
        if key not in plan.task:
            raise InputError(
                f"study: this process plans no {key[:8]}; its files or its environment differ from "
                "those of the process that asks."
            )
        task = plan.task[key]
        trial = plan.trials[task.trial]
        is_there = task.is_run and trial.find(self.folder) is not None
        if is_there and self.processes == 1 and self.store.get(key) is not None:
            return False  # another process has made it in between
        point = _Point(trial.path, trial.place, trial.method, trial.seed, trial.sweep)
        model, data = self._place(point)
        trainer = self._trainer(point, bar, trial.run)
        try:
            trainer.walk(model, data, None if task.is_run else task.number + 1)
        except Exception:
            _free()
            raise
        return bool(trainer.trained)

    @property
    def processes(self) -> int:
        """How many processes train one model."""
        return int(self._first.trainer.world_size)

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._first.trainer.is_global_zero)

    def agree(self, value: Any) -> Any:
        """The first process's value, on all processes that train one model."""
        trainer = self._first.trainer
        if self.processes > 1:
            trainer.open_processes(self._first.model)
        return trainer.strategy.broadcast(value)

    def _points(self) -> Iterator[_Point]:
        """The grid, in an order in which neighbors share the model, then stages."""
        wanted, data = self.spec.paths, self._first.datamodule
        paths: Sequence[tuple[str, ...]]
        if isinstance(wanted, str):
            paths = data.paths(wanted)
        else:
            paths = [data.check_order(path, "paths") for path in wanted]
        seeds = self.spec.seeds
        if seeds is None:
            seeds = [self._first.trainer.seed]
        # Runs may be compared with oracles while they are made.
        labels = [*([ORACLE] if self.spec.oracle else []), *self.spec.methods]
        groups: dict[str, list[Setting]] = {}
        for setting in map(dict, self.spec.settings()):
            key = _model_key(self._cli(labels[0], setting))
            groups.setdefault(key, []).append(tuple(setting.items()))
        for settings in groups.values():
            for seed, (place, path), label in itertools.product(
                seeds, enumerate(paths, start=1), labels
            ):
                for chosen in settings:
                    yield _Point(path, place, label, seed, chosen)

    def _cells(self, points: Sequence[_Point], walks: Sequence[tuple[str, ...]]) -> Iterator[Trial]:
        """The points as trials; those that end in the same key have one folder."""
        alike: dict[str, list[_Point]] = {}
        for point, walk in zip(points, walks, strict=True):
            alike.setdefault(walk[-1], []).append(point)
        forget = self._first.datamodule.forget
        for point, walk in zip(points, walks, strict=True):
            run = _folder(alike[walk[-1]], forget)
            check_folder(str(self.folder / run), "sweep" if point.setting else "data.stages")
            yield Trial(
                point.path,
                point.place,
                point.path.index(forget) + 1,
                point.method,
                point.seed,
                point.setting,
                walk,
                run,
            )

    def _cli(self, label: str, setting: dict[str, Any]) -> StagedCLI:
        """The fit configuration of a method and a setting, parsed."""
        known = (label, json.dumps(setting, sort_keys=True))
        if known not in self._clis:
            content = {**self.spec.fit, "trainer": dict(self._without_methods)}
            if label != ORACLE:
                method = self.spec.methods[label]
                callbacks = [*content["trainer"]["callbacks"], method["callback"]]
                content["trainer"]["callbacks"] = callbacks
                content = compose(content, {"data": {"unlearn": method.get("unlearn", {})}})
            for key, value in setting.items():
                # The last callback is the method; an oracle has none.
                if label != ORACLE or not key.startswith("trainer.callbacks."):
                    content = change(content, key.split("."), value)
            try:
                self._clis[known] = StagedCLI(None, content, [])
            except InputError as error:
                raise InputError(self._own_words(str(error), label, setting)) from error
        return self._clis[known]

    def _own_words(self, text: str, label: str, setting: dict[str, Any]) -> str:
        """A message about a fit configuration, with the keys that the study file has.

        Raises:
            InputError: the message of a part of the setting, if that alone is refused.
        """
        if setting:
            self._cli(label, {})
            for key, value in setting.items():
                if len(setting) == 1:
                    return _of_sweep(text, key)
                self._cli(label, {key: value})
            values = [written(value) for value in setting.values()]
            return f"sweep: {setting_name(list(setting), values)}: {text}"
        if label == ORACLE:
            return text
        # Only what the method itself says is its own; the rest is the fit configuration's.
        keys = "|".join(map(re.escape, self.spec.methods[label].get("unlearn", {})))
        own = f"methods.{label}.unlearn."
        changed, count = re.subn(rf"^data\.unlearn\.(?=({keys})\b)", own, text)
        return changed if count else f"methods.{label}: {text}"

    def _check(self, trainer: StagedTrainer, point: _Point) -> None:
        """Find what is wrong with a trial."""
        try:
            trainer.check(*self._place(point))
        except InputError as error:
            for key, _ in point.setting:
                if str(error).startswith(f"{key}:"):
                    raise InputError(_of_sweep(str(error), key)) from error
            raise

    def _trainer(
        self, point: _Point, bar: StageProgress | None = None, run: str = ""
    ) -> StagedTrainer:
        """A fresh trainer, with fresh callbacks, for a trial; for its plan no run is named."""
        cli = self._cli(point.method, dict(point.setting))
        config = cli.config.clone()
        config["seed_everything"] = config["trainer.seed"] = point.seed
        config["trainer.default_root_dir"], config["trainer.run_name"] = (
            str(self.folder),
            run or None,
        )
        config["data.order"], config["data.oracle"] = list(point.path), point.method == ORACLE
        config["data.position"] = config["data.permutation"] = None
        settings = cli.parser.instantiate(config).trainer
        callbacks = _as_list(settings.callbacks)
        shown = settings.enable_progress_bar and bar is not None
        changed = {"callbacks": [bar, *callbacks] if shown else callbacks}
        trainer = StagedTrainer(**{**vars(settings), **changed, "enable_progress_bar": shown})
        if trainer.method is not None:
            trainer.method.name = point.method
        trainer.announces = False
        trainer.expects_oracle = self.spec.oracle
        trainer.tell = self.say
        trainer.store = self.store
        if run:
            # Most of the time of a plan would go into it.
            trainer.config_text = cli.config_text(config)
        return trainer

    def _place(self, point: _Point) -> tuple[CausalLM, StagedDataModule]:
        """Model and data of a trial; those of the trial before where they are the same."""
        cli = self._cli(point.method, dict(point.setting))
        key = _model_key(cli)
        if self._model is None or self._model[0] != key:
            # The one before is let go: two may not fit into memory.
            self._model, self._data = None, {}
            _free()
            self._model = (key, cli.parser.instantiate(cli.config).model)
        own = {k: v for k, v in cli.config.data.as_dict().items() if k not in SET_BY_CELL}
        wanted = json.dumps(own, default=str)
        if wanted not in self._data:
            data: StagedDataModule = cli.parser.instantiate(cli.config).data
            for other in self._data.values():
                data.adopt(other)
            self._data[wanted] = data
        data = self._data[wanted]
        data.unlearn = cli.datamodule.unlearn
        data.path, data.oracle = point.path, point.method == ORACLE
        return self._model[1], data


def _without_oracle(trainer: StagedTrainer) -> list[str]:
    """What is not measured in a study without oracles, in a sentence."""
    names = [type(monitor).__name__ for monitor in trainer.monitors if monitor.uses_oracle]
    if not names:
        return []
    return [
        f"{' and '.join(names)}: no distance to the oracle is measured, for the study trains none "
        "(oracle: true does)."
    ]


def _free() -> None:
    """Give back what nothing holds any more: a model and its trainer hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _key(oracle: str | None) -> str | None:
    """The store key of what a run is compared with; the base model has none."""
    return None if oracle == BASE else oracle


def _of_sweep(text: str, key: str) -> str:
    """A message about the value of a swept key."""
    return f"sweep.{text}" if text.startswith(f"{key}:") else f"sweep.{key}: {text}"


def _model_key(cli: StagedCLI) -> str:
    """What tells apart models that can't take each other's place in memory."""
    trainer = cli.config.trainer
    return json.dumps([cli.config.model.as_dict(), str(trainer.precision)], default=str)


def _tokens(data: StagedDataModule, stage: PlannedStage) -> int:
    """Tokens that pass through training in a step of a walk."""
    if stage.name == ORACLE:
        return 0
    recipe, examples = data.recipe(stage.name), data.training_examples(stage.name)
    of_epoch = sum(map(len, examples))
    if recipe.steps is None:
        return recipe.epochs * of_epoch
    return recipe.steps * recipe.batch_size * of_epoch // len(examples)


def _folder(alike: Sequence[_Point], forget: str | None) -> str:
    """Where a run goes, from the trials it stands for: what they differ in has no bearing on it."""
    first = alike[0]
    setting = common_setting([point.setting for point in alike])
    stages = [stage for stage in first.path if first.method != ORACLE or stage != forget]
    place = f"p{first.path.index(forget) + 1}_" if forget and first.method != ORACLE else ""
    # Names of files should not need quotes.
    safe = re.sub(r"[^\w.,=+-]", "_", setting.replace(" = ", "=").replace(", ", ","))
    parts = [first.method, *([safe] if safe else [])]
    return "/".join([*parts, f"{place}{'-'.join(stages) or 'base'}_s{first.seed}"])


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
