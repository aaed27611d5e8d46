"""Run of a path: each stage is read from the store, or trained and then stored."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.distributed.processes import requeue_signal
from lightning_unlearn.distributed.strategy import data_share
from lightning_unlearn.errors import Unfinished
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.stage import StageStart
from lightning_unlearn.monitors.results import EvaluationResults, ignore
from lightning_unlearn.monitors.view import BASE, EXTERNAL
from lightning_unlearn.storage.entry_status import Heartbeat
from lightning_unlearn.training.checkpoints import (
    StageCheckpoint,
    StageCut,
    StageStopped,
    collect_checkpoint,
    read_optimizer,
    write_checkpoint,
)
from lightning_unlearn.training.combining import (
    combine_history,
    learn_below,
    terms_of,
    weights_after,
)
from lightning_unlearn.training.descriptions import announce, describe_run
from lightning_unlearn.training.endings import (
    cause_of_stop,
    evaluate_early_end,
    place_of_stop,
    rule_that_ends,
    signal_of,
    stop_message,
    stopped,
)
from lightning_unlearn.training.history import (
    TrainingHistory,
    read_results,
    write_entry,
    write_results,
)
from lightning_unlearn.training.oracle_values import measure_oracle
from lightning_unlearn.training.path_plan import oracle_removed, warn_of_precision
from lightning_unlearn.training.planned_stage import PlannedStage, of_path
from lightning_unlearn.training.run_folder import RunFolder, RunLogger, stage_logger
from lightning_unlearn.training.snapshots import StageSnapshots, snapshots_of
from lightning_unlearn.training.stage_trainer import StageTrainer


class PathRunner:
    """Runs one path with a trainer.

    Args:
        trainer: the trainer, which trains and evaluates, and holds the store and the folders.
        model: the module.
        data: prepared stages and path.
        plan: the planned stages.
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
        self.results = EvaluationResults(data)

    def run(self, until: int | None = None) -> None:
        """Train and evaluate the stages that are not stored; see `StagedTrainer.run_path`.

        Args:
            until: number of planned stages to run, from the first one; None runs all of them and
                fills the folder of the run.
        """
        agree = self.trainer.strategy.broadcast
        directory = self._run_directory() if until is None else None
        label = self.trainer.label(self.data)
        if self.trainer.is_global_zero:
            # Check both before writing to either.
            if directory is not None:
                directory.check()
            self.trainer.store.check_writable()
            if self.trainer.verbose:
                self.trainer.store.report_unused()
                for line in announce(self.trainer, self.model, self.data, self.plan):
                    self.trainer.messages.info(line)
        for stage in self._stages(until):
            if stage.oracle == EXTERNAL and agree(self._find(stage.key) is None):
                self.weights_of(EXTERNAL)
        if directory is not None:
            self._open_run(directory)
        elif until is not None:
            self._open_stage(until)
        bar = self.trainer.run_callbacks.progress
        self.results = self.trainer.results = EvaluationResults(
            self.data,
            self.trainer.requests,
            log=lambda metric, step, value: self._log(f"{label}/{metric}", value, step),
            busy=bar.note if bar is not None else ignore,
        )
        self.trainer.trained_stages = []
        for stage in self._stages(until):
            if agree(self._find(stage.key) is None):
                with self._lock(stage.key):
                    # Another run may have stored the stage while this one waited for the lock.
                    if agree(self._find(stage.key) is None):
                        with self._heartbeat(stage.key):
                            self._make(stage)
                        continue
            if directory is not None:
                self._replay(stage)
        if directory is not None:
            self._finish(directory)
        self._close_logs()

    def _stages(self, until: int | None) -> list[PlannedStage]:
        """Return the planned stages to run; see `run`."""
        # A stage of the history does not start from the planned stage before it.
        return self.plan if until is None else [*(last := self.plan[until - 1]).before, last]

    def load_final_weights(self) -> None:
        """Load the weights after the last stage, for a run that did not train it."""
        names = [stage.name for stage in self.plan if stage.name != ORACLE]
        last = names[-1] if names else self.data.path[0]
        load = weights_after(self.trainer.store, of_path(self.plan))
        start = self.data.recipe(last), 1, self.trainer.seed, True, load
        self.model.start_stage(StageStart(last, *start))
        # Lightning sets the trainer during a fit; the format of the weights depends on it.
        self.model.trainer = self.trainer
        with self.trainer.init_module():
            self.model.configure_model()

    def _run_directory(self) -> RunFolder:
        trainer, data, plan = self.trainer, self.data, self.plan
        return RunFolder(trainer.run_folder(data), describe_run(trainer, data, plan))

    def _open_run(self, directory: RunFolder) -> None:
        trainer = self.trainer
        if trainer.is_global_zero:
            directory.open(trainer.config_text)
        directory.folder = trainer.strategy.broadcast(directory.folder)
        trainer.run_dir = directory.folder
        if trainer.tensorboard:
            trainer.loggers = [directory.tensorboard(self.data)]

    def _open_stage(self, number: int) -> None:
        """Open the TensorBoard log of stages that are trained for several runs."""
        trainer, stages = self.trainer, self._stages(number)
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
    def _lock(self, key: str) -> Iterator[None]:
        with self.trainer.store.lock(key) if self.trainer.is_global_zero else nullcontext():
            yield

    @contextmanager
    def _heartbeat(self, key: str) -> Iterator[None]:
        model = self.model
        # Before the stage starts, the module still has the step counts of the previous stage.
        model.step, model.total_steps = 0, 0
        heartbeat = Heartbeat(
            self.trainer.store.folder,
            key,
            lambda: (model.step, model.total_steps),
            stops=(KeyboardInterrupt, SystemExit, Unfinished),
        )
        with heartbeat if self.trainer.is_global_zero else nullcontext():
            yield

    def weights_of(self, oracle: str | None) -> Path | str | None:
        """Return the weights of an oracle for `EvaluationResults.oracle`; measure an external one.

        Args:
            oracle: key of the last stage of the oracle's training, `BASE`, `EXTERNAL` or None.

        Raises:
            StorageError: if the oracle was removed from the store.
        """
        if oracle == EXTERNAL:
            measure_oracle(self.trainer, self.model, self.data)
        if oracle is None or oracle in (BASE, EXTERNAL):
            return oracle
        if self.trainer.strategy.broadcast(self._find(oracle)) is None:
            raise oracle_removed(oracle, self.trainer.store.folder)
        return self.trainer.store.folder / oracle / LEARN

    def _replay(self, stage: PlannedStage) -> None:
        """Read and log the results that were recorded when a stored stage was trained."""
        if self.trainer.verbose:
            self.trainer.messages.info(f"[green]✓[/] {stage.label}: already stored")
        folder = self.trainer.store.folder / stage.key
        if stage.name in (UNLEARN, ORACLE):
            read_results(folder, self.results)
        if stage.name != ORACLE and not stage.history:
            TrainingHistory(stage.name, self._log_training).read(folder)

    def _make(self, stage: PlannedStage) -> None:
        """Train or evaluate one planned stage and store the entry."""
        trainer, before = self.trainer, stage.before
        if (stage is self.plan[0] or stage.history) and trainer.is_global_zero:
            warn_of_precision(trainer.store, stage, trainer.messages.warn)
        load = weights_after(trainer.store, before)
        if not stage.frozen and self.model.loaded_keys.matches(before):
            load = {}  # The module already holds the weights before this stage.
        began = time.monotonic()
        checkpoints: StageCheckpoint | None = None
        details: dict[str, Any] = {"stage": stage.name}
        self.results.oracle = self.weights_of(stage.oracle)
        if stage.name == ORACLE:
            self._evaluate(load, fresh=not before)
            write: Callable[[Path], None] = partial(write_results, results=self.results)
        else:
            history = TrainingHistory(stage.name, self._log_training, stage.label)
            if stage.result is not None:
                details |= combine_history(trainer, self.model, self.data, stage, load)
            else:
                checkpoints = self._train(stage, load, history)
                details |= {"steps": self.model.step, "of": self.model.total_steps}
                details["ended"] = checkpoints.ended if stage.upto is None else None
            write = partial(
                write_entry,
                model=self.model,
                weights=self.model.weights.state_dict(stage.adapter),
                history=history,
                results=self.results,
                learn=learn_below(self.model, stage),
                which=stage.adapter,
            )
        trainer.trained_stages.append(stage.label)
        try:
            if trainer.is_global_zero:
                seconds = round(time.monotonic() - began, 3)
                details |= {"seconds": seconds, "machine": trainer.machine}
                trainer.store.put(stage.key, stage.content, write, details)
            trainer.strategy.barrier("stored")
        finally:
            if checkpoints is not None:
                checkpoints.release()
        if checkpoints is not None and checkpoints.stop_signal:
            raise stopped(checkpoints.stop_signal, f"after storing stage {stage.label}.")

    def _evaluate(self, load: dict[str, Path], fresh: bool) -> None:
        """Evaluate the monitors on stored weights."""
        last = (self.data.prefix or self.data.path)[-1]
        start = self.data.recipe(last), 1, self.trainer.seed, fresh or bool(load), load
        self.model.start_stage(StageStart(last, *start))
        self.trainer.run_callbacks.reset()
        self.trainer.evaluate_once(self.model)

    def _train(
        self, stage: PlannedStage, load: dict[str, Path], history: TrainingHistory
    ) -> StageCheckpoint:
        """Train a stage with one Lightning fit, from its last checkpoint if there is one."""
        trainer, model, name, recipe = self.trainer, self.model, stage.name, stage.recipe
        assert recipe is not None
        options, seed = (*data_share(trainer), *stage.uses, recipe), trainer.seed
        batches = self.data.start_stage(name, seed, *options)
        entry = StageStart(name, recipe, len(batches), seed, not stage.before, load)
        entry.frozen = terms_of(trainer.store, stage.frozen, self.data)
        found = trainer.store.checkpoint(stage.key) if trainer.is_global_zero else None
        checkpoint: tuple[int, Path] | None = trainer.strategy.broadcast(found)
        if checkpoint is not None:
            self._resume(entry, checkpoint, history)
        model.start_stage(entry)
        folder = checkpoint[1] if checkpoint is not None else None
        checkpoints = self._checkpoints(stage, history, folder)
        if (progress := trainer.run_callbacks.progress) is not None:
            keys = [planned.key for planned in self.plan]
            progress.place = f"{keys.index(stage.key) + 1}/{len(keys)} "
        trainer.run_callbacks.reset()
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        taken = snapshots_of(stage, len(batches), trainer.snapshot_steps, self.plan)
        snapshots = StageSnapshots(trainer.store, taken, history, lambda: trainer.machine)
        callbacks += [history, snapshots, checkpoints]
        finished = False
        try:
            trainer.fit_once(model, batches.loader(entry.done, stage.upto))
            checkpoints.close_early(model)
            finished = True
        except StageCut as cut:
            where = self._where(stage, cut.kept, cause_of_stop(trainer))
            raise Unfinished(stop_message(where)) from None
        except StageStopped as stop:
            raise stopped(stop.signal, self._where(stage, stop.kept)) from None
        except SystemExit as stop:
            if (got := signal_of(stop, requeue_signal(trainer))) is None:
                raise
            raise stopped(got, self._where(stage, None)) from None
        finally:
            del callbacks[-3:]
            if not finished:
                checkpoints.release()
        if not stage.frozen:
            model.loaded_keys.mark(stage.name, stage.key)
        return checkpoints

    def _resume(
        self, entry: StageStart, checkpoint: tuple[int, Path], history: TrainingHistory
    ) -> None:
        """Start a stage from a checkpoint, and read the results recorded up to it."""
        entry.done, folder = checkpoint
        entry.load = {**entry.load, entry.trainable: folder / entry.trainable}
        entry.optimizer = read_optimizer(folder)
        history.read(folder)
        if entry.stage == UNLEARN:
            read_results(folder, self.results)
        if self.trainer.is_global_zero:
            done = f"step {entry.done} of {entry.total_steps}"
            self.trainer.messages.warn(f"{entry.stage}: resumes after {done}.")

    def _checkpoints(
        self, stage: PlannedStage, history: TrainingHistory, checkpoint: Path | None
    ) -> StageCheckpoint:
        """Create the callback that writes the checkpoints of a stage."""
        trainer = self.trainer
        # Method and monitors do not act in an ordinary stage and are not part of its key: the run
        # that resumes the stage may have other ones.
        stateful: list[Callback] = list(trainer.run_callbacks.others)
        if stage.name == UNLEARN:
            stateful += [*trainer.run_callbacks.methods, *trainer.monitors]

        def keep(collected: Any) -> None:
            write = partial(
                write_checkpoint,
                model=self.model,
                collected=collected,
                history=history,
                results=self.results,
                callbacks=stateful,
            )
            trainer.store.put_checkpoint(stage.key, self.model.step, stage.content, write)

        return StageCheckpoint(
            trainer.checkpoint_interval,
            partial(collect_checkpoint, self.model),
            keep,
            trainer.messages.warn,
            stateful,
            checkpoint,
            requeue_signal(trainer),
            partial(rule_that_ends, trainer, self.model, stage.upto),
            partial(evaluate_early_end, trainer, self.model),
        )

    def _where(self, stage: PlannedStage, kept: bool | None, cause: str = "") -> str:
        names = [*(before.name for before in stage.before), stage.label]
        return place_of_stop(names, len(names) - 1, self.model, kept, cause)

    def _close_logs(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.close()

    def _finish(self, directory: RunFolder) -> None:
        """Fill the folder of the run, then mark the run as finished."""
        self._close_logs()
        merges = self.model.settings.save_merged and not self.data.oracle
        if merges and not self.model.loaded_keys.matches(of_path(self.plan)):
            self.load_final_weights()
        if merges:
            # All processes take part in gathering a sharded model.
            template = self.data.format.template_source if self.data.format is not None else None
            self.model.weights.save_merged(directory.folder / "merged", template)
        if self.trainer.is_global_zero:
            stages = [(s.name, self.trainer.store.folder / s.key) for s in of_path(self.plan)]
            # Two commands may do the same run; only one at a time may fill its folder.
            with self.trainer.store.lock(self.plan[-1].key):
                directory.close(stages)
        self.trainer.strategy.barrier("run written")
