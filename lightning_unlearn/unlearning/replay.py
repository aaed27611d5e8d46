"""Rewinding to the model before the forget stage, and training a part of the later stages."""

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.path_history import HistoryModel, PathHistory
from lightning_unlearn.unlearning.path_aware import PathAware


class Replay(PathAware):
    """Go back to the model before the forget stage and train the first part of each later stage.

    Each later stage is trained on the first ceil(fraction n) of its n global batches, in its own
    order, with its schedule over these steps. Replay(1) is Rewind.

    Args:
        fraction: share of the global batches of each later stage, above 0 and at most 1.
    """

    def __init__(self, fraction: float = 0.1) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise InputError(
                f"Replay.fraction: found {fraction}, expected a share above 0, at most 1."
            )
        self.fraction = fraction

    def unlearned(self, history: PathHistory) -> HistoryModel:
        """Return the model of the path without the forget stage, with shorter later stages."""
        return history.without(history.forget, self.fraction)
