"""StagedTrainer: walks a path of stages, then unlearns one of them."""

import itertools
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.markup import escape
from torch.utils.data import DataLoader

from lightning_unlearn import records
from lightning_unlearn.adapters import LEARN
from lightning_unlearn.data.datamodule import UNLEARN, StagedDataModule
from lightning_unlearn.errors import InputError, Terminated
from lightning_unlearn.history import TrainingHistory, read_observations, write_entry
from lightning_unlearn.loading import load_tokenizer
from lightning_unlearn.module import CausalLM, StageEntry
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.observations import Observations, ignore
from lightning_unlearn.progress import StageProgress
from lightning_unlearn.quiet import quiet_lightning
from lightning_unlearn.rundir import RunDirectory, RunLogger
from lightning_unlearn.store import StageStore
from lightning_unlearn.unlearning.base import Unlearning
from lightning_unlearn.walk import PlannedStage, plan_walk

BASE = "base"


class StagedTrainer(Trainer):
    """Lightning's Trainer for models that are trained in stages.

    How long a stage trains, its batch and its gradient clipping are in the stage's recipe, so
    Lightning's arguments for them are not taken here.

    Args:
        store: folder of the stage store. Runs that share it train no prefix of a path twice.
        seed: seed of everything random.
        name: folder of the run inside ``default_root_dir``; null makes it from method and path.
        default_root_dir: where runs go.
        accelerator: as of Lightning's Trainer.
        strategy: as of Lightning's Trainer, such as "ddp"; those that spawn or fork are refused.
        devices: as of Lightning's Trainer.
        num_nodes: as of Lightning's Trainer.
        precision: as of Lightning's Trainer, such as "32-true" or "bf16-true".
        logger: true for TensorBoard in the run's folder, false for none, or loggers of your own.
        callbacks: one unlearning method, monitors, and others.
        enable_progress_bar: show progress.
        deterministic: as of Lightning's Trainer.
        benchmark: as of Lightning's Trainer.
        profiler: as of Lightning's Trainer.
        plugins: as of Lightning's Trainer.
        detect_anomaly: as of Lightning's Trainer.

    Attributes:
        observations: what the monitors saw in the last ``fit`` or ``validate``.
        run_dir: the folder of the last ``fit``.
        trained: stages that the last ``fit`` trained, as against those found in the store.
        announces: whether stages found in the store and answers cut short are told.
    """

    def __init__(
        self,
        *,
        store: str = "runs/store",
        seed: int = 0,
        name: str | None = None,
        default_root_dir: str = "runs",
        accelerator: str = "auto",
        strategy: str | Strategy = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: str | int = "32-true",
        logger: bool | Logger | list[Logger] = True,
        callbacks: list[Callback] | Callback | None = None,
        enable_progress_bar: bool = True,
        deterministic: bool | None = None,
        benchmark: bool | None = None,
        profiler: str | None = None,
        plugins: Any = None,
        detect_anomaly: bool = False,
    ) -> None:
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        if not enable_progress_bar:
            # Lightning refuses the two together; a study gives its display to every trainer.
            given = [c for c in given if not isinstance(c, StageProgress)]
        self.methods = [c for c in given if isinstance(c, Unlearning)]
        self.monitors = [c for c in given if isinstance(c, Monitor)]
        own = (Unlearning, Monitor, ProgressBar)
        self._others = [c for c in given if not isinstance(c, own)]
        if str(precision) in ("16-mixed", "16"):
            raise InputError(
                f"trainer.precision: found {precision}, expected bf16-mixed, bf16-true or 32-true: "
                "the loss scale of 16-mixed would be carried from stage to stage."
            )
        if len(self.methods) > 1:
            names = " and ".join(type(method).__name__ for method in self.methods)
            raise InputError(
                f"trainer.callbacks: found {len(self.methods)} unlearning methods ({names}), "
                "expected one. To compare methods, use lightning-unlearn study."
            )
        self._stage_progress = next((c for c in given if isinstance(c, StageProgress)), None)
        if enable_progress_bar and self._stage_progress is None:
            self._stage_progress = StageProgress()
            # First, so that its bar is there when monitors start to look.
            given.insert(0, self._stage_progress)
        self.seed = seed
        self.run_name = name
        self.store = StageStore(store, report=self._warn)
        self.observations: Observations | None = None
        self.run_dir: Path | None = None
        self.trained: list[str] = []
        self.config_text: str | None = None
        self.announces = True
        self._tensorboard = logger is True
        with quiet_lightning():
            super().__init__(
                accelerator=accelerator,
                strategy=strategy,
                devices=devices,
                num_nodes=num_nodes,
                precision=precision,  # type: ignore[arg-type]
                logger=False if isinstance(logger, bool) else logger,
                callbacks=given,
                default_root_dir=default_root_dir,
                enable_progress_bar=enable_progress_bar,
                deterministic=deterministic,
                benchmark=benchmark,
                profiler=profiler,
                plugins=plugins,
                detect_anomaly=detect_anomaly,
                max_epochs=1,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
            )

    @property
    def method(self) -> Unlearning | None:
        """The unlearning method among the callbacks."""
        return self.methods[0] if self.methods else None

    def say(self, text: str) -> None:
        """Print a line above the progress display, on the first process."""
        if self._stage_progress is not None and getattr(self, "is_global_zero", True):
            self._stage_progress.print(text)

    def _warn(self, text: str) -> None:
        """Print what must not be missed, also where there is no progress display."""
        if self._stage_progress is not None:
            self.say(escape(text))
        else:
            print(text, file=sys.stderr)

    def fit(self, model: CausalLM, datamodule: StagedDataModule) -> None:  # type: ignore[override]
        """Train the stages of the path that are not stored yet, then unlearn the forget stage.

        Args:
            model: the module.
            datamodule: stages and path.

        Raises:
            InputError: for anything a user can mend, before training starts.
            DivergedError: if a loss is not finite; what was stored stays stored.
        """
        self.check(model, datamodule)
        plan = self.plan(model, datamodule)
        self._open_processes(model)
        directory = self._open_run(plan, datamodule)
        start = self.strategy.broadcast(self._stored(plan))
        self.trained = []
        self._replay(directory, plan[:start])
        in_memory = False
        for number in range(start, len(plan)):
            with self._claim(plan[number].key):
                found = self.strategy.broadcast(self._find(plan[number].key) is not None)
                if not found:
                    load = {} if in_memory else self._weights(plan[:number])
                    self._train_stage(model, datamodule, plan, number, load)
                    in_memory = True
                else:
                    self._replay(directory, plan[number : number + 1])
                    in_memory = False
        if not in_memory:
            self._take_up(model, datamodule, plan)
        self._finish(model, directory, plan)

    def plan(self, model: CausalLM, datamodule: StagedDataModule) -> list[PlannedStage]:
        """The walk as store entries: one per stage of the path, and "unlearn".

        Args:
            model: the module.
            datamodule: prepared stages and path.

        Returns:
            The steps in order.
        """
        return plan_walk(
            model,
            datamodule,
            self.method,
            self.monitors,
            self._others,
            self.world_size,
            str(self.precision),
            self.seed,
        )

    def check(self, model: CausalLM, datamodule: StagedDataModule, train: bool = True) -> None:
        """Find all that can be found wrong without training, before anything is written.

        Reads and tokenises the data if that is not done yet.

        Args:
            model: the module.
            datamodule: stages and path.
            train: whether training is to follow.

        Raises:
            InputError: for anything a user can mend.
        """
        if isinstance(self.strategy.launcher, _MultiProcessingLauncher):
            raise InputError(
                "trainer.strategy: spawned or forked processes end with each stage and take the "
                "weights with them; use ddp."
            )
        if train and datamodule.forget is not None and self.method is None:
            raise InputError(
                f"trainer.callbacks: the stage {datamodule.forget!r} is to be forgotten "
                "(data.forget), but no callback unlearns. Add one, such as GA, NPO or SimNPO, or "
                "set data.forget to null to train only."
            )
        if train and datamodule.forget is None and self.method is not None:
            raise InputError(
                f"data.forget: found null, but {self.method.name} is among trainer.callbacks. "
                f"Name the stage to unlearn: one of {', '.join(datamodule.stages)}."
            )
        if train:
            datamodule.check_batches(self.world_size)
        model.check_adapters()
        template = None
        if datamodule.template is not None:
            template = load_tokenizer(
                datamodule.template, model.trust_remote_code, key="data.template"
            )
        datamodule.prepare(model.tokenizer(), model.context, template, model.base)
        for monitor in self.monitors:
            monitor.check(datamodule)
        if self.announces:
            for sentence in datamodule.truncations():
                self._warn(sentence)

    def _open_processes(self, model: CausalLM) -> None:
        """Start the other processes and connect them, so that all agree on what is stored."""
        launcher = self.strategy.launcher
        if launcher is not None:
            self.strategy.connect(model)
            launcher.launch(lambda: None, trainer=self)
            self.strategy.setup_environment()

    def _open_run(self, plan: list[PlannedStage], datamodule: StagedDataModule) -> RunDirectory:
        method = self.method.name if self.method is not None else "trained"
        path = "-".join(datamodule.path)
        place = f"p{datamodule.position}_" if datamodule.forget is not None else ""
        name = self.run_name or f"{method}/{place}{path}_s{self.seed}"
        about = {
            "path": path,
            "position": datamodule.position,
            "forget": datamodule.forget,
            "method": method,
            "seed": self.seed,
            "key": plan[-1].key,
            "stages": [{"name": stage.name, "key": stage.key} for stage in plan],
        }
        directory = RunDirectory(Path(self.default_root_dir) / name, about)
        if self.is_global_zero:
            directory.open(self.config_text)
        directory.folder = self.strategy.broadcast(directory.folder)
        self.run_dir = directory.folder
        if self._tensorboard:
            self.loggers = [directory.tensorboard(datamodule)]
        self.observations = Observations(
            datamodule,
            log=lambda measure, step, value: self._log(f"{method}/{measure}", value, step),
            busy=self._stage_progress.note if self._stage_progress is not None else ignore,
        )
        return directory

    def _log(self, tag: str, value: float, step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics({tag: value}, step)

    def _find(self, key: str) -> Path | None:
        return self.store.get(key) if self.is_global_zero else None

    def _stored(self, plan: list[PlannedStage]) -> int:
        """How many steps of the plan, from its start, need no training."""
        stored = itertools.takewhile(lambda stage: self._find(stage.key) is not None, plan)
        return sum(1 for _ in stored)

    @contextmanager
    def _claim(self, key: str) -> Iterator[None]:
        with self.store.claim(key) if self.is_global_zero else nullcontext():
            yield

    def _weights(self, done: list[PlannedStage]) -> dict[str, Path]:
        """Where the weights after some steps are: the folders to load."""
        folders = {}
        for stage in done:
            which = UNLEARN if stage.name == UNLEARN else LEARN
            folders[which] = self.store.folder / stage.key / which
        return folders

    def _replay(self, directory: RunDirectory, done: list[PlannedStage]) -> None:
        """Take over what was recorded when stored stages were trained."""
        assert self.observations is not None
        for stage in done:
            if self.announces:
                self.say(f"[green]✓[/] {stage.name}: already stored")
            folder = self.store.folder / stage.key
            training = records.read_table(folder / records.TRAINING)
            for step, loss, rate in training[["step", "loss", "lr"]].itertuples(index=False):
                self._log_training(stage.name, int(step), float(loss), float(rate))
            if stage.name == UNLEARN:
                read_observations(folder, self.observations)

    def _log_training(self, stage: str, step: int, loss: float, rate: float) -> None:
        self._log(f"train/{stage} loss", loss, step)
        self._log(f"train/{stage} learning rate", rate, step)

    def _train_stage(
        self,
        model: CausalLM,
        datamodule: StagedDataModule,
        plan: list[PlannedStage],
        number: int,
        load: dict[str, Path],
    ) -> None:
        """One plain Lightning fit, and its store entry."""
        stage, observations = plan[number], self.observations
        assert observations is not None
        batches = datamodule.begin(stage.name, self.seed, self.global_rank, self.world_size)
        recipe = datamodule.recipe(stage.name)
        fresh = number == 0
        model.begin(StageEntry(stage.name, recipe, len(batches), self.seed, fresh, load))
        history = TrainingHistory(stage.name, self._log_training)
        callbacks: list[Callback] = self.callbacks  # type: ignore[attr-defined]
        callbacks.append(history)
        if self._stage_progress is not None:
            self._stage_progress.place = f"{number + 1}/{len(plan)} "
        began = time.monotonic()
        self.fit_loop.max_epochs = self.current_epoch + 1
        try:
            with quiet_lightning():
                super().fit(model, train_dataloaders=batches.loader())
        except SystemExit as stop:
            terminated = isinstance(stop, SIGTERMException)
            if not terminated and not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            done = ", ".join(s.name for s in plan[:number]) or "none"
            raise (Terminated if terminated else KeyboardInterrupt)(
                f"stopped in stage {stage.name} at step {model.step} of {len(batches)}. Stored "
                f"stages of this path: {done}. The same command goes on from there."
            ) from None
        finally:
            callbacks.remove(history)
        self.trained.append(stage.name)
        if self.is_global_zero:
            details = {"stage": stage.name, "seconds": round(time.monotonic() - began, 3)}
            self.store.put(
                stage.key,
                stage.content,
                lambda folder: write_entry(folder, model, history, observations),
                details,
            )
        self.strategy.barrier("stored")

    def _take_up(
        self, model: CausalLM, datamodule: StagedDataModule, plan: list[PlannedStage]
    ) -> None:
        """Load the weights after the plan's last step, when none of it had to be trained."""
        last = plan[-1].name
        recipe = datamodule.recipe(last)
        model.begin(StageEntry(last, recipe, 1, self.seed, True, self._weights(plan)))
        with self.init_module():
            model.configure_model()

    def _finish(self, model: CausalLM, directory: RunDirectory, plan: list[PlannedStage]) -> None:
        for logger in self.loggers:
            if isinstance(logger, RunLogger):
                logger.close()
        if self.is_global_zero:
            folders = [self.store.folder / stage.key for stage in plan]
            # Two processes may do the same run; they must not fill its folder at the same time.
            with self.store.claim(plan[-1].key):
                directory.close([(s.name, f) for s, f in zip(plan, folders, strict=True)])
            if model.merge:
                model.save_merged(directory.folder / "merged")
        self.strategy.barrier("run written")

    def validate(  # type: ignore[override]
        self, model: CausalLM, datamodule: StagedDataModule, stage: str | None = None
    ) -> dict[str, float]:
        """Ask the monitors about a stored model, without training.

        Args:
            model: the module.
            datamodule: stages and path.
            stage: after which stage: "base" for the untouched base model, a stage of the path, or
                "unlearn"; null for the last one.

        Returns:
            Mean of each measure.

        Raises:
            InputError: if that model is not stored, or there is no monitor.
        """
        if not self.monitors:
            raise InputError("trainer.callbacks: found no monitor, so there is nothing to measure.")
        self.check(model, datamodule, train=False)
        plan = self.plan(model, datamodule)
        names = [BASE, *(planned.name for planned in plan)]
        wanted = names[-1] if stage is None else stage
        if wanted not in names:
            raise InputError(f"stage: found {wanted!r}, expected one of {', '.join(names)}.")
        done = plan[: names.index(wanted)]
        self._open_processes(model)
        needed = done[-2:] if wanted == UNLEARN else done[-1:]
        load = {}
        for planned in needed:
            # Which monitors looked on while the weights were made does not matter here.
            entry = self.store.find(planned.content, ignoring=("monitors", "measured"))
            if entry is not None:
                which = UNLEARN if planned.name == UNLEARN else LEARN
                load[which] = entry / which
        if self.strategy.broadcast(len(load)) < len(needed):
            raise InputError(
                f"nothing is stored of this path after {done[-1].name} (in {self.store.folder}). "
                "Run lightning-unlearn fit with the same settings first, or measure the untouched "
                "base model with --stage base."
            )
        last = done[-1].name if done else datamodule.path[0]
        model.begin(StageEntry(last, datamodule.recipe(last), 1, self.seed, True, load))
        self.observations = Observations(datamodule)
        with quiet_lightning():
            super().validate(model, DataLoader([0]), verbose=False)  # type: ignore[arg-type]
        return {measure: value for _, measure, value in self.observations.steps}
