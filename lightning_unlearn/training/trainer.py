"""StagedTrainer: walks a path of stages, then unlearns one of them."""

from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ParallelStrategy, Strategy

from lightning_unlearn.data.datamodule import ORACLE, UNLEARN, StagedDataModule
from lightning_unlearn.distributed.processes import connected, launch_processes, requeueing
from lightning_unlearn.distributed.strategy import (
    FSDP2,
    with_precision,
)
from lightning_unlearn.errors import InputError, visible
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.stage import StageStart
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.monitors.view import BASE
from lightning_unlearn.settings.diagnosis import show
from lightning_unlearn.settings.folder_names import check_folder
from lightning_unlearn.storage.callback_identity import (
    plugin_identity,
)
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.checkpoints import CheckpointInterval
from lightning_unlearn.training.lightning_callbacks import check_callbacks
from lightning_unlearn.training.messages import Messages
from lightning_unlearn.training.path_plan import Conditions, PlannedStage, find_oracle, plan_path
from lightning_unlearn.training.path_runner import PathRunner
from lightning_unlearn.training.preflight import check_run
from lightning_unlearn.training.quiet import quiet_lightning
from lightning_unlearn.training.run_callbacks import sort_callbacks
from lightning_unlearn.training.stage_trainer import StageTrainer

