"""What one stage of a path needs of a trainer: one Lightning fit, one look, messages, names."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.markup import escape
from torch.utils.data import DataLoader

from lightning_unlearn.data.batches import GlobalBatch
from lightning_unlearn.data.datamodule import ORACLE, StagedDataModule
from lightning_unlearn.errors import visible
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.monitors.view import RowRequest
from lightning_unlearn.storage.callback_identity import constructed
from lightning_unlearn.storage.machine import describe_machine
from lightning_unlearn.storage.stage_store import StageStore
from lightning_unlearn.training.checkpoints import Frequency
from lightning_unlearn.training.progress import StageProgress
from lightning_unlearn.training.quiet import quiet_lightning
from lightning_unlearn.unlearning.base import Unlearning


class StageTrainer(Trainer):
    """Lightning's Trainer with the settings of a run; `StagedTrainer` makes it.

    Attributes: see `StagedTrainer`.
    """

    store: StageStore
    seed: int
    run_name: str | None
    methods: list[Unlearning]
    monitors: list[Monitor]
    others: list[Callback]
    stage_progress: StageProgress | None
    frequency: Frequency
    observations: EvaluationResults | None
    run_dir: Path | None
    trained: list[str]
    config_text: str | None
    announces: bool
    tell: Callable[[str], None] | None
    tensorboard: bool

    @property
    def machine(self) -> dict[str, Any]:
        """Where and with what numbers are computed; see `describe_machine`."""
        return describe_machine(self.strategy.root_device, self.world_size)

    @property
    def keyed(self) -> list[Callback]:
        """The callbacks whose identity is in keys: what they were made with, and their code."""
        return [*self.methods, *self.monitors, *self.others]

    @property
    def method(self) -> Unlearning | None:
        """The unlearning method among the callbacks."""
        return self.methods[0] if self.methods else None

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

    def say(self, text: str) -> None:
        """Print a line above the progress display, on the first process."""
        if self.stage_progress is not None and getattr(self, "is_global_zero", True):
            self.stage_progress.print(text)

    def warn(self, text: str) -> None:
        """Print what must not be missed, also where there is no progress display."""
        text = visible(text)
        if self.tell is not None:
            self.tell(text)
        elif self.stage_progress is not None:
            self.say(escape(text))
        else:
            print(text, file=sys.stderr)

    def reset_callbacks(self) -> None:
        """Give callbacks the state in which they were made: a stage depends on its start alone."""
        for callback in self.keyed:
            constructed(callback).restore(callback)

    @contextmanager
    def using_callbacks(self) -> Iterator[None]:
        """Tell what callbacks do to themselves in a run from what is set on them outside."""
        try:
            yield
        finally:
            for callback in self.keyed:
                constructed(callback).leave(callback)

    def fit_once(self, model: CausalLM, loader: DataLoader[GlobalBatch]) -> None:
        """One plain Lightning fit of one epoch.

        Args:
            model: the module, ready for a stage.
            loader: optimizer steps.
        """
        self.fit_loop.max_epochs = self.current_epoch + 1
        with quiet_lightning(), model.keep_on_device():
            super().fit(model, train_dataloaders=loader)

    def look(self, model: CausalLM) -> None:
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
        due = [m for m in self.monitors if step is None or m.due(step, total)]
        return [ask for monitor in due for ask in monitor.asks(data)]
