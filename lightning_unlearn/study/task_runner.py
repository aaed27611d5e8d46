"""TaskRunner: plans a study and runs its tasks, in this process or in a worker."""

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
from lightning_unlearn.data.paths import NO_ORACLE
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.settings.compose import merge, set_key
from lightning_unlearn.settings.folder_names import check_folder
from lightning_unlearn.settings.labels import setting_name
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.study.oracles import check_oracle, without_oracle
from lightning_unlearn.study.plan import StudyPlan, Task, Trial, common_setting, written
from lightning_unlearn.study.planned_task import task_of
from lightning_unlearn.study.spec import StudySpec
from lightning_unlearn.training.from_config import StagedCLI, is_method
from lightning_unlearn.training.progress import StageProgress
from lightning_unlearn.training.trainer import StagedTrainer

Setting = tuple[tuple[str, Any], ...]

# Keys of the data's configuration that a trial sets; the others determine rows and recipes.
SET_BY_TRIAL = ("order", "position", "permutation", "oracle", "unlearn")


@dataclass(frozen=True)
class _Point:
    """A trial before its store keys and its folder are known."""

    path: tuple[str, ...]
    place: int
    method: str
    seed: int
    setting: Setting


class TaskRunner:
    """Creates trainer, model and data of every trial of a study, and runs its tasks.

    Args:
        spec: the study.
        say: function that prints a message, for example about damaged store entries.

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
        check_oracle(spec, trainer)
        self.folder = Path(spec.folder or trainer.default_root_dir)
        self.store = StageStore(trainer.store.folder, report=say)
        self._plan: StudyPlan | None = None

    def plan(self) -> StudyPlan:
        """Return the plan of the study, after all checks of its runs.

        Raises:
            InputError: for any mistake that a run would report before training.
        """
        if self._plan is not None:
            return self._plan
        points = list(self._points())
        checked = set()
        chains = []
        tasks: dict[str, Task] = {}
        remarks: dict[str, None] = {}
        for number, point in enumerate(points):
            model, data = self._model_and_data(point)
            trainer = self._trainer(point)
            # Seeds differ in nothing that is checked.
            without_seed = (point.path, point.method, json.dumps(point.setting))
            if without_seed not in checked:
                checked.add(without_seed)
                self._check(trainer, point)
                remarks |= dict.fromkeys(trainer.data_notes(model, data))
                trains = self.spec.oracle or data.forget in data.learned
                if not trains and trainer.oracle is None:
                    remarks |= dict.fromkeys(without_oracle(trainer))
            planned = trainer.plan(model, data)
            chains.append(tuple(stage.key for stage in planned))
            for place, stage in enumerate(planned):
                if stage.key not in tasks:
                    tasks[stage.key] = task_of(stage, data, number, place)
        self._plan = StudyPlan(
            self.spec.name,
            str(self.folder),
            str(self.store.folder.absolute()),
            tuple(self._trials(points, chains)),
            tuple(tasks.values()),
            tuple(remarks),
            self._first.trainer.machine,
        )
        return self._plan

    def make(self, key: str, bar: StageProgress | None) -> bool:
        """Run a task: train a stage, or complete a run and fill its folder.

        Args:
            key: key of the task; the store has the entries that it needs.
            bar: progress bar; None for none.

        Returns:
            Whether anything had to be trained or evaluated.

        Raises:
            Exception: any error of the task; other tasks can still run.
        """
        plan = self.plan()
        if key not in plan.task:
            raise InputError(
                f"study: found task {key[:8]}, which is not in this process's plan. Its files or "
                "environment variables differ from those of the process that requested the task."
            )
        task = plan.task[key]
        trial = plan.trials[task.trial]
        is_there = task.is_run and trial.find(self.folder) is not None
        if is_there and self.processes == 1 and self.store.get(key) is not None:
            return False  # another process has finished it since the study was planned
        point = _Point(trial.path, trial.place, trial.method, trial.seed, trial.sweep)
        model, data = self._model_and_data(point)
        # Only a run has a folder, and the text of its configuration takes time.
        trainer = self._trainer(point, bar, trial.run if task.is_run else "")
        try:
            trainer.run_path(model, data, None if task.is_run else task.number + 1)
        except Exception:
            _free()
            raise
        return bool(trainer.trained_stages)

    @property
    def processes(self) -> int:
        """Return the number of processes that train one model."""
        return int(self._first.trainer.world_size)

    @property
    def is_first_process(self) -> bool:
        """Return whether this process is the one that writes."""
        return bool(self._first.trainer.is_global_zero)

    def agree(self, value: Any) -> Any:
        """Return the first process's value on all processes that train one model."""
        trainer = self._first.trainer
        if self.processes > 1:
            trainer.launch_processes(self._first.model)
        return trainer.strategy.broadcast(value)

    def _points(self) -> Iterator[_Point]:
        """Yield all trials, ordered so that neighbors share the model, then stages."""
        wanted, data = self.spec.paths, self._first.datamodule
        if self.spec.oracle and data.forget in data.learned:
            raise InputError(
                f"oracle: found true with {data.forget!r} in data.learned, expected false: "
                f"{NO_ORACLE}"
            )
        paths: Sequence[tuple[str, ...]]
        if isinstance(wanted, str):
            paths = data.paths(wanted)
        else:
            paths = [data.check_order(path, "paths") for path in wanted]
        seeds = self.spec.seeds
        if seeds is None:
            seeds = [self._first.trainer.seed]
        # Oracles come first: monitors may compare with them during the other runs.
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

    def _trials(
        self, points: Sequence[_Point], chains: Sequence[tuple[str, ...]]
    ) -> Iterator[Trial]:
        """Convert points to trials; points with the same last key share one folder."""
        same_run: dict[str, list[_Point]] = {}
        for point, keys in zip(points, chains, strict=True):
            same_run.setdefault(keys[-1], []).append(point)
        forget = self._first.datamodule.forget
        for point, keys in zip(points, chains, strict=True):
            run = _folder(same_run[keys[-1]], forget)
            check_folder(str(self.folder / run), "sweep" if point.setting else "data.stages")
            yield Trial(
                point.path,
                point.place,
                point.path.index(forget) + 1,
                point.method,
                point.seed,
                point.setting,
                keys,
                run,
            )

    def _cli(self, label: str, setting: dict[str, Any]) -> StagedCLI:
        """Return the parsed fit configuration of a method and a setting."""
        known = (label, json.dumps(setting, sort_keys=True))
        if known not in self._clis:
            content = {**self.spec.fit, "trainer": dict(self._without_methods)}
            if label != ORACLE:
                method = self.spec.methods[label]
                callbacks = [*content["trainer"]["callbacks"], method["callback"]]
                content["trainer"]["callbacks"] = callbacks
                content = merge(content, {"data": {"unlearn": method.get("unlearn", {})}})
            for key, value in setting.items():
                # The last callback is the method, and an oracle has no method.
                if label != ORACLE or not key.startswith("trainer.callbacks."):
                    content = set_key(content, key.split("."), value)
            try:
                self._clis[known] = StagedCLI(None, content, [])
            except InputError as error:
                raise InputError(self._with_study_keys(str(error), label, setting)) from error
        return self._clis[known]

    def _with_study_keys(self, text: str, label: str, setting: dict[str, Any]) -> str:
        """Replace the keys in a message about a fit configuration by keys of the study file.

        Raises:
            InputError: the message about one swept key, if that key alone is refused.
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
        # Only keys that methods.LABEL.unlearn sets are the method's own.
        keys = "|".join(map(re.escape, self.spec.methods[label].get("unlearn", {})))
        own = f"methods.{label}.unlearn."
        changed, count = re.subn(rf"^data\.unlearn\.(?=({keys})\b)", own, text)
        return changed if count else f"methods.{label}: {text}"

    def _check(self, trainer: StagedTrainer, point: _Point) -> None:
        """Check the settings of a trial.

        Raises:
            InputError: for a mistake; the message names the swept key, if it is about one.
        """
        try:
            trainer.check(*self._model_and_data(point))
        except InputError as error:
            for key, _ in point.setting:
                if str(error).startswith(f"{key}:"):
                    raise InputError(_of_sweep(str(error), key)) from error
            raise

    def _trainer(
        self, point: _Point, bar: StageProgress | None = None, run: str = ""
    ) -> StagedTrainer:
        """Create a trainer with its own callbacks for a trial.

        Plans and stages that several runs share need no ``run``.
        """
        cli = self._cli(point.method, dict(point.setting))
        config = cli.config.clone()
        config["seed_everything"] = config["trainer.seed"] = point.seed
        config["trainer.default_root_dir"], config["trainer.run_name"] = (
            str(self.folder),
            run or None,
        )
        learned = config.get("data.learned") or []
        config["data.order"] = list(point.path[len(learned) :])
        config["data.oracle"] = point.method == ORACLE
        config["data.position"] = config["data.permutation"] = None
        settings = cli.parser.instantiate(config).trainer
        callbacks = _as_list(settings.callbacks)
        shown = settings.enable_progress_bar and bar is not None
        changed = {"callbacks": [bar, *callbacks] if shown else callbacks}
        trainer = StagedTrainer(**{**vars(settings), **changed, "enable_progress_bar": shown})
        if trainer.method is not None:
            trainer.method.name = point.method
        trainer.verbose = False
        trainer.expects_oracle = self.spec.oracle
        trainer.messages.handler = self.say
        trainer.store = self.store
        if run:
            trainer.config_text = cli.config_text(config)
        return trainer

    def _model_and_data(self, point: _Point) -> tuple[CausalLM, StagedDataModule]:
        """Return model and data of a trial; reuse those of the previous trial if possible."""
        cli = self._cli(point.method, dict(point.setting))
        key = _model_key(cli)
        if self._model is None or self._model[0] != key:
            # Free the previous model first: two models may not fit into memory.
            self._model, self._data = None, {}
            _free()
            self._model = (key, cli.parser.instantiate(cli.config).model)
        own = {k: v for k, v in cli.config.data.as_dict().items() if k not in SET_BY_TRIAL}
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


def _free() -> None:
    """Free memory of unused objects: a model and its trainer refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _of_sweep(text: str, key: str) -> str:
    """Return a message about the value of a swept key, with the key of the study file."""
    return f"sweep.{text}" if text.startswith(f"{key}:") else f"sweep.{key}: {text}"


