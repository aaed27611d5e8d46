"""The walk over a path: every step is found in the store, or made and put there."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.distributed.processes import Requeued, requeue_signal
from lightning_unlearn.distributed.strategy import data_share
from lightning_unlearn.errors import StorageError, Unfinished
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM, StageStart
from lightning_unlearn.monitors.results import EvaluationResults, ignore
from lightning_unlearn.monitors.view import BASE
from lightning_unlearn.signals import ENDS
from lightning_unlearn.storage.entry_status import Heartbeat
from lightning_unlearn.training.checkpoints import (
    StageCheckpoint,
    StageCut,
    StageStopped,
    collect_checkpoint,
    read_optimizer,
    write_checkpoint,
)
from lightning_unlearn.training.endings import (
    cause_of_stop,
    measure_the_end,
    place_of_stop,
    rule_that_ends,
    stopped,
    told,
)
from lightning_unlearn.training.history import (
    TrainingHistory,
    read_observations,
    write_entry,
    write_observations,
)
from lightning_unlearn.training.path_plan import PlannedStage, tell_of_precision
from lightning_unlearn.training.run_folder import RunFolder, RunLogger, stage_logger
from lightning_unlearn.training.stage_trainer import StageTrainer


class PathRunner:
    """Walks one path with a trainer.

    Args:
        trainer: trains, measures, and knows where things go.
        model: the module.
        data: prepared stages and path.
        plan: the steps of the walk.
    """

    def __init__(
        self,
        trainer: StageTrainer,
        model: CausalLM,
        data: StagedDataModule,
        plan: list[PlannedStage],
    ) -> None:
        self.trainer = trainer
        self.model = model
        self.data = data
        self.plan = plan
        self.observations = EvaluationResults(data)

    def walk(self, until: int | None = None) -> None:
        """Make what is not stored; see `StagedTrainer.walk`.

        Args:
            until: only the first so many steps; None for all, which fills the folder of the run.
        """
        agree = self.trainer.strategy.broadcast
        directory = self._run_directory() if until is None else None
        label = self.trainer.label(self.data)
        if self.trainer.is_global_zero:
            # Both before either is written.
            if directory is not None:
                directory.check()
            self.trainer.store.check_writable()
            if self.trainer.announces:
                self.trainer.store.report_unused()
        if directory is not None:
            self._open_run(directory)
        elif until is not None:
            self._open_stage(until)
        bar = self.trainer.stage_progress
        self.observations = self.trainer.observations = EvaluationResults(
            self.data,
            self.trainer.requests,
            log=lambda measure, step, value: self._log(f"{label}/{measure}", value, step),
            busy=bar.note if bar is not None else ignore,
        )
        self.trainer.trained = []
        for number, stage in enumerate(self.plan[:until]):
            if agree(self._find(stage.key) is None):
                with self._claim(stage.key):
                    # Another process may have made it while this one waited.
                    if agree(self._find(stage.key) is None):
                        with self._pulse(stage.key):
                            self._make(number)
                        continue
            if directory is not None:
                self._replay(stage)
        if directory is not None:
            self._finish(directory)
        self._close_logs()

    def load_final_weights(self) -> None:
        """Load the weights after the last step, when it did not have to be trained."""
        names = [stage.name for stage in self.plan if stage.name != ORACLE]
        last = names[-1] if names else self.data.path[0]
        recipe = self.data.recipe(last)
        load = self._weights(self.plan)
        self.model.begin(StageStart(last, recipe, 1, self.trainer.seed, True, load))
        # Lightning does this when it fits; how weights are kept hangs on it.
        self.model.trainer = self.trainer
        with self.trainer.init_module():
            self.model.configure_model()

    def _run_directory(self) -> RunFolder:
        trainer, data, plan = self.trainer, self.data, self.plan
        path = "-".join(data.trained)
        about = {
            "path": path,
            "position": data.position,
            "forget": data.forget,
            "method": trainer.label(data),
            "seed": trainer.seed,
            "key": plan[-1].key,
            "store": str(trainer.store.folder.absolute()),
            "stages": [{"name": stage.name, "key": stage.key} for stage in plan],
        }
        return RunFolder(trainer.run_folder(data), about)

    def _open_run(self, directory: RunFolder) -> None:
        trainer = self.trainer
        if trainer.is_global_zero:
            directory.open(trainer.config_text)
        directory.folder = trainer.strategy.broadcast(directory.folder)
        trainer.run_dir = directory.folder
        if trainer.tensorboard:
            trainer.loggers = [directory.tensorboard(self.data)]

    def _open_stage(self, number: int) -> None:
        """The curves of a stage that is trained for whichever runs need it."""
        trainer, stages = self.trainer, self.plan[:number]
        if not trainer.tensorboard:
            return
        name = f"{'-'.join(s.name for s in stages)}_s{trainer.seed}_{stages[-1].key[:8]}"
        folder = Path(trainer.default_root_dir) / "stages" / name
        trainer.loggers = [stage_logger(folder)]

    def _log(self, tag: str, value: float, step: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({tag: value}, step)

    def _log_training(self, stage: str, step: int, loss: float, rate: float) -> None:
        self._log(f"train/{stage}/loss", loss, step)
        self._log(f"train/{stage}/lr", rate, step)

    def _find(self, key: str) -> Path | None:
        return self.trainer.store.get(key) if self.trainer.is_global_zero else None

    @contextmanager
    def _claim(self, key: str) -> Iterator[None]:
        with self.trainer.store.lock(key) if self.trainer.is_global_zero else nullcontext():
            yield

    @contextmanager
    def _pulse(self, key: str) -> Iterator[None]:
        model = self.model
        # Until the stage is begun the module still counts the steps of the one before.
        model.step, model.total_steps = 0, 0
        pulse = Heartbeat(
            self.trainer.store.folder,
            key,
            lambda: (model.step, model.total_steps),
            stops=(KeyboardInterrupt, SystemExit, Unfinished),
        )
        with pulse if self.trainer.is_global_zero else nullcontext():
            yield

    def weights_of(self, oracle: str | None) -> Path | str | None:
        """The weights of an oracle, as of `EvaluationResults.oracle`.

        Args:
            oracle: key of the last stage of its training, `BASE`, or None.

        Raises:
            StorageError: if they were in the store and are no more.
        """
        if oracle is None or oracle == BASE:
            return oracle
        if self.trainer.strategy.broadcast(self._find(oracle)) is None:
            raise StorageError(
                f"trainer.store: the model retrained without the forget stage ({oracle[:8]}) "
                f"is no more in {self.trainer.store.folder}. The same command makes what is "
                "missing, or goes without."
            )
        return self.trainer.store.folder / oracle / LEARN

    def _weights(self, done: list[PlannedStage]) -> dict[str, Path]:
        """Where the weights after some steps are: the folders to load."""
        folders = {}
        for stage in done:
            if stage.name != ORACLE:
                which = UNLEARN if stage.name == UNLEARN else LEARN
                folders[which] = self.trainer.store.folder / stage.key / which
        return folders

    def _replay(self, stage: PlannedStage) -> None:
        """Take over what was recorded when a stored stage was trained."""
        if self.trainer.announces:
            self.trainer.say(f"[green]✓[/] {stage.name}: already stored")
        folder = self.trainer.store.folder / stage.key
        if stage.name in (UNLEARN, ORACLE):
            read_observations(folder, self.observations)
        if stage.name != ORACLE:
            TrainingHistory(stage.name, self._log_training).read(folder)

    def _make(self, number: int) -> None:
        """Make the store entry of a step of the walk."""
        stage, before = self.plan[number], self.plan[:number]
        if number == 0 and self.trainer.is_global_zero:
            tell_of_precision(self.trainer.store, stage, self.trainer.warn)
        # Weights that the module holds stay where the step starts from them.
        load = {} if self.model.holds(before) else self._weights(before)
        began = time.monotonic()
        write: Callable[[Path], None]
        keeper: StageCheckpoint | None = None
        self.observations.oracle = self.weights_of(stage.oracle)
        if stage.name == ORACLE:
            self._look(load, fresh=number == 0)
            write = partial(write_observations, observations=self.observations)
        else:
            history = TrainingHistory(stage.name, self._log_training)
            keeper = self._train(number, load, history)
            write = partial(
                write_entry,
                model=self.model,
                weights=self.model.weights(UNLEARN if stage.name == UNLEARN else LEARN),
                history=history,
                observations=self.observations,
            )
        self.trainer.trained.append(stage.name)
        try:
            if self.trainer.is_global_zero:
                details: dict[str, Any] = {
                    "stage": stage.name,
                    "seconds": round(time.monotonic() - began, 3),
                    "machine": self.trainer.machine,
                }
                if keeper is not None:
                    details |= {"steps": self.model.step, "of": self.model.total_steps}
                    details["ended"] = keeper.ended
                self.trainer.store.put(stage.key, stage.content, write, details)
            self.trainer.strategy.barrier("stored")
        finally:
            if keeper is not None:
                keeper.release()
        if keeper is not None and keeper.asked:
            raise stopped(keeper.asked, f"after stage {stage.name}, which is stored.")

    def _look(self, load: dict[str, Path], fresh: bool) -> None:
        """Ask the monitors about stored weights."""
        last = (self.data.trained or self.data.path)[-1]
        fresh = fresh or bool(load)
        recipe = self.data.recipe(last)
        self.model.begin(StageStart(last, recipe, 1, self.trainer.seed, fresh, load))
        self.trainer.reset_callbacks()
        self.trainer.look(self.model)

    def _train(
        self, number: int, load: dict[str, Path], history: TrainingHistory
    ) -> StageCheckpoint:
        """One plain Lightning fit, from the stage's last checkpoint if there is one."""
        trainer, model, stage = self.trainer, self.model, self.plan[number]
        batches = self.data.begin(stage.name, trainer.seed, *data_share(trainer))
        recipe = self.data.recipe(stage.name)
        entry = StageStart(stage.name, recipe, len(batches), trainer.seed, number == 0, load)
        found = trainer.store.checkpoint(stage.key) if trainer.is_global_zero else None
        checkpoint: tuple[int, Path] | None = trainer.strategy.broadcast(found)
        if checkpoint is not None:
            self._go_on(entry, checkpoint, history)
        model.begin(entry)
        keeper = self._keeper(stage, history, checkpoint[1] if checkpoint is not None else None)
        if trainer.stage_progress is not None:
            trainer.stage_progress.place = f"{number + 1}/{len(self.plan)} "
        trainer.reset_callbacks()
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks += [history, keeper]
        finished = False
        try:
            trainer.fit_once(model, batches.loader(entry.done))
            keeper.close_early(model)
            finished = True
        except StageCut as cut:
            kept = f"step {model.step} is kept" if cut.kept else "its steps are lost"
            raise Unfinished(told(f"{self._where(number, kept, cause_of_stop(trainer))}")) from None
        except StageStopped as stop:
            kept = f"step {model.step} is kept" if stop.kept else "its steps are lost"
            raise stopped(stop.signal, self._where(number, kept)) from None
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            where = self._where(number, "steps since its last checkpoint are lost")
            cause = stop.__context__
            got = next((n for n, kind in ENDS.items() if type(cause) is kind), int(signal.SIGINT))
            if isinstance(cause, Requeued):
                got = requeue_signal(trainer) or signal.SIGTERM
            raise stopped(got, where) from None
        finally:
            del callbacks[-2:]
            if not finished:
                keeper.release()
        model.hold(stage.name, stage.key)
        return keeper

    def _go_on(
        self, entry: StageStart, checkpoint: tuple[int, Path], history: TrainingHistory
    ) -> None:
        """Have a stage go on from a checkpoint, and take over what was recorded up to it."""
        entry.done, folder = checkpoint
        which = UNLEARN if entry.stage == UNLEARN else LEARN
        entry.load = {**entry.load, which: folder / which}
        entry.optimizer = read_optimizer(folder)
        history.read(folder)
        if entry.stage == UNLEARN:
            read_observations(folder, self.observations)
        if self.trainer.is_global_zero:
            text = f"{entry.stage}: goes on after step {entry.done} of {entry.total_steps}."
            self.trainer.warn(text)

    def _keeper(
        self, stage: PlannedStage, history: TrainingHistory, checkpoint: Path | None
    ) -> StageCheckpoint:
        """The callback that writes checkpoints of a stage."""
        trainer = self.trainer
        # Who unlearns and who looks on has no part in an ordinary stage, nor in its key: the next
        # to go on with it may have others.
        stateful: list[Callback] = list(trainer.others)
        if stage.name == UNLEARN:
            stateful += [*trainer.methods, *trainer.monitors]

        def keep(collected: Any) -> None:
            write = partial(
                write_checkpoint,
                model=self.model,
                collected=collected,
                history=history,
                observations=self.observations,
                callbacks=stateful,
            )
            trainer.store.put_checkpoint(stage.key, self.model.step, stage.content, write)

        collect = partial(collect_checkpoint, self.model)
        return StageCheckpoint(
            trainer.frequency,
            collect,
            keep,
            trainer.warn,
            stateful,
            checkpoint,
            requeue_signal(trainer),
            partial(rule_that_ends, trainer, self.model),
            partial(measure_the_end, trainer, self.model),
        )

    def _where(self, number: int, kept: str, cause: str = "") -> str:
        return place_of_stop([stage.name for stage in self.plan], number, self.model, kept, cause)

    def _close_logs(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.close()

    def _finish(self, directory: RunFolder) -> None:
        """Fill the folder of the run; it is marked finished when all of it is there."""
        self._close_logs()
        merges = self.model.merge and not self.data.oracle
        if merges and not self.model.holds(self.plan):
            self.load_final_weights()
        if merges:
            # A model that is cut up is put together by all processes.
            template = self.data.format.template_source if self.data.format is not None else None
            self.model.save_merged(directory.folder / "merged", template)
        if self.trainer.is_global_zero:
            stages = [(s.name, self.trainer.store.folder / s.key) for s in self.plan]
            # Two processes may do the same run; they must not fill its folder at the same time.
            with self.trainer.store.lock(self.plan[-1].key):
                directory.close(stages)
        self.trainer.strategy.barrier("run written")
