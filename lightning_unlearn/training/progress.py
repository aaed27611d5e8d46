"""Progress bars of the stages of a path, with Lightning's progress bar hooks and Rich."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


def make_progress(console: Console | None = None) -> Progress:
    """Create the progress display: one bar per task with its name, steps, time and loss."""
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console or Console(stderr=True),
    )


class StageProgress(ProgressBar):
    """One bar per stage. Without a terminal, one line per finished stage.

    Args:
        progress: bars of a larger display to add to; None creates a display.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__()
        self._owns = progress is None
        self.progress = progress or make_progress()
        self.place = ""
        self._task: TaskID | None = None
        self._enabled = True

    def disable(self) -> None:
        """Hide the bar, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bars."""
        if self._enabled:
            self.progress.console.print(*args, highlight=False, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar of a stage."""
        if self._enabled:
            if self._owns:
                self.progress = make_progress(self.progress.console)
                self.progress.start()
            total = int(trainer.num_training_batches)
            text = f"{self.place}{getattr(pl_module, 'stage', '')}"
            self._task = self.progress.add_task(text, total=total, note="")

    def note(self, text: str) -> None:
        """Show a text beside the bar until the next optimizer step, such as a running monitor."""
        if self._task is not None:
            self.progress.update(self._task, note=text)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the bar by one optimizer step."""
        if self._task is not None:
            note = self._loss(trainer)
            self.progress.update(self._task, completed=batch_idx + 1, note=note)

    @staticmethod
    def _loss(trainer: Trainer) -> str:
        loss = trainer.callback_metrics.get("loss")
        return f"loss {float(loss):.4g}" if loss is not None else ""

    def _close(self) -> None:
        if self._task is not None:
            if self._owns:
                self.progress.stop()
            else:
                self.progress.remove_task(self._task)
            self._task = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self.note(self._loss(trainer))
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the display, so that the terminal can be used again."""
        self._close()
