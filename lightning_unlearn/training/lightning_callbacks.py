"""Lightning's callbacks: which ones work with training in stages, and what replaces the others."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar

from lightning_unlearn.errors import InputError

_BATCH = "set data.stages.STAGE.batch_size and data.micro_batch_size to accumulate gradients"
_KEPT = (
    "the store keeps every stage; set trainer.checkpoint_steps or trainer.checkpoint_minutes for "
    "checkpoints inside a stage"
)
_AVERAGE = "a stage stores the weights of its last step; average weights in your own method"
_TRAINED = "set model.lora.target_modules to choose the trained layers"
# Subclasses of these callbacks are refused too, because they change training in the same way.
INSTEAD = {
    "GradientAccumulationScheduler": _BATCH,
    "BatchSizeFinder": "lightning-unlearn plan prints the largest data.micro_batch_size that fits",
    "LearningRateFinder": "set data.stages.STAGE.lr, or sweep it in a study",
    "ModelPruning": _TRAINED,
    "BaseFinetuning": _TRAINED,
    "ModelCheckpoint": _KEPT,
    "Checkpoint": _KEPT,
    "OnExceptionCheckpoint": _KEPT,
    "StochasticWeightAveraging": _AVERAGE,
    "WeightAveraging": _AVERAGE,
    "BasePredictionWriter": "monitors and lightning-unlearn report write all results",
}
# Callbacks that need a logger.
LOGGED = ("LearningRateMonitor", "DeviceStatsMonitor")


def check_callbacks(callbacks: Sequence[Callback], logs: bool, on_cpu: bool) -> None:
    """Refuse Lightning's callbacks that do not work with training in stages.

    Args:
        callbacks: the trainer's callbacks.
        logs: whether the trainer has a logger.
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
                    f"trainer.callbacks: found {name}, which is not supported: {instead}."
                )
        for kind in LOGGED:
            if isinstance(callback, getattr(lightning, kind)) and not logs:
                raise InputError(
                    f"trainer.callbacks: found {name}, which writes to a logger, but "
                    "trainer.logger is false. Set trainer.logger to true, or remove the callback."
                )
        if (
            isinstance(callback, lightning.DeviceStatsMonitor)
            and (on_cpu or callback._cpu_stats)
            and importlib.util.find_spec("psutil") is None
        ):
            raise InputError(
                f"trainer.callbacks: found {name}, which needs the package psutil to read the "
                "CPU's statistics. Install it with: pip install psutil"
            )


def choose_bar(
    callbacks: Sequence[Callback], shown: bool, own: type[ProgressBar]
) -> list[Callback]:
    """Keep at most one progress bar, because Lightning accepts only one.

    Args:
        callbacks: the callbacks given by the user.
        shown: whether to show progress.
        own: class of the progress bar that a study adds to every trainer; it replaces other bars.

    Returns:
        The callbacks without the other progress bars.

    Raises:
        InputError: if the user gave several progress bars.
    """
    bars = [c for c in callbacks if isinstance(c, ProgressBar)]
    if len(bars) > 1 and not any(isinstance(bar, own) for bar in bars):
        names = " and ".join(type(bar).__name__ for bar in bars)
        raise InputError(
            f"trainer.callbacks: found {len(bars)} progress bars ({names}), expected at most one."
        )
    first = next((bar for bar in bars if isinstance(bar, own)), bars[0] if bars else None)
    return [c for c in callbacks if c not in bars or (shown and c is first)]


class StopRules(Callback):
    """Callback that runs every `EarlyStopping` after each evaluation during unlearning.

    Lightning runs `EarlyStopping` at the end of an epoch or of a validation. Here an epoch ends
    with the stage, and training has no validation.

    Args:
        rules: the `EarlyStopping` callbacks; each watches the mean of one of the monitors' metrics.
    """

    def __init__(self, rules: Sequence[EarlyStopping]) -> None:
        self.rules = list(rules)
        for rule in self.rules:
            rule._check_on_train_epoch_end = False
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse metrics that no monitor measures, and run the rules for the first time.

        Raises:
            InputError: if an `EarlyStopping` watches a metric that no monitor measures.
        """
        self._seen = 0
        if getattr(pl_module, "stage", "") != "unlearn" or getattr(pl_module, "step", 0):
            # The rules have already run on the results of a checkpoint.
            self._new_means(trainer)
            return
        measured = self._new_means(trainer)
        for rule in self.rules:
            if rule.monitor not in measured and rule.strict and not _has_own_hooks(rule):
                known = ", ".join(sorted(measured)) or "none: there is no monitor"
                raise InputError(
                    f"EarlyStopping.monitor: found {rule.monitor!r}, expected a metric of a "
                    f"monitor ({known})."
                )
        self._run_rules(trainer, measured)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Run the rules, if the monitors evaluated this step."""
        self._run_rules(trainer, self._new_means(trainer))

    def _new_means(self, trainer: Trainer) -> dict[str, float]:
        """Return the means of the metrics that were measured since the last call."""
        results = getattr(trainer, "results", None)
        steps = results.steps if results is not None else []
        new = {metric: value for _, metric, value in steps[self._seen :]}
        self._seen = len(steps)
        return new

    def _run_rules(self, trainer: Trainer, measured: dict[str, float]) -> None:
        for rule in self.rules:
            if rule.monitor in measured:
                rule._run_early_stopping_check(trainer)


def _has_own_hooks(rule: EarlyStopping) -> bool:
    """Return whether a subclass overrides a hook, and so decides itself when it runs."""
    hooks = [name for name in vars(Callback) if name.startswith("on_")]
    return any(getattr(type(rule), name) is not getattr(EarlyStopping, name) for name in hooks)
