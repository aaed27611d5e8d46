"""Other libraries' notes that would fill the screen without telling the user anything."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_transformers() -> None:
    """Keep loading bars and notes of transformers and its kin out of the progress display."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # On some CPUs it asks for a package that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


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
        # Measuring during fit is what the monitors do, at their own steps.
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no.*")
        try:
            yield
        finally:
            logger.setLevel(level)
