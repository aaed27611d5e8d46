"""Checkpoints inside a stage: a long one that is stopped goes on from the last of them."""

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

from lightning_unlearn.data.datamodule import UNLEARN
from lightning_unlearn.distributed.state_files import optimizer_state, read_state, write_state
from lightning_unlearn.errors import InputError, StorageError
from lightning_unlearn.model.adapters import LEARN
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.signals import ENDS, leave_terminal
from lightning_unlearn.training.history import TrainingHistory, write_entry


@dataclass
class CheckpointInterval:
    """How often a checkpoint is written.

    Attributes:
        steps: every so many optimizer steps; None for no such rule.
        minutes: when so many minutes have gone by since the last; None for no such rule.
    """

    steps: int | None = None
    minutes: float | None = 10.0

    def check(self) -> None:
        """Refuse numbers that are no distance.

        Raises:
            InputError: naming the key.
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
    """A stage was stopped after an optimizer step, as a signal asked.

    Attributes:
        signal: its number.
        kept: whether a checkpoint holds that step.
    """

    def __init__(self, number: int, kept: bool) -> None:
        super().__init__(number, kept)
        self.signal = number
        self.kept = kept


def _none() -> None:
    return None


class StageCut(Exception):
    """A stage ended before its last step, by no rule that finishes it.

    Attributes:
        kept: whether a checkpoint holds the step that was made last.
    """

    def __init__(self, kept: bool) -> None:
        super().__init__(kept)
        self.kept = kept


class StageCheckpoint(Callback):
    """Writes checkpoints, and stops the stage after an optimizer step when a signal asks for it.

    The last of the callbacks, so that what monitors saw of a step is in its checkpoint.

    Args:
        interval: how often.
        collect: gathers what a checkpoint of the present step needs; called on all processes.
        write: writes what was gathered; called on the first one.
        say: tells the user something.
        callbacks: whose state is in checkpoints.
        checkpoint: what the stage goes on from; None for its beginning.
        requeue: a further signal that asks for a stop; None for none.
        rule: gives the rule that ends the stage after the present step, or None; called on all
            processes.
        close: called where a rule ends the stage.

    Attributes:
        ended: the rule that has ended the stage before its last step; None for none.
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
        # What this process got; the others do not know of it before they have voted.
        self._got = 0
        self._voted = 0
        self._alone = True
        self._last = time.monotonic()
        self._works = True
        # Taken now, for Lightning puts handlers of its own in place while it fits.
        # The later in this order, the more it says of what is to come.
        self._signals = list(ENDS)
        self._signals += [requeue] if requeue is not None else []
        before = {number: signal.getsignal(number) for number in self._signals}
        # None stands for a handler that is not Python's, which could not be put back.
        self._before = {
            number: handler for number, handler in before.items() if handler is not None
        }
        self._watching = False

    @property
    def asked(self) -> int:
        """Number of the signal for which all processes stop; 0 for none."""
        return self._got if self._alone else self._voted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch for signals, start the clock, and give callbacks their state.

        Now, for what they do themselves at the start of a stage belongs to its first step.
        """
        self._last = time.monotonic()
        self._alone = trainer.world_size == 1
        if self._checkpoint_read is not None:
            assert isinstance(pl_module, CausalLM)
            states = read_state(self._checkpoint_read, pl_module.device)["callbacks"]
            for number, callback in enumerate(self._callbacks):
                callback.load_state_dict(states[_label(number, callback)])
        # Only the main thread gets signals.
        self._watching = threading.current_thread() is threading.main_thread()
        if self._watching:
            for number, handler in self._before.items():
                # Who started this in the background may have had it ignore Ctrl-C.
                if handler != signal.SIG_IGN:
                    signal.signal(number, self._ask)

    def release(self) -> None:
        """From now on signals mean what they meant before."""
        if self._watching:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._watching = False
            if self._got and not self.asked:
                # After the last vote: this process ends, and the others with it.
                signal.raise_signal(self._got)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._got and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._got = number
        leave_terminal()
        # Not through the display: what is just being printed there must not be printed into.
        # Where nobody can read it, the step must be kept all the same.
        with suppress(OSError):
            os.write(2, b"\nStopping after this step; Ctrl-C once more stops at once.\n")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write if it is time, stop if it was asked for or a rule says so."""
        assert isinstance(pl_module, CausalLM)
        due = self._vote(trainer, pl_module)
        if pl_module.step == pl_module.total_steps:
            return  # The stage itself is stored now; a stop waits until that is done.
        self.ended = self._rule()
        if self.ended is not None:
            # No checkpoint: who goes on from one would make the next step.
            trainer.should_stop = True
            self._close()
            return
        if self.asked or due:
            kept = self._checkpoint(trainer)
            if self.asked:
                raise StageStopped(self.asked, kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last step of a stage that something else has ended.

        Raises:
            StageCut: if no rule finishes it.
        """
        assert isinstance(pl_module, CausalLM)
        if pl_module.step < pl_module.total_steps and self.ended is None:
            raise StageCut(self._checkpoint(trainer))

    def close_early(self, module: CausalLM) -> None:
        """See why a stage made no step, of which nothing else would tell.

        Args:
            module: after the fit.

        Raises:
            StageCut: if no rule finished the stage.
        """
        if module.step < module.total_steps and self.ended is None:
            self.ended = self._rule()
            if self.ended is None:
                raise StageCut(kept=False)

    def _vote(self, trainer: Trainer, module: CausalLM) -> bool:
        """Whether a checkpoint is due, and which signal some process got; alike on all of them."""
        steps, minutes = self._interval.steps, self._interval.minutes
        due = steps is not None and module.step % steps == 0
        due |= minutes is not None and time.monotonic() - self._last >= 60 * minutes
        if self._alone:
            return due
        asked = [self._got == number for number in self._signals]
        wanted = [*asked, trainer.should_stop, due and trainer.is_global_zero]
        votes = torch.tensor(wanted, dtype=torch.float32)
        votes = trainer.strategy.reduce(votes.to(module.device), reduce_op="sum")
        *asked, stop, due = (vote > 0 for vote in votes.tolist())
        # One process that leaves its loop alone would leave the others waiting.
        trainer.should_stop = stop
        number = max((n for n, one in enumerate(asked) if one), default=None)
        self._voted = 0 if number is None else self._signals[number]
        return bool(due)

    def _checkpoint(self, trainer: Trainer) -> bool:
        """Write one; what can't be written is told once and does not stop the stage."""
        if self._works:
            collected = self._collect()
            if trainer.is_global_zero:
                try:
                    self._write(collected)
                except (StorageError, TypeError) as error:
                    self._works = False
                    self._say(f"No checkpoint is kept inside this stage: {error}")
        self._last = time.monotonic()
        self._works = trainer.strategy.broadcast(self._works)
        return self._works


def collect_checkpoint(model: CausalLM) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint takes from the model; every process must ask.

    Args:
        model: in a stage.

    Returns:
        The weights that are trained, and what the optimizer remembers.
    """
    weights = model.weights.state_dict(UNLEARN if model.stage == UNLEARN else LEARN)
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
    """Write how far a stage has come: an entry as of now, and what its next step needs.

    Args:
        folder: an existing folder.
        model: knows the format of its weights.
        collected: from `collect_checkpoint`.
        history: of the stage so far.
        results: of the run so far.
        callbacks: theirs is the state that `Callback.state_dict` gives.

    Raises:
        TypeError: naming a value of a callback's state that is no plain value or tensor.
    """
    weights, optimizer = collected
    write_entry(folder, model, weights, history, results)
    state = {
        "optimizer": optimizer,
        "callbacks": {_label(n, c): c.state_dict() for n, c in enumerate(callbacks)},
    }
    write_state(folder, state)


def read_optimizer(checkpoint: Path) -> dict[str, Any]:
    """What the optimizer remembered, for `restore_optimizer`."""
    state: dict[str, Any] = read_state(checkpoint, torch.device("cpu"))["optimizer"]
    return state


def _label(number: int, callback: Callback) -> str:
    return f"{number} {type(callback).__qualname__}"
