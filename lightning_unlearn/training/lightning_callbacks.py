"""Callbacks of Lightning: those that fit a walk over stages, and what to use instead of others."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar

from lightning_unlearn.errors import InputError

_BATCH = "data.stages.STAGE.batch_size and data.micro_batch_size say how gradients are accumulated"
_KEPT = (
    "the store keeps every stage, and trainer.checkpoint_steps and trainer.checkpoint_minutes "
    "write checkpoints inside one"
)
_AVERAGE = "weights of a stage are those of its last step; average them in a method of your own"
_TRAINED = "model.lora.target_modules names the layers that are trained"
# Subclasses too: what they do to training is not reckoned with.
INSTEAD = {
    "GradientAccumulationScheduler": _BATCH,
    "BatchSizeFinder": "lightning-unlearn plan tells the largest data.micro_batch_size that fits",
    "LearningRateFinder": "set data.stages.STAGE.lr, or sweep it in a study",
    "ModelPruning": _TRAINED,
    "BaseFinetuning": _TRAINED,
    "ModelCheckpoint": _KEPT,
    "Checkpoint": _KEPT,
    "OnExceptionCheckpoint": _KEPT,
    "StochasticWeightAveraging": _AVERAGE,
    "WeightAveraging": _AVERAGE,
    "BasePredictionWriter": "monitors and report write what is measured",
}
# These write to a logger.
LOGGED = ("LearningRateMonitor", "DeviceStatsMonitor")


def check_callbacks(callbacks: Sequence[Callback], logs: bool, on_cpu: bool) -> None:
    """Refuse callbacks of Lightning that do not fit.

    Args:
        callbacks: of the trainer.
        logs: whether there is a logger.
        on_cpu: whether the accelerator is the CPU.

    Raises:
        InputError: naming the callback, and what to use instead.
    """
    for callback in callbacks:
        name = type(callback).__name__
        for kind, instead in INSTEAD.items():
            known = getattr(lightning, kind, None)
            if known is not None and isinstance(callback, known):
                raise InputError(
                    f"trainer.callbacks: found {name}, which can't be used: {instead}."
                )
        for kind in LOGGED:
            if isinstance(callback, getattr(lightning, kind)) and not logs:
                raise InputError(
                    f"trainer.callbacks: found {name}, which writes to a logger, but "
                    "trainer.logger is false; set it to true, or leave the callback out."
                )
        if (
            isinstance(callback, lightning.DeviceStatsMonitor)
            and (on_cpu or callback._cpu_stats)
            and importlib.util.find_spec("psutil") is None
        ):
            raise InputError(
                f"trainer.callbacks: {name} needs the package psutil on a CPU (pip install psutil)."
            )


def choose_bar(
    callbacks: Sequence[Callback], shown: bool, own: type[ProgressBar]
) -> list[Callback]:
    """The callbacks with one progress bar at most, for Lightning takes no more.

    Args:
        callbacks: as they were given.
        shown: whether progress is shown at all.
        own: kind of the bar that a study gives to every trainer; it goes before others.
    """
    bars = [c for c in callbacks if isinstance(c, ProgressBar)]
    if len(bars) > 1 and not any(isinstance(bar, own) for bar in bars):
        names = " and ".join(type(bar).__name__ for bar in bars)
        raise InputError(f"trainer.callbacks: found {len(bars)} progress bars ({names}); keep one.")
    first = next((bar for bar in bars if isinstance(bar, own)), bars[0] if bars else None)
    return [c for c in callbacks if c not in bars or (shown and c is first)]


class StopRules(Callback):
    """Asks every `EarlyStopping` after each look of the monitors at unlearning.

    Lightning would ask at the end of an epoch, which here is the end of the stage, or after a
    validation, which there is none of.

    Args:
        rules: the callbacks; they watch means of what monitors measure, by its name.
    """

    def __init__(self, rules: Sequence[EarlyStopping]) -> None:
        self.rules = list(rules)
        for rule in self.rules:
            rule._check_on_train_epoch_end = False
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what no monitor measures, and ask for the first time."""
        self._seen = 0
        if getattr(pl_module, "stage", "") != "unlearn" or getattr(pl_module, "step", 0):
            # What a checkpoint holds was asked about.
            self._new(trainer)
            return
        measured = self._new(trainer)
        for rule in self.rules:
            if rule.monitor not in measured and rule.strict and not _asks_itself(rule):
                known = ", ".join(sorted(measured)) or "none: there is no monitor"
                raise InputError(
                    f"EarlyStopping.monitor: found {rule.monitor!r}, expected what a monitor "
                    f"measures ({known})."
                )
        self._ask(trainer, measured)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask, if there was a look."""
        self._ask(trainer, self._new(trainer))

    def _new(self, trainer: Trainer) -> dict[str, float]:
        """What was measured since the last time."""
        results = getattr(trainer, "results", None)
        steps = results.steps if results is not None else []
        new = {measure: value for _, measure, value in steps[self._seen :]}
        self._seen = len(steps)
        return new

    def _ask(self, trainer: Trainer, measured: dict[str, float]) -> None:
        for rule in self.rules:
            if rule.monitor in measured:
                rule._run_early_stopping_check(trainer)


def _asks_itself(rule: EarlyStopping) -> bool:
    """Whether a class of the user's own decides when it is asked, and so what it watches."""
    hooks = [name for name in vars(Callback) if name.startswith("on_")]
    return any(getattr(type(rule), name) is not getattr(EarlyStopping, name) for name in hooks)