# Arguments of Lightning's Trainer that a stage leaves no choice of.
FIXED: dict[str, Any] = {
    "max_epochs": 1,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    # Monitors may ask for gradients; they switch them off where they do not.
    "inference_mode": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


class StagedTrainer(StageTrainer):
    """Lightning's Trainer for models that are trained in stages.

    How long a stage trains, its batch and its gradient clipping are in the stage's recipe, so
    Lightning's arguments for them are not taken here.

    Args:
        store: folder of the stage store. Runs that share it train no prefix of a path twice.
        seed: seed of everything random.
        run_name: folder of the run inside ``default_root_dir``; null makes it from method and path.
        default_root_dir: where runs go.
        accelerator: as of Lightning's Trainer.
        strategy: as of Lightning's Trainer, such as "ddp"; "fsdp2" shares a model out, see
            `FSDP2`; those that spawn or fork are refused.
        devices: as of Lightning's Trainer.
        num_nodes: as of Lightning's Trainer.
        precision: as of Lightning's Trainer, such as "32-true" or "bf16-true".
        logger: true for TensorBoard in the run's folder, false for none, or loggers of your own.
        callbacks: one unlearning method, monitors, and others.
        checkpoint_steps: write a checkpoint inside a stage every so many optimizer steps; null for
            no such rule. Ctrl-C, SIGTERM and SIGHUP always leave one.
        checkpoint_minutes: write one when so many minutes have gone by since the last; null for no
            such rule.
        enable_progress_bar: show progress.
        deterministic: as of Lightning's Trainer.
        benchmark: as of Lightning's Trainer.
        profiler: as of Lightning's Trainer.
        plugins: as of Lightning's Trainer.
        detect_anomaly: as of Lightning's Trainer.

    Attributes:
        results: what the monitors saw in the last ``fit`` or ``validate``.
        run_dir: the folder of the last ``fit``.
        trained_stages: stages that the last ``fit`` trained, as against those found in the store.
        verbose: whether stages found in the store, and what is to be known of the data, are
            told.
        expects_oracle: whether the models retrained without the forget stage will be in the store
            when they are needed; None looks for them.
        messages: prints what the trainer has to say; ``messages.handler`` is called with warnings
            instead.
        run_callbacks: the callbacks by kind.
        tensorboard: whether curves are written to the run's folder.
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
        checkpoint_steps: int | None = None,
        checkpoint_minutes: float | None = 10.0,
        enable_progress_bar: bool = True,
        deterministic: bool | None = None,
        benchmark: bool | None = None,
        profiler: str | None = None,
        plugins: Any = None,
        detect_anomaly: bool = False,
    ) -> None:
        check_arguments(precision, plugins, store, default_root_dir, run_name)
        self.run_callbacks = sort_callbacks(callbacks, enable_progress_bar)
        in_order = self.run_callbacks.in_order
        on_cpu = accelerator == "auto" and not torch.cuda.is_available()
        check_callbacks(in_order, bool(logger), accelerator == "cpu" or on_cpu)
        self.checkpoint_interval = CheckpointInterval(checkpoint_steps, checkpoint_minutes)
        self.checkpoint_interval.check()
        self.seed = seed
        self.run_name = run_name
        progress = self.run_callbacks.progress
        self.messages = Messages(progress, lambda: getattr(self, "is_global_zero", True))
        self.store = StageStore(store, report=self.messages.warn)
        self.trained_stages = []
        self.tensorboard = logger is True
        self._plugin = plugin_identity(plugins)
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
        # Lightning's handlers broadcast from wherever a signal finds them, and requeue with a
        # pickled checkpoint. `StageCheckpoint` sees to signals in a stage, `requeueing` outside.
        self._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]

    def fit(self, model: CausalLM, datamodule: StagedDataModule) -> None:  # type: ignore[override]
        """Train the stages of the path that are not stored yet, then unlearn the forget stage.

        Args:
            model: the module.
            datamodule: stages and path.

        Raises:
            InputError: for anything a user can mend, before training starts.
            DivergedError: if a loss is not finite; what was stored stays stored.
            KeyboardInterrupt: after the optimizer step in which Ctrl-C, SIGTERM or SIGHUP came.
        """
        plan = self.run_path(model, datamodule)
        if not model.loaded_keys.matches(plan):
            PathRunner(self, model, datamodule, plan).load_final_weights()
        model.cpu()

    def run_path(
        self, model: CausalLM, datamodule: StagedDataModule, until: int | None = None
    ) -> list[PlannedStage]:
        """`fit`, or its beginning; weights that are stored are not taken up where none is needed.

        Args:
            model: the module; of a module that has just walked another path, what the two have in
                common is not read again.
            datamodule: stages and path.
            until: only the first so many steps of the walk, for whichever runs need them; None for
                all, which fills the folder of the run.

        Returns:
            The whole walk.

        Raises:
            InputError: as of `fit`.
            DivergedError: as of `fit`.
        """
        self.check(model, datamodule)
        plan = self.plan(model, datamodule)
        self.launch_processes(model)
        # What was found in the store must be the same for all.
        plan = self.strategy.broadcast(plan)
        with requeueing(self), connected(), self.run_callbacks.used():
            PathRunner(self, model, datamodule, plan).run(until)
        return plan

    def plan(
        self, model: CausalLM, datamodule: StagedDataModule, compares: bool = True
    ) -> list[PlannedStage]:
        """The walk as store entries: one per trained stage, and "unlearn" or "oracle".

        Args:
            model: the module.
            datamodule: prepared stages and path.
            compares: look for the oracle that unlearning is compared with.

        Returns:
            The steps in order.
        """
        return plan_path(
            model,
            datamodule,
            self.method,
            self.monitors,
            self._conditions,
            self._has_oracle if compares else lambda retrained: False,
        )

    @property
    def _conditions(self) -> Conditions:
        return Conditions(
            self.run_callbacks.others, self.world_size, str(self.precision), self.seed, self._plugin
        )

    def _oracle(self, model: CausalLM, datamodule: StagedDataModule) -> str | None:
        """What a stored model of a path is compared with; see `find_oracle`."""
        if datamodule.forget is None or not any(m.uses_oracle for m in self.monitors):
            return None
        return find_oracle(model, datamodule, self._conditions, self._has_oracle)

    def _has_oracle(self, retrained: PlannedStage) -> bool:
        """Whether the model retrained without the forget stage is there, or will be."""
        if self.expects_oracle is not None:
            return self.expects_oracle
        if self.store.has(retrained.key):
            return True
        if self.verbose:
            names = " and ".join(type(m).__name__ for m in self.monitors if m.uses_oracle)
            path = "-".join(stage["name"] for stage in retrained.content["stages"])
            other = self.store.find(retrained.content, ignoring=("base", "template"))
            of_other = ", only one of another base model" if other is not None else ""
            self.messages.warn(
                f"{names}: no distance to the oracle is measured. The model retrained without the "
                f"forget stage ({path}, seed {self.seed}) is not in {self.store.folder}{of_other}. "
                "The same command with --data.oracle true makes it."
            )
        return False

    def data_notes(self, model: CausalLM, datamodule: StagedDataModule) -> list[str]:
        """What the user should know of model and data, and of what is measured on them.

        Args:
            model: the module.
            datamodule: prepared.

        Returns:
            Sentences.
        """
        sentences = model.checks.notes() + datamodule.notes()
        for monitor in self.monitors:
            sentences += monitor.data_notes(model, datamodule)
        return [visible(sentence) for sentence in sentences]

    def check(self, model: CausalLM, datamodule: StagedDataModule, train: bool = True) -> None:
        """Find all that can be found wrong without training, before anything is written.

        Reads and tokenizes the data if that is not done yet.

        Args:
            model: the module.
            datamodule: stages and path.
            train: whether training is to follow.

        Raises:
            InputError: for anything a user can mend.
        """
        check_run(self, model, datamodule, train)
        if self.verbose:
            for sentence in self.data_notes(model, datamodule):
                self.messages.warn(sentence)

    def launch_processes(self, model: CausalLM) -> None:
        """Start the other processes and connect them, so that all agree on what is stored.

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
        plan = [stage for stage in self.plan(model, datamodule, False) if stage.name != ORACLE]
        names = [BASE, *(planned.name for planned in plan)]
        wanted = names[-1] if stage is None else stage
        if wanted not in names:
            raise InputError(f"stage: found {wanted!r}, expected one of {', '.join(names)}.")
        done = plan[: names.index(wanted)]
        self.launch_processes(model)
        if self.is_global_zero:
            self.store.look_over()
        needed = done[-2:] if wanted == UNLEARN else done[-1:]
        load = {}
        for planned in needed:
            # Which monitors looked on while the weights were made does not matter here.
            entry = self.store.find(planned.content, ignoring=("monitors", "measured", "oracle"))
            if entry is not None:
                which = UNLEARN if planned.name == UNLEARN else LEARN
                load[which] = entry / which
        if self.strategy.broadcast(len(load)) < len(needed):
            raise InputError(
                f"nothing is stored of this path after {done[-1].name} (in {self.store.folder}). "
                "Run lightning-unlearn fit with the same settings first, or measure the untouched "
                "base model with --stage base."
            )
        self.results = EvaluationResults(datamodule, self.requests)
        self.results.oracle = PathRunner(self, model, datamodule, plan).weights_of(
            self._oracle(model, datamodule)
        )
        last = done[-1].name if done else datamodule.path[0]
        model.start_stage(StageStart(last, datamodule.recipe(last), 1, self.seed, True, load))
        with connected(), self.run_callbacks.used():
            self.run_callbacks.reset()
            self.evaluate_once(model)
        model.cpu()
        return {measure: value for _, measure, value in self.results.steps}


def check_arguments(
    precision: str | int, plugins: Any, store: str, default_root_dir: str, run_name: str | None
) -> None:
    """Refuse arguments of `StagedTrainer` that no run can have.

    Raises:
        InputError: naming the key.
    """
    if str(precision) in ("16-mixed", "16"):
        raise InputError(
            f"trainer.precision: found {precision}, expected bf16-mixed, bf16-true or 32-true: "
            "the loss scale of 16-mixed would be carried from stage to stage."
        )
    for key, folder in (("store", store), ("default_root_dir", default_root_dir)):
        check_folder(folder, f"trainer.{key}")
    if run_name is not None:
        check_folder(run_name, "trainer.run_name")
    if isinstance(plugins, str | dict):
        raise InputError(
            f"trainer.plugins: found {show(plugins)}, expected null, or plugins made in Python."
        )


def _nothing() -> None:
    pass