def _model_key(cli: StagedCLI) -> str:
    """Return a text that is equal for configurations that can share one model in memory."""
    trainer = cli.config.trainer
    return json.dumps([cli.config.model.as_dict(), str(trainer.precision)], default=str)


def _folder(points: Sequence[_Point], forget: str | None) -> str:
    """Return the folder of a run, named by what all of its trials have in common."""
    first = points[0]
    setting = common_setting([point.setting for point in points])
    stages = [stage for stage in first.path if first.method != ORACLE or stage != forget]
    place = f"p{first.path.index(forget) + 1}_" if forget and first.method != ORACLE else ""
    # Replace characters that a shell would need quotes for.
    safe = re.sub(r"[^\w.,=+-]", "_", setting.replace(" = ", "=").replace(", ", ","))
    parts = [first.method, *([safe] if safe else [])]
    return "/".join([*parts, f"{place}{'-'.join(stages) or 'base'}_s{first.seed}"])


def _without_methods(content: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's configuration without the unlearning method."""
    trainer = dict(content.get("trainer") or {})
    callbacks = _as_list(trainer.get("callbacks"))
    parsed = StagedCLI(None, content, []).config.get("trainer.callbacks")
    trainer["callbacks"] = [
        spec for spec, seen in zip(callbacks, _as_list(parsed), strict=True) if not is_method(seen)
    ]
    return trainer


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
