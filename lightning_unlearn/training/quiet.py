"""Other libraries' notes that would fill the screen without telling the user anything."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def is_deprecation(message: Warning | str, category: type[Warning]) -> bool:
    """Whether a warning is about older names, of which PyTorch tells in plain warnings too."""
    return issubclass(category, DEPRECATIONS) or "deprecated" in str(message)


@contextmanager
def quiet_deprecations() -> Iterator[None]:
    """Print no deprecations of libraries, whatever filters those libraries install.

    A user can do nothing about a library's use of another library's older names.
    Filters that turn warnings into errors still do. With ``python -W`` or PYTHONWARNINGS, which
    ask for warnings, everything is printed.
    """
    if sys.warnoptions:
        yield
        return
    show = warnings.showwarning

    def show_others(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if not is_deprecation(message, category):
            show(message, category, *rest)

    warnings.showwarning = show_others  # type: ignore[assignment]
    try:
        yield
    finally:
        if warnings.showwarning is show_others:
            warnings.showwarning = show


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice about single fits, repeated at every stage, off the screen."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    with warnings.catch_warnings():
        # Rows are in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 asks torch 2.13 by an older name.
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.. is deprecated.*")
        # Who writes accelerator: cpu on a machine with a GPU means it.
        warnings.filterwarnings("ignore", "GPU available but not used")
        # Measuring during fit is what the monitors do, at their own steps.
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no.*")
        # Routers that would draw experts at random in training mode.
        warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
        # Lightning makes DDP on a stream of its own, which costs a wait and changes no number.
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
        # Products in fp32 are meant to be.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* not enabled")
        try:
            yield
        finally:
            logger.setLevel(level)
