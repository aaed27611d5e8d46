"""The trainer's part for one stage: a Lightning fit, an evaluation, and names."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_unlearn.data.batches import GlobalBatch
from lightning_unlearn.data.datamodule import ORACLE, StagedDataModule
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.settings import Oracle
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.monitors.view import RowRequest
from lightning_unlearn.storage.machine import describe_machine
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.checkpoints import CheckpointInterval
from lightning_unlearn.training.messages import Messages
from lightning_unlearn.training.quiet import quiet_lightning
from lightning_unlearn.training.run_callbacks import RunCallbacks
from lightning_unlearn.unlearning.base import Unlearning


class StageTrainer(Trainer):
    """Lightning's Trainer with the settings of a run; the base class of `StagedTrainer`.

    Attributes: see `StagedTrainer`.
    """

    store: StageStore
    seed: int
    run_name: str | None
    run_callbacks: RunCallbacks
    messages: Messages
    checkpoint_interval: CheckpointInterval
    snapshot_steps: int | None = None
    tensorboard: bool
    trained_stages: list[str]
    results: EvaluationResults | None = None
    run_dir: Path | None = None
    config_text: str | None = None
    verbose: bool = True
    expects_oracle: bool | None = None
    oracle: Oracle | None = None

    @property
    def machine(self) -> dict[str, Any]:
        """Return the description of hardware and software; see `describe_machine`."""
        return describe_machine(self.strategy.root_device, self.world_size)

    @property
    def method(self) -> Unlearning | None:
        """Return the unlearning method among the callbacks; None if there is none."""
        methods = self.run_callbacks.methods
        return methods[0] if methods else None

    @property
    def monitors(self) -> list[Monitor]:
        """Return the monitors among the callbacks."""
        return self.run_callbacks.monitors

    def run_folder(self, datamodule: StagedDataModule) -> Path:
        """Return the folder for the results of a run, without the number of a second run.

        Args:
            datamodule: stages and path.
        """
        place = f"p{datamodule.position}_" if datamodule.position is not None else ""
        path = "-".join(datamodule.prefix) or "base"
        name = self.run_name or f"{self.label(datamodule)}/{place}{path}_s{self.seed}"
        return Path(self.default_root_dir) / name

    def label(self, datamodule: StagedDataModule) -> str:
        """Return the label of a run in folders, curves and records.

        Args:
            datamodule: stages and path.

        Returns:
            "oracle", the name of the method, or "trained" for a run without unlearning.
        """
        if datamodule.oracle:
            return ORACLE
        return self.method.name if self.method is not None else "trained"

    def fit_once(self, model: CausalLM, loader: DataLoader[GlobalBatch]) -> None:
        """Run one Lightning fit of one epoch.

        Args:
            model: the module, ready for a stage.
            loader: the data of each optimizer step.
        """
        self.fit_loop.max_epochs = self.current_epoch + 1
        with quiet_lightning(), model.keep_on_device():
            super().fit(model, train_dataloaders=loader)

    def evaluate_once(self, model: CausalLM) -> None:
        """Run a Lightning validation, in which the monitors evaluate the model.

        Args:
            model: the module, with the weights to evaluate.
        """
        try:
            with quiet_lightning(), model.keep_on_device():
                super().validate(model, DataLoader([0]), verbose=False)  # type: ignore[arg-type]
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise stop.__context__ from None
            raise

    def requests(self, data: StagedDataModule, step: int | None, total: int) -> list[RowRequest]:
        """Return the row sets that the monitors will request.

        Args:
            data: the stages.
            step: step of unlearning; None for the requests of all steps.
            total: number of steps of unlearning.
        """
        due = [m for m in self.monitors if step is None or m.is_due(step, total)]
        return [request for monitor in due for request in monitor.requests(data)]
