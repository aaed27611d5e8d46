"""Store entries of a stage: its weights, its losses, and the monitors' results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_unlearn.data.datamodule import UNLEARN
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.storage import records


class TrainingHistory(Callback):
    """Callback that records loss and learning rate of every optimizer step of a stage.

    Args:
        stage: the stage's name.
        log: function that gets label, step, loss and learning rate of every step.
        label: name of the stage in curves; None for the stage's name.
    """

    def __init__(
        self,
        stage: str,
        log: Callable[[str, int, float, float], None],
        label: str | None = None,
    ) -> None:
        self.stage = stage
        self._label = label or stage
        self._log = log
        self._rows: list[tuple[int, float, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """Record the step."""
        loss = float(trainer.callback_metrics["loss"])
        rate = float(trainer.callback_metrics["lr"])
        self._rows.append((pl_module.step, loss, rate))
        self._log(self._label, pl_module.step, loss, rate)

    def read(self, folder: Path) -> None:
        """Append and log the steps that a store entry or a checkpoint contains."""
        table = records.read_table(folder / records.TRAINING)
        for step, loss, rate in table[["step", "loss", "lr"]].itertuples(index=False):
            self._rows.append((int(step), float(loss), float(rate)))
            self._log(self._label, *self._rows[-1])

    def columns(self) -> dict[str, list[Any]]:
        """Return the history as table columns: stage, step, loss, lr."""
        # The history may be empty: a rule may end a stage before its first step.
        steps, losses, rates = ([row[place] for row in self._rows] for place in range(3))
        stages = [self.stage] * len(steps)
        return {"stage": stages, "step": steps, "loss": losses, "lr": rates}


def write_entry(
    folder: Path,
    model: CausalLM,
    weights: dict[str, Tensor],
    history: TrainingHistory,
    results: EvaluationResults | None = None,
    learn: dict[str, Tensor] | None = None,
    which: str | None = None,
) -> None:
    """Write the store entry of a trained stage, or the same files of a checkpoint.

    Args:
        folder: an existing folder.
        model: the module, which knows the format of its weights.
        weights: the weights that the stage trained, from `ModelWeights.state_dict`.
        history: losses and learning rates of the stage.
        results: the monitors' results of the run; written for the stage "unlearn" only.
        learn: weights of "learn" below "unlearn", if no other entry has them.
        which: the adapter that the stage trained; None for "unlearn" in unlearning, else "learn".
    """
    which = which or (UNLEARN if history.stage == UNLEARN else LEARN)
    model.weights.save(which, folder / which, weights)
    if learn is not None:
        model.weights.save(LEARN, folder / LEARN, learn)
    records.write_table(folder / records.TRAINING, history.columns())
    if history.stage == UNLEARN and results is not None:
        write_results(folder, results)


def write_results(folder: Path, results: EvaluationResults) -> None:
    """Write the monitors' results.

    Args:
        folder: an existing folder.
        results: the monitors' results of the run.
    """
    _write_rows(folder / records.STEPS, ("step", "metric", "value"), results.steps)
    names = ("step", "metric", "example", "value")
    _write_rows(folder / records.EXAMPLES, names, results.examples)


def _write_rows(file: Path, names: tuple[str, ...], rows: list[Any]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    records.write_table(file, dict(zip(names, columns, strict=True)))


def read_results(folder: Path, results: EvaluationResults) -> None:
    """Read the monitors' results of a store entry, and log them again.

    Args:
        folder: folder of the entry.
        results: the object that receives the rows.
    """
    steps = records.read_table(folder / records.STEPS)
    examples = records.read_table(folder / records.EXAMPLES)
    results.steps = list(steps.itertuples(index=False, name=None))
    results.examples = list(examples.itertuples(index=False, name=None))
    for step, metric, value in results.steps:
        results.log(metric, int(step), value)
