"""Filters for messages of other libraries that are not useful to the user."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def is_deprecation(message: Warning | str, category: type[Warning]) -> bool:
    """Return whether a warning reports a deprecation; PyTorch uses plain warnings for some."""
    return issubclass(category, DEPRECATIONS) or "deprecated" in str(message)


@contextmanager
def quiet_deprecations() -> Iterator[None]:
    """Hide deprecation warnings, also if a library installs a filter that shows them.

    A user cannot change that one library uses deprecated names of another library. Filters that
    turn warnings into errors stay in force. With ``python -W`` or PYTHONWARNINGS every warning is
    printed.
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
    """Hide Lightning's advice about a fit, which it would repeat at every stage."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    with warnings.catch_warnings():
        # The rows are in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 uses a name that torch 2.13 deprecated.
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.. is deprecated.*")
        # A user who sets accelerator: cpu on a machine with a GPU does so on purpose.
        warnings.filterwarnings("ignore", "GPU available but not used")
        # Monitors evaluate during the fit, at their own steps; there is no validation loader.
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no.*")
        # Routers stay in eval mode, because in training mode they would choose experts at random.
        warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
        # Lightning creates DDP on a separate stream: this costs a wait and changes no number.
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
        # Matrix products use full fp32 on purpose.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* not enabled")
        try:
            yield
        finally:
            logger.setLevel(level)
