"""RunCallbacks: the callbacks of a run by kind, checked, in the order in which Lightning calls."""

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
        methods: of unlearning; one at most.
        monitors: what evaluates the model.
        others: neither methods nor monitors, and may change what training does.
        progress: the progress display; None for none.
        in_order: all callbacks, in the order in which Lightning calls them.
    """

    methods: list[Unlearning]
    monitors: list[Monitor]
    others: list[Callback]
    progress: StageProgress | None
    in_order: list[Callback]

    @property
    def keyed(self) -> list[Callback]:
        """The callbacks whose identity is in keys: what they were made with, and their code."""
        return [*self.methods, *self.monitors, *self.others]

    def reset(self) -> None:
        """Give callbacks the state in which they were made: a stage depends on its start alone."""
        for callback in self.keyed:
            constructed(callback).restore(callback)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Tell what callbacks do to themselves in a run from what is set on them outside."""
        try:
            yield
        finally:
            for callback in self.keyed:
                constructed(callback).leave(callback)


def sort_callbacks(
    callbacks: Sequence[Callback] | Callback | None, shows_progress: bool
) -> RunCallbacks:
    """Check the callbacks of a run, and add what every run needs.

    Args:
        callbacks: as given to the trainer.
        shows_progress: whether progress is shown.

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
        # First, so that its bar is there when monitors begin to evaluate.
        given.insert(0, progress)
    if rules := [c for c in given if isinstance(c, EarlyStopping)]:
        # Last, so that all monitors have evaluated.
        given.append(StopRules(rules))
    sorted_callbacks = RunCallbacks(methods, monitors, others, progress, given)
    for callback in sorted_callbacks.keyed:
        check_numbers(callback)
    for callback in sorted_callbacks.keyed:
        constructed(callback)
    return sorted_callbacks


def check_kinds(methods: Sequence[Unlearning], monitors: Sequence[Monitor]) -> None:
    """Refuse several methods, and monitors whose measures would have the same names.

    Args:
        methods: of a run.
        monitors: of a run.

    Raises:
        InputError: naming them.
    """
    # Not inherited: measures of a subclass may have other names.
    single = {kind for kind in map(type, monitors) if vars(kind).get("is_single")}
    for kind in single:
        if (count := sum(type(monitor) is kind for monitor in monitors)) > 1:
            raise InputError(
                f"trainer.callbacks: found {count} of {kind.__name__}, expected one: their "
                "measures would have the same names."
            )
    if len(methods) > 1:
        names = " and ".join(type(method).__name__ for method in methods)
        raise InputError(
            f"trainer.callbacks: found {len(methods)} unlearning methods ({names}), "
            "expected one. To compare methods, use lightning-unlearn study."
        )


def check_numbers(callback: Callback) -> None:
    """Refuse NaN among what a callback was made with: it would spoil every weight.

    Other callbacks than methods may keep one for what they have not seen yet.
    """
    own = {n for n in vars(callback) if isinstance(callback, Unlearning) and n[:1] != "_"}
    for name in sorted(own | (set(signature(type(callback)).parameters) & set(vars(callback)))):
        value = vars(callback)[name]
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and math.isnan(number):
                kind = type(callback).__name__
                raise InputError(f"{kind}.{name}: found nan, expected a number.")
