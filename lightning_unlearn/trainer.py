"""StagedTrainer: walks a path of stages, then unlearns one of them."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from rich.markup import escape
from torch.utils.data import DataLoader

from lightning_unlearn.adapters import LEARN
from lightning_unlearn.checkpoints import (
    Frequency,
    MidStage,
    StageStopped,
    read_optimizer,
    write_checkpoint,
)
from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.errors import InputError, Terminated
from lightning_unlearn.history import (
    TrainingHistory,
    read_observations,
    write_entry,
    write_observations,
)
from lightning_unlearn.loading import load_tokenizer
from lightning_unlearn.module import CausalLM, StageEntry
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.observations import Observations, ignore
from lightning_unlearn.notes import Pulse
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
        checkpoint_steps: write a checkpoint inside a stage every so many optimizer steps; null for
            no such rule. Ctrl-C and SIGTERM always leave one.
        checkpoint_minutes: write one when so many minutes have gone by since the last; null for no
            such rule.
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
        tell: called with sentences that must not be missed; None prints them.
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
        checkpoint_steps: int | None = None,
        checkpoint_minutes: float | None = 10.0,
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
        self.frequency = Frequency(checkpoint_steps, checkpoint_minutes)
        self.frequency.check()
        self.seed = seed
        self.run_name = name
        self.store = StageStore(store, report=self._warn)
        self.observations: Observations | None = None
        self.run_dir: Path | None = None
        self.trained: list[str] = []
        self.config_text: str | None = None
        self.announces = True
        self.tell: Callable[[str], None] | None = None
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
        if self.tell is not None:
            self.tell(text)
        elif self._stage_progress is not None:
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
            KeyboardInterrupt: after the optimizer step in which Ctrl-C or SIGTERM came.
        """
        plan = self.walk(model, datamodule)
        if not model.holds(plan):
            self._take_up(model, datamodule, plan)

    def walk(
        self, model: CausalLM, datamodule: StagedDataModule, until: int | None = None
    ) -> list[PlannedStage]:
        """`fit`, or its beginning; weights that are stored are not taken up where none is needed.

        Args:
            model: the module; of a module that has just walked another path, what the two have in
                common is not read again.
            datamodule: stages and path.
            until: only the first so many steps of the walk; None for all, which fills the folder
                of the run.

        Returns:
            The whole walk.

        Raises:
            InputError: as of `fit`.
            DivergedError: as of `fit`.
        """
        self.check(model, datamodule)
        plan = self.plan(model, datamodule)
        wanted = plan[:until]
        self.open_processes(model)
        directory = self._open_run(plan, datamodule)
        self.trained = []
        for number, stage in enumerate(wanted):
            if self.strategy.broadcast(self._find(stage.key) is None):
                with self._claim(stage.key):
                    # Another process may have made it while this one waited.
                    if self.strategy.broadcast(self._find(stage.key) is None):
                        with self._pulse(model, stage.key):
                            self._make(model, datamodule, plan, number)
                        continue
            self._replay(stage)
        if len(wanted) == len(plan):
            if model.merge and not datamodule.oracle and not model.holds(plan):
                self._take_up(model, datamodule, plan)
            self._finish(model, directory, plan)
        self._close_logs()
        return plan

    def plan(self, model: CausalLM, datamodule: StagedDataModule) -> list[PlannedStage]:
        """The walk as store entries: one per trained stage, and "unlearn" or "oracle".

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
        unlearns = datamodule.forget is not None and not datamodule.oracle
        if train and unlearns and self.method is None:
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

    def open_processes(self, model: CausalLM) -> None:
        """Start the other processes and connect them, so that all agree on what is stored.

        Args:
            model: the module.
        """
        launcher = self.strategy.launcher
        if launcher is not None:
            self.strategy.connect(model)
            launcher.launch(lambda: None, trainer=self)
            self.strategy.setup_environment()

    def _open_run(self, plan: list[PlannedStage], datamodule: StagedDataModule) -> RunDirectory:
        method = self._label(datamodule)
        path = "-".join(datamodule.trained)
        place = f"p{datamodule.position}_" if datamodule.position is not None else ""
        name = self.run_name or f"{method}/{place}{path}_s{self.seed}"
        about = {
            "path": path,
            "position": datamodule.position,
            "forget": datamodule.forget,
            "method": method,
            "seed": self.seed,
            "key": plan[-1].key if plan else "",
            "store": str(self.store.folder.absolute()),
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

    def _label(self, datamodule: StagedDataModule) -> str:
        """What the run is called by in folders, curves and records."""
        if datamodule.oracle:
            return ORACLE
        return self.method.name if self.method is not None else "trained"

    def _log(self, tag: str, value: float, step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics({tag: value}, step)

    def _find(self, key: str) -> Path | None:
        return self.store.get(key) if self.is_global_zero else None

    @contextmanager
    def _claim(self, key: str) -> Iterator[None]:
        with self.store.claim(key) if self.is_global_zero else nullcontext():
            yield

    @contextmanager
    def _pulse(self, model: CausalLM, key: str) -> Iterator[None]:
        progress = lambda: (model.step, model.total_steps)  # noqa: E731  (a phrase, not a function)
        pulse = Pulse(self.store.folder, key, progress)
        with pulse if self.is_global_zero else nullcontext():
            yield

    def _weights(self, done: list[PlannedStage]) -> dict[str, Path]:
        """Where the weights after some steps are: the folders to load."""
        folders = {}
        for stage in done:
            if stage.name != ORACLE:
                which = UNLEARN if stage.name == UNLEARN else LEARN
                folders[which] = self.store.folder / stage.key / which
        return folders

    def _replay(self, stage: PlannedStage) -> None:
        """Take over what was recorded when a stored stage was trained."""
        assert self.observations is not None
        if self.announces:
            self.say(f"[green]✓[/] {stage.name}: already stored")
        folder = self.store.folder / stage.key
        if stage.name in (UNLEARN, ORACLE):
            read_observations(folder, self.observations)
        if stage.name != ORACLE:
            TrainingHistory(stage.name, self._log_training).read(folder)

    def _log_training(self, stage: str, step: int, loss: float, rate: float) -> None:
        self._log(f"train/{stage} loss", loss, step)
        self._log(f"train/{stage} learning rate", rate, step)

    def _make(
        self, model: CausalLM, datamodule: StagedDataModule, plan: list[PlannedStage], number: int
    ) -> None:
        """Make the store entry of a step of the walk."""
        stage, observations = plan[number], self.observations
        assert observations is not None
        # Held weights stay where a stage starts from them.
        load = {} if model.holds(plan[:number]) else self._weights(plan[:number])
        began = time.monotonic()
        write: Callable[[Path], None]
        if stage.name == ORACLE:
            self._look(model, datamodule, number == 0, load)
            write = partial(write_observations, observations=observations)
        else:
            history = TrainingHistory(stage.name, self._log_training)
            keeper = self._train(model, datamodule, plan, number, load, history)
            write = partial(write_entry, model=model, history=history, observations=observations)
        self.trained.append(stage.name)
        try:
            if self.is_global_zero:
                details = {"stage": stage.name, "seconds": round(time.monotonic() - began, 3)}
                self.store.put(stage.key, stage.content, write, details)
            self.strategy.barrier("stored")
        finally:
            if stage.name != ORACLE:
                keeper.release()
        if stage.name != ORACLE and keeper.asked:
            raise self._stopped(keeper.asked, f"after stage {stage.name}, which is stored.")

    def _train(
        self,
        model: CausalLM,
        datamodule: StagedDataModule,
        plan: list[PlannedStage],
        number: int,
        load: dict[str, Path],
        history: TrainingHistory,
    ) -> MidStage:
        """One plain Lightning fit, from the stage's last checkpoint if there is one."""
        stage, observations = plan[number], self.observations
        assert observations is not None
        batches = datamodule.begin(stage.name, self.seed, self.global_rank, self.world_size)
        entry = StageEntry(
            stage.name, datamodule.recipe(stage.name), len(batches), self.seed, number == 0, load
        )
        stateful = [*self.methods, *self.monitors, *self._others]
        found = self.store.checkpoint(stage.key) if self.is_global_zero else None
        checkpoint: tuple[int, Path] | None = self.strategy.broadcast(found)
        if checkpoint is not None:
            entry.done, folder = checkpoint
            which = UNLEARN if stage.name == UNLEARN else LEARN
            entry.load = {**load, which: folder / which}
            entry.optimizer = read_optimizer(folder)
            history.read(folder)
            if stage.name == UNLEARN:
                read_observations(folder, observations)
            if self.is_global_zero:
                self._warn(f"{stage.name}: goes on after step {entry.done} of {len(batches)}.")
        model.begin(entry)

        def keep() -> None:
            def write(folder: Path) -> None:
                write_checkpoint(folder, model, history, observations, stateful)

            self.store.put_checkpoint(stage.key, model.step, stage.content, write)

        keeper = MidStage(
            self.frequency, keep, self._warn, stateful, checkpoint[1] if checkpoint else None
        )
        if self._stage_progress is not None:
            self._stage_progress.place = f"{number + 1}/{len(plan)} "
        callbacks: list[Callback] = self.callbacks  # type: ignore[attr-defined]
        callbacks += [history, keeper]
        self.fit_loop.max_epochs = self.current_epoch + 1
        finished = False
        try:
            with quiet_lightning():
                super().fit(model, train_dataloaders=batches.loader(entry.done))
            finished = True
        except StageStopped as stop:
            kept = f"step {model.step} is kept" if stop.kept else "its steps are lost"
            raise self._stopped(stop.signal, self._where(plan, number, model, kept)) from None
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            where = self._where(plan, number, model, "steps since its last checkpoint are lost")
            raise self._stopped(signal.SIGINT, where) from None
        finally:
            del callbacks[-2:]
            if not finished:
                keeper.release()
        model.hold(stage.name, stage.key)
        return keeper

    @staticmethod
    def _where(plan: list[PlannedStage], number: int, model: CausalLM, kept: str) -> str:
        done = ", ".join(s.name for s in plan[:number]) or "none"
        return (
            f"in stage {plan[number].name} at step {model.step} of {model.total_steps}; {kept}. "
            f"Stored stages of this path: {done}."
        )

    @staticmethod
    def _stopped(number: int, where: str) -> KeyboardInterrupt:
        """What ends the command, with a message of how to go on."""
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        return kind(f"stopped {where} The same command goes on from there.")

    def _look(
        self, model: CausalLM, datamodule: StagedDataModule, fresh: bool, load: dict[str, Path]
    ) -> None:
        """Ask the monitors about stored weights."""
        last = (datamodule.trained or datamodule.path)[-1]
        fresh = fresh or LEARN in load or UNLEARN in load
        model.begin(StageEntry(last, datamodule.recipe(last), 1, self.seed, fresh, load))
        self._ask_monitors(model)

    def _ask_monitors(self, model: CausalLM) -> None:
        """A Lightning validation, in which monitors look at the model."""
        try:
            with quiet_lightning():
                super().validate(model, DataLoader([0]), verbose=False)  # type: ignore[arg-type]
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise stop.__context__ from None
            raise

    def _take_up(
        self, model: CausalLM, datamodule: StagedDataModule, plan: list[PlannedStage]
    ) -> None:
        """Load the weights after the plan's last step, when none of it had to be trained."""
        last = next((s.name for s in reversed(plan) if s.name != ORACLE), datamodule.path[0])
        recipe = datamodule.recipe(last)
        model.begin(StageEntry(last, recipe, 1, self.seed, True, self._weights(plan)))
        with self.init_module():
            model.configure_model()

    def _close_logs(self) -> None:
        for logger in self.loggers:
            if isinstance(logger, RunLogger):
                logger.close()

    def _finish(self, model: CausalLM, directory: RunDirectory, plan: list[PlannedStage]) -> None:
        """Fill the folder of the run; it is marked finished when all of it is there."""
        self._close_logs()
        if self.is_global_zero and plan:
            if model.merge:
                model.save_merged(directory.folder / "merged")
            folders = [self.store.folder / stage.key for stage in plan]
            # Two processes may do the same run; they must not fill its folder at the same time.
            with self.store.claim(plan[-1].key):
                directory.close([(s.name, f) for s, f in zip(plan, folders, strict=True)])
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
        plan = [stage for stage in self.plan(model, datamodule) if stage.name != ORACLE]
        names = [BASE, *(planned.name for planned in plan)]
        wanted = names[-1] if stage is None else stage
        if wanted not in names:
            raise InputError(f"stage: found {wanted!r}, expected one of {', '.join(names)}.")
        done = plan[: names.index(wanted)]
        self.open_processes(model)
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
        self.observations = Observations(datamodule)
        last = done[-1].name if done else datamodule.path[0]
        model.begin(StageEntry(last, datamodule.recipe(last), 1, self.seed, True, load))
        self._ask_monitors(model)
        return {measure: value for _, measure, value in self.observations.steps}
