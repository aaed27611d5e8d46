"""StagedTrainer: trains the stages of a path, then unlearns one of them."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ParallelStrategy, Strategy

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.data.paths import NO_ORACLE
from lightning_unlearn.distributed.processes import connected, launch_processes, requeueing
from lightning_unlearn.distributed.strategy import (
    FSDP2,
    with_precision,
)
from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.settings import Oracle
from lightning_unlearn.model.stage import StageStart
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.monitors.view import EXTERNAL
from lightning_unlearn.storage.callback_identity import (
    plugin_identity,
)
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.checkpoints import CheckpointInterval
from lightning_unlearn.training.combining import weights_of_entry
from lightning_unlearn.training.lightning_callbacks import check_callbacks
from lightning_unlearn.training.messages import Messages
from lightning_unlearn.training.oracle_values import oracle_identity, oracle_notes
from lightning_unlearn.training.path_plan import (
    Conditions,
    find_oracle,
    plan_path,
    stages_until,
)
from lightning_unlearn.training.path_runner import PathRunner
from lightning_unlearn.training.planned_stage import PlannedStage, of_path
from lightning_unlearn.training.preflight import check_arguments, check_result, check_run
from lightning_unlearn.training.quiet import quiet_lightning
from lightning_unlearn.training.run_callbacks import sort_callbacks
from lightning_unlearn.training.stage_trainer import StageTrainer

# Arguments of Lightning's Trainer that are the same for every stage.
FIXED: dict[str, Any] = {
    "max_epochs": 1,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    # Monitors may compute gradients; those that do not switch them off.
    "inference_mode": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


class StagedTrainer(StageTrainer):
    """Lightning's Trainer for models that are trained in stages.

    The recipe of a stage sets its number of steps, its batch size and its gradient clipping.
    Lightning's arguments for these do not exist here.

    Args:
        store: folder of the stage store. Runs that share a store train each prefix of a path once.
        seed: seed of all random numbers.
        run_name: folder of the run inside ``default_root_dir``; null makes it from method and path.
        default_root_dir: folder of the runs.
        accelerator: see Lightning's Trainer.
        strategy: see Lightning's Trainer, such as "ddp"; "fsdp2" shards the model, see `FSDP2`.
            Strategies that spawn or fork processes are refused.
        devices: see Lightning's Trainer.
        num_nodes: see Lightning's Trainer.
        precision: see Lightning's Trainer, such as "32-true" or "bf16-true".
        logger: true for TensorBoard in the run's folder, false for none, or your own loggers.
        callbacks: one unlearning method, monitors, and other callbacks.
        oracle: a retrained model that exists already, which monitors compare with; in YAML the key
            oracle beside trainer. null compares with the oracle in the store.
        checkpoint_steps: write a checkpoint inside a stage every n optimizer steps; null ignores
            the number of steps. Ctrl-C, SIGTERM and SIGHUP always write a checkpoint.
        checkpoint_minutes: write a checkpoint n minutes after the previous one; null ignores the
            time.
        snapshot_steps: store the model inside each stage every n optimizer steps, for path-aware
            methods that use it, such as `Splice`; null stores only what the run itself uses.
        enable_progress_bar: show progress bars.
        deterministic: see Lightning's Trainer.
        benchmark: see Lightning's Trainer.
        profiler: see Lightning's Trainer.
        plugins: see Lightning's Trainer.
        detect_anomaly: see Lightning's Trainer.

    Attributes:
        results: the monitors' results in the last ``fit`` or ``validate``.
        run_dir: the folder of the last ``fit``.
        trained_stages: stages that the last ``fit`` trained; stages read from the store are not
            included.
        verbose: whether to print notes about the data and the stages found in the store.
        expects_oracle: whether the oracles will be in the store when they are needed; None checks
            the store.
        messages: prints the messages of the run. If ``messages.handler`` is set, it gets the
            warnings instead.
        run_callbacks: the callbacks by kind.
        tensorboard: whether the run writes curves to its folder.
    """

    def __init__(
        self,
        *,
        store: str = "runs/store",
        seed: int = 0,
        run_name: str | None = None,
        default_root_dir: str = "runs",
        accelerator: str = "auto",
        strategy: str | Strategy = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: str | int = "32-true",
        logger: bool | Logger | list[Logger] = True,
        callbacks: list[Callback] | Callback | None = None,
        oracle: Oracle | None = None,
        checkpoint_steps: int | None = None,
        checkpoint_minutes: float | None = 10.0,
        snapshot_steps: int | None = None,
        enable_progress_bar: bool = True,
        deterministic: bool | None = None,
        benchmark: bool | None = None,
        profiler: str | None = None,
        plugins: Any = None,
        detect_anomaly: bool = False,
    ) -> None:
        check_arguments(precision, plugins, store, default_root_dir, run_name, snapshot_steps)
        self.run_callbacks = sort_callbacks(callbacks, enable_progress_bar)
        in_order = self.run_callbacks.in_order
        on_cpu = accelerator == "auto" and not torch.cuda.is_available()
        check_callbacks(in_order, bool(logger), accelerator == "cpu" or on_cpu)
        self.checkpoint_interval = CheckpointInterval(checkpoint_steps, checkpoint_minutes)
        self.checkpoint_interval.check()
        self.seed, self.oracle, self.run_name = seed, oracle, run_name
        self.snapshot_steps, self.tensorboard = snapshot_steps, logger is True
        progress = self.run_callbacks.progress
        self.messages = Messages(progress, lambda: getattr(self, "is_global_zero", True))
        self.store = StageStore(store, report=self.messages.warn)
        self.trained_stages, self._plugin = [], plugin_identity(plugins)
        precision, plugins = with_precision(precision, plugins)
        with quiet_lightning():
            super().__init__(
                accelerator=accelerator,
                strategy=FSDP2() if strategy == "fsdp2" else strategy,
                devices=devices,
                num_nodes=num_nodes,
                precision=precision,  # type: ignore[arg-type]
                logger=False if isinstance(logger, bool) else logger,
                callbacks=in_order,
                default_root_dir=default_root_dir,
                enable_progress_bar=enable_progress_bar,
                deterministic=deterministic,
                benchmark=benchmark,
                profiler=profiler,
                plugins=plugins,
                detect_anomaly=detect_anomaly,
                **FIXED,
            )
        # Lightning's handlers broadcast at any point of the program and requeue with a pickled
        # checkpoint. Here `StageCheckpoint` handles signals in a stage, and `requeueing` outside.
        self._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]

    def fit(self, model: CausalLM, datamodule: StagedDataModule) -> None:  # type: ignore[override]
        """Train the stages of the path that are not stored yet, then unlearn the forget stage.

        Args:
            model: the module.
            datamodule: stages and path.

        Raises:
            InputError: for a wrong setting that the user can correct, before training starts.
            DivergedError: if a loss is not finite; stored stages stay in the store.
            KeyboardInterrupt: after the optimizer step in which Ctrl-C, SIGTERM or SIGHUP arrived.
        """
        plan = self.run_path(model, datamodule)
        if not model.loaded_keys.matches(of_path(plan)):
            PathRunner(self, model, datamodule, plan).load_final_weights()
        model.cpu()

    def run_path(
        self, model: CausalLM, datamodule: StagedDataModule, until: int | None = None
    ) -> list[PlannedStage]:
        """Run a path as `fit` does, or its first stages, without loading the final weights.

        Args:
            model: the module. If it has just run another path, the weights of the common prefix
                are not read again.
            datamodule: stages and path.
            until: number of planned stages to run, from the first one, for all runs that share
                them; None runs all stages and fills the folder of the run.

        Returns:
            All planned stages of the path.

        Raises:
            InputError: see `fit`.
            DivergedError: see `fit`.
        """
        self.check(model, datamodule)
        plan = self.plan(model, datamodule)
        check_result(self, plan[-1])
        self.launch_processes(model)
        # All processes must use the same plan, whatever each found in the store.
        plan = self.strategy.broadcast(plan)
        with requeueing(self), connected(), self.run_callbacks.used():
            PathRunner(self, model, datamodule, plan).run(until)
        return plan

    def plan(
        self, model: CausalLM, datamodule: StagedDataModule, compares: bool = True
    ) -> list[PlannedStage]:
        """Plan the run of a path: one entry per trained stage, then "unlearn" or "oracle".

        Args:
            model: the module.
            datamodule: prepared stages and path.
            compares: whether to look for the oracle that monitors compare with.

        Returns:
            The planned stages in order.
        """
        return plan_path(
            model,
            datamodule,
            self.method,
            self.monitors,
            self._conditions,
            self._has_oracle if compares else lambda retrained: False,
            oracle_identity(self, model) if compares else None,
        )

    @property
    def _conditions(self) -> Conditions:
        return Conditions(
            self.run_callbacks.others, self.world_size, str(self.precision), self.seed, self._plugin
        )

    def _oracle(self, model: CausalLM, datamodule: StagedDataModule) -> str | None:
        """Return the oracle that a stored model is compared with; see `find_oracle`."""
        if datamodule.forget is None or not any(m.uses_oracle for m in self.monitors):
            return None
        if self.oracle is not None:
            return EXTERNAL
        return find_oracle(model, datamodule, self._conditions, self._has_oracle)

    def _has_oracle(self, retrained: PlannedStage) -> bool:
        """Return whether the oracle is in the store or will be when it is needed."""
        if self.expects_oracle is not None:
            return self.expects_oracle
        if self.store.has(retrained.key):
            return True
        if self.verbose:
            names = " and ".join(type(m).__name__ for m in self.monitors if m.uses_oracle)
            path = "-".join(stage["name"] for stage in retrained.content["stages"])
            other = self.store.find(retrained.content, ignoring=("base", "template"))
            of_other = ", only an oracle of another base model" if other is not None else ""
            self.messages.warn(
                f"{names}: cannot measure the distance to the oracle. The oracle (the model "
                f"retrained without the forget stage: {path}, seed {self.seed}) is not in "
                f"{self.store.folder}{of_other}. Train it with the same command and "
                "--data.oracle true, or name a retrained model with --oracle.base MODEL"
            )
        return False

    def data_notes(self, model: CausalLM, datamodule: StagedDataModule) -> list[str]:
        """Collect the notes of model, data and monitors for the user.

        Args:
            model: the module.
            datamodule: prepared stages and path.

        Returns:
            One sentence per note.
        """
        sentences = model.checks.notes() + datamodule.notes()
        if self.method is not None:
            sentences += self.method.data_notes(datamodule)
        sentences += oracle_notes(self, model)
        compared = [type(m).__name__ for m in self.monitors if m.uses_oracle]
        if self.oracle is None and compared and datamodule.forget in datamodule.learned:
            sentences.append(
                f"{' and '.join(compared)}: cannot measure the distance to the oracle: {NO_ORACLE}"
            )
        for monitor in self.monitors:
            sentences += monitor.data_notes(model, datamodule)
        return [visible(sentence) for sentence in sentences]

    def check(self, model: CausalLM, datamodule: StagedDataModule, train: bool = True) -> None:
        """Check trainer, model and data before anything is trained or written.

        Reads and tokenizes the data if that is not done yet.

        Args:
            model: the module.
            datamodule: stages and path.
            train: whether the run will train; False for an evaluation only.

        Raises:
            InputError: for a wrong setting that the user can correct.
        """
        check_run(self, model, datamodule, train)
        if self.verbose:
            for sentence in self.data_notes(model, datamodule):
                self.messages.warn(sentence)

    def launch_processes(self, model: CausalLM) -> None:
        """Start the other processes and connect them, so that all use the same store entries.

        Args:
            model: the module.
        """
        if isinstance(self.strategy, ParallelStrategy):
            self.strategy.connect(model)
            with quiet_lightning():
                launch_processes(self.strategy, self)

    def validate(  # type: ignore[override]
        self, model: CausalLM, datamodule: StagedDataModule, stage: str | None = None
    ) -> dict[str, float]:
        """Evaluate the monitors on a stored model, without training.

        Args:
            model: the module.
            datamodule: stages and path.
            stage: the stage after which to evaluate: "base" for the model from which the path
                starts, a stage of the path, or "unlearn"; null for the last stage.

        Returns:
            Mean of each metric, by name.

        Raises:
            InputError: if that model is not stored, or there is no monitor.
        """
        if not self.monitors:
            raise InputError(
                "trainer.callbacks: found no monitor, expected at least one: monitors measure."
            )
        self.check(model, datamodule, train=False)
        planned = of_path(self.plan(model, datamodule, False))
        plan = [stage for stage in planned if stage.name != ORACLE]
        done, after = stages_until(stage, plan, model, datamodule)
        self.launch_processes(model)
        if self.is_global_zero:
            self.store.report_unused()
        needed = done[-2:] if done and done[-1].name == UNLEARN else done[-1:]
        load: dict[str, Path] = {}
        found = 0
        for wanted in needed:
            # Ignore which monitors evaluated the model while it was trained.
            entry = self.store.find(wanted.content, ignoring=("monitors", "measured", "oracle"))
            if entry is not None:
                found += 1
                load |= weights_of_entry(wanted, entry)
        if self.strategy.broadcast(found) < len(needed):
            raise InputError(
                f"stage: found {done[-1].name}, but {self.store.folder} has no model of this path "
                "after that stage. Run lightning-unlearn fit with the same settings first, or "
                "evaluate the model from which the path starts with --stage base"
            )
        self.results = EvaluationResults(datamodule, self.requests)
        runner = PathRunner(self, model, datamodule, plan)
        last = done[-1].name if done else datamodule.path[0]
        start = StageStart(last, datamodule.recipe(last), 1, self.seed, True, load, after=after)
        model.start_stage(start)
        with connected(), self.run_callbacks.used():
            self.results.oracle = runner.weights_of(self._oracle(model, datamodule))
            self.run_callbacks.reset()
            self.evaluate_once(model)
        model.cpu()
        return {metric: value for _, metric, value in self.results.steps}


def _nothing() -> None:
    pass
