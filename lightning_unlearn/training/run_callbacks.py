"""Callbacks of a run: checked, sorted by kind, and in the order in which Lightning runs them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar

from lightning_unlearn.errors import InputError
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.storage.callback_identity import changes_training, constructed
from lightning_unlearn.training.lightning_callbacks import StopRules, choose_bar
from lightning_unlearn.training.progress import StageProgress
from lightning_unlearn.unlearning.base import Unlearning


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks of a run.

    Attributes:
        methods: unlearning methods; at most one.
        monitors: monitors of the run.
        others: callbacks that are neither methods nor monitors, and may change the training.
        progress: the progress bar; None for none.
        in_order: all callbacks, in the order in which Lightning runs them.
    """

    methods: list[Unlearning]
    monitors: list[Monitor]
    others: list[Callback]
    progress: StageProgress | None
    in_order: list[Callback]

    @property
    def keyed(self) -> list[Callback]:
        """Return the callbacks whose arguments and code are part of the keys of stages."""
        return [*self.methods, *self.monitors, *self.others]

    def reset(self) -> None:
        """Restore the initial state of the callbacks, so that no stage depends on an earlier one.

        The dependence of a stage on earlier stages is through their stored weights only.
        """
        for callback in self.keyed:
            constructed(callback).restore(callback)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Separate the callbacks' own changes during a run from changes made by the user."""
        try:
            yield
        finally:
            for callback in self.keyed:
                constructed(callback).record_end_of_run(callback)


def sort_callbacks(
    callbacks: Sequence[Callback] | Callback | None, shows_progress: bool
) -> RunCallbacks:
    """Check and sort the callbacks of a run, and add the callbacks that every run needs.

    Args:
        callbacks: the callbacks given by the user.
        shows_progress: whether to show progress.

    Returns:
        The callbacks by kind and in order.

    Raises:
        InputError: for several methods, several progress bars, or values that are NaN.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
    given = choose_bar(given, shows_progress, StageProgress)
    methods = [c for c in given if isinstance(c, Unlearning)]
    monitors = [c for c in given if isinstance(c, Monitor)]
    own = (Unlearning, Monitor, ProgressBar)
    others = [c for c in given if not isinstance(c, own) and changes_training(c)]
    check_kinds(methods, monitors)
    progress = next((c for c in given if isinstance(c, StageProgress)), None)
    if shows_progress and not any(isinstance(c, ProgressBar) for c in given):
        progress = StageProgress()
        # Insert it first, so that the bar exists when monitors start to evaluate.
        given.insert(0, progress)
    if rules := [c for c in given if isinstance(c, EarlyStopping)]:
        # Append it last, so that all monitors have evaluated the step.
        given.append(StopRules(rules))
    sorted_callbacks = RunCallbacks(methods, monitors, others, progress, given)
    for callback in sorted_callbacks.keyed:
        check_numbers(callback)
    for callback in sorted_callbacks.keyed:
        constructed(callback)
    return sorted_callbacks


def check_kinds(methods: Sequence[Unlearning], monitors: Sequence[Monitor]) -> None:
    """Refuse several methods, and monitors whose metrics would have the same names.

    Args:
        methods: unlearning methods of a run.
        monitors: monitors of a run.

    Raises:
        InputError: if there are several methods, or several monitors of a class that allows one.
    """
    # Do not inherit `is_single`: the metrics of a subclass may have other names.
    single = {kind for kind in map(type, monitors) if vars(kind).get("is_single")}
    for kind in single:
        if (count := sum(type(monitor) is kind for monitor in monitors)) > 1:
            raise InputError(
                f"trainer.callbacks: found {count} {kind.__name__} monitors, expected one: their "
                "metrics would have the same names."
            )
    if len(methods) > 1:
        names = " and ".join(type(method).__name__ for method in methods)
        raise InputError(
            f"trainer.callbacks: found {len(methods)} unlearning methods ({names}), "
            "expected one. To compare methods, use lightning-unlearn study."
        )


def check_numbers(callback: Callback) -> None:
    """Refuse NaN in the arguments of a callback, because NaN would make every weight NaN.

    For a method, its public attributes are checked too. Other callbacks may use NaN for values
    that are not known yet.

    Args:
        callback: a callback of the trainer.

    Raises:
        InputError: naming the class and the attribute.
    """
    own = {n for n in vars(callback) if isinstance(callback, Unlearning) and n[:1] != "_"}
    for name in sorted(own | (set(signature(type(callback)).parameters) & set(vars(callback)))):
        value = vars(callback)[name]
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and math.isnan(number):
                kind = type(callback).__name__
                raise InputError(f"{kind}.{name}: found nan, expected a number.")
