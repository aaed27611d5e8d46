"""A signal in the middle of a stage."""

import signal
from typing import Any

from lightning.pytorch import Callback


class Interrupts(Callback):
    """Has a signal sent to its process after a step of a stage, once."""

    def __init__(self, stage: str, step: int, number: int = signal.SIGINT) -> None:
        self._at = (stage, step)
        self._number = number
        self._sent = False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if (pl_module.stage, pl_module.step) == self._at and not self._sent:
            self._sent = True
            signal.raise_signal(self._number)
