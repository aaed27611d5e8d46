"""Checkpoints inside a stage: a stage that was stopped resumes from its last checkpoint."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_unlearn.distributed.state_files import optimizer_state, read_state, write_state
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.signals import ENDS, leave_terminal
from lightning_unlearn.training.history import TrainingHistory, write_entry


@dataclass
class CheckpointInterval:
    """Interval between two checkpoints of a stage, in optimizer steps and in minutes.

    Attributes:
        steps: write a checkpoint every n optimizer steps; None to ignore the number of steps.
        minutes: write a checkpoint n minutes after the previous one; None to ignore the time.
    """

    steps: int | None = None
    minutes: float | None = 10.0

    def check(self) -> None:
        """Check that both numbers are valid intervals.

        Raises:
            InputError: if ``steps`` is below 1, or ``minutes`` is negative or not finite.
        """
        if self.steps is not None and self.steps < 1:
            raise InputError(
                f"trainer.checkpoint_steps: found {self.steps}, expected at least 1, or null."
            )
        if self.minutes is not None and not 0 <= self.minutes < math.inf:
            raise InputError(
                f"trainer.checkpoint_minutes: found {self.minutes}, expected 0 or more, or null."
            )


class StageStopped(Exception):
    """Raised after an optimizer step when a signal stops the stage.

    Attributes:
        signal: number of the signal.
        kept: whether a checkpoint of that step was written.
    """

    def __init__(self, number: int, kept: bool) -> None:
        super().__init__(number, kept)
        self.signal = number
        self.kept = kept


def _none() -> None:
    return None


class StageCut(Exception):
    """Raised when a stage ends before its last step and no rule finishes the stage there.

    Attributes:
        kept: whether a checkpoint of the last completed step was written.
    """

    def __init__(self, kept: bool) -> None:
        super().__init__(kept)
        self.kept = kept


class StageCheckpoint(Callback):
    """Callback that writes checkpoints and stops the stage after a step when a signal arrives.

    It runs after all other callbacks, so that a checkpoint contains the monitors' results of its
    step.

    Args:
        interval: interval between checkpoints.
        collect: gathers the content of a checkpoint at the current step; runs on all processes.
        write: writes the gathered content; runs on the first process only.
        say: prints a message for the user.
        callbacks: callbacks whose state the checkpoints contain.
        checkpoint: folder of the checkpoint from which the stage resumes; None starts the stage
            from its first step.
        requeue: number of a further signal that stops the stage; None for no such signal.
        rule: returns the rule that ends the stage after the current step, or None; runs on all
            processes.
        close: runs when a rule ends the stage.

    Attributes:
        ended: the rule that ended the stage before its last step; None if no rule did.
    """

    def __init__(
        self,
        interval: CheckpointInterval,
        collect: Callable[[], Any],
        write: Callable[[Any], None],
        say: Callable[[str], None],
        callbacks: Sequence[Callback] = (),
        checkpoint: Path | None = None,
        requeue: int | None = None,
        rule: Callable[[], str | None] = _none,
        close: Callable[[], None] = _none,
    ) -> None:
        self._interval = interval
        self._collect = collect
        self._write = write
        self._say = say
        self._callbacks = callbacks
        self._checkpoint_read = checkpoint
        self._rule = rule
        self._close = close
        self.ended: str | None = None
        # The signal that this process received; the other processes learn of it in `_vote`.
        self._received = 0
        self._agreed = 0
        self._single_process = True
        self._last = time.monotonic()
        self._can_write = True
        # Read the handlers now: Lightning installs its own ones during a fit.
        # Of several signals, the last one in this list decides.
        self._signals = list(ENDS)
        self._signals += [requeue] if requeue is not None else []
        before = {number: signal.getsignal(number) for number in self._signals}
        # None means that the handler was not installed by Python and could not be restored.
        self._before = {
            number: handler for number, handler in before.items() if handler is not None
        }
        self._watching = False

    @property
    def stop_signal(self) -> int:
        """Return the number of the signal for which all processes stop; 0 for none."""
        return self._received if self._single_process else self._agreed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, start the clock and restore the state of the callbacks.

        The state is restored here, after the callbacks have handled the start of the stage. Their
        changes at the start apply to step 0 and not to the step of the checkpoint.
        """
        self._last = time.monotonic()
        self._single_process = trainer.world_size == 1
        if self._checkpoint_read is not None:
            assert isinstance(pl_module, CausalLM)
            states = read_state(self._checkpoint_read, pl_module.device)["callbacks"]
            for number, callback in enumerate(self._callbacks):
                callback.load_state_dict(states[_label(number, callback)])
        # Python delivers signals to the main thread only.
        self._watching = threading.current_thread() is threading.main_thread()
        if self._watching:
            for number, handler in self._before.items():
                # A shell that starts a process in the background may have it ignore Ctrl-C.
                if handler != signal.SIG_IGN:
                    signal.signal(number, self._receive)

    def release(self) -> None:
        """Restore the signal handlers that were installed before the stage."""
        if self._watching:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._watching = False
            if self._received and not self.stop_signal:
                # The signal came after the last vote: this process ends, and the others follow.
                signal.raise_signal(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        leave_terminal()
        # Write to the descriptor: the progress display may be in the middle of a line.
        # If standard error is closed, the stage still has to write its checkpoint.
        with suppress(OSError):
            os.write(2, b"\nStopping after this step. Press Ctrl-C again to stop at once.\n")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint if one is due; stop if a signal arrived or a rule ends the stage."""
        assert isinstance(pl_module, CausalLM)
        due = self._vote(trainer, pl_module)
        if pl_module.step == pl_module.total_steps:
            return  # The stage is complete: it is stored first, and the signal ends the run then.
        self.ended = self._rule()
        if self.ended is not None:
            # Write no checkpoint: a run that resumes from it would train one step more.
            trainer.should_stop = True
            self._close()
            return
        if self.stop_signal or due:
            kept = self._checkpoint(trainer)
            if self.stop_signal:
                raise StageStopped(self.stop_signal, kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint of the last step if the stage ended early without a rule.

        Raises:
            StageCut: if the stage ended before its last step and no rule finishes it there.
        """
        assert isinstance(pl_module, CausalLM)
        if pl_module.step < pl_module.total_steps and self.ended is None:
            raise StageCut(self._checkpoint(trainer))

    def close_early(self, module: CausalLM) -> None:
        """Check why a stage made no step: Lightning reports nothing in that case.

        Args:
            module: the module after the fit.

        Raises:
            StageCut: if the stage is incomplete and no rule finishes it there.
        """
        if module.step < module.total_steps and self.ended is None:
            self.ended = self._rule()
            if self.ended is None:
                raise StageCut(kept=False)

    def _vote(self, trainer: Trainer, module: CausalLM) -> bool:
        """Agree on the signal that stops the stage, and return whether a checkpoint is due.

        All processes return the same value and stop for the same signal.
        """
        steps, minutes = self._interval.steps, self._interval.minutes
        due = steps is not None and module.step % steps == 0
        due |= minutes is not None and time.monotonic() - self._last >= 60 * minutes
        if self._single_process:
            return due
        received = [self._received == number for number in self._signals]
        wanted = [*received, trainer.should_stop, due and trainer.is_global_zero]
        votes = torch.tensor(wanted, dtype=torch.float32)
        votes = trainer.strategy.reduce(votes.to(module.device), reduce_op="sum")
        *received, stop, due = (vote > 0 for vote in votes.tolist())
        # If one process left its training loop alone, the others would wait for it forever.
        trainer.should_stop = stop
        number = max((n for n, one in enumerate(received) if one), default=None)
        self._agreed = 0 if number is None else self._signals[number]
        return bool(due)

    def _checkpoint(self, trainer: Trainer) -> bool:
        """Write a checkpoint; return whether checkpoints of this stage can be written.

        A checkpoint that cannot be written is reported once and does not stop the stage.
        """
        if self._can_write:
            collected = self._collect()
            if trainer.is_global_zero:
                try:
                    self._write(collected)
                except (StorageError, TypeError) as error:
                    self._can_write = False
                    self._say(f"No checkpoint of this stage can be written: {error}")
        self._last = time.monotonic()
        self._can_write = trainer.strategy.broadcast(self._can_write)
        return self._can_write


def collect_checkpoint(model: CausalLM) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gather the model's part of a checkpoint; every process must call this function.

    Args:
        model: the module during a stage.

    Returns:
        The trained weights, and the state of the optimizer.
    """
    weights = model.weights.state_dict(model.trainable)
    optimizer = model.optimizers()
    return weights, optimizer_state(optimizer.optimizer)  # type: ignore[union-attr]


def write_checkpoint(
    folder: Path,
    model: CausalLM,
    collected: tuple[dict[str, Tensor], dict[str, Any]],
    history: TrainingHistory,
    results: EvaluationResults,
    callbacks: Sequence[Callback],
) -> None:
    """Write a checkpoint: a store entry of the stage so far, and the state that resuming needs.

    Args:
        folder: an existing folder.
        model: the module, which knows the format of its weights.
        collected: the result of `collect_checkpoint`.
        history: losses and learning rates of the stage so far.
        results: the monitors' results of the run so far.
        callbacks: callbacks whose ``Callback.state_dict`` is written.

    Raises:
        TypeError: if the state of a callback contains something other than plain values and
            tensors; the message names the value.
    """
    weights, optimizer = collected
    write_entry(folder, model, weights, history, results, which=model.trainable)
    state = {
        "optimizer": optimizer,
        "callbacks": {_label(n, c): c.state_dict() for n, c in enumerate(callbacks)},
    }
    write_state(folder, state)


def read_optimizer(checkpoint: Path) -> dict[str, Any]:
    """Read the optimizer's state of a checkpoint; return it in the form of `restore_optimizer`."""
    state: dict[str, Any] = read_state(checkpoint, torch.device("cpu"))["optimizer"]
    return state


def _label(number: int, callback: Callback) -> str:
    return f"{number} {type(callback).__qualname__}"
