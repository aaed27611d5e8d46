"""What one stage of a path needs of a trainer: one Lightning fit or evaluation, and names."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_unlearn.data.batches import GlobalBatch
from lightning_unlearn.data.datamodule import ORACLE, StagedDataModule
from lightning_unlearn.model.causal_lm import CausalLM
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
    """Lightning's Trainer with the settings of a run; `StagedTrainer` makes it.

    Attributes: see `StagedTrainer`.
    """

    store: StageStore
    seed: int
    run_name: str | None
    run_callbacks: RunCallbacks
    messages: Messages
    checkpoint_interval: CheckpointInterval
    tensorboard: bool
    trained_stages: list[str]
    results: EvaluationResults | None = None
    run_dir: Path | None = None
    config_text: str | None = None
    verbose: bool = True
    expects_oracle: bool | None = None

    @property
    def machine(self) -> dict[str, Any]:
        """Where and with what numbers are computed; see `describe_machine`."""
        return describe_machine(self.strategy.root_device, self.world_size)

    @property
    def method(self) -> Unlearning | None:
        """The unlearning method among the callbacks."""
        methods = self.run_callbacks.methods
        return methods[0] if methods else None

    @property
    def monitors(self) -> list[Monitor]:
        """The monitors among the callbacks."""
        return self.run_callbacks.monitors

    def run_folder(self, datamodule: StagedDataModule) -> Path:
        """Where the results of a run go, if no other run is there.

        Args:
            datamodule: stages and path.
        """
        place = f"p{datamodule.position}_" if datamodule.position is not None else ""
        path = "-".join(datamodule.training_stages) or "base"
        name = self.run_name or f"{self.label(datamodule)}/{place}{path}_s{self.seed}"
        return Path(self.default_root_dir) / name

    def label(self, datamodule: StagedDataModule) -> str:
        """What a run is called by in folders, curves and records.

        Args:
            datamodule: stages and path.
        """
        if datamodule.oracle:
            return ORACLE
        return self.method.name if self.method is not None else "trained"

    def fit_once(self, model: CausalLM, loader: DataLoader[GlobalBatch]) -> None:
        """One plain Lightning fit of one epoch.

        Args:
            model: the module, ready for a stage.
            loader: optimizer steps.
        """
        self.fit_loop.max_epochs = self.current_epoch + 1
        with quiet_lightning(), model.keep_on_device():
            super().fit(model, train_dataloaders=loader)

    def evaluate_once(self, model: CausalLM) -> None:
        """A Lightning validation, in which monitors look at the model.

        Args:
            model: the module, with the weights to look at.
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
        """The row sets that the monitors ask for.

        Args:
            data: the stages.
            step: of unlearning; None for any step.
            total: steps of unlearning.
        """
        due = [m for m in self.monitors if step is None or m.is_due(step, total)]
        return [request for monitor in due for request in monitor.requests(data)]
