"""Rewinding to the model before the forget stage, and training all later stages again."""

from lightning_unlearn.storage.path_history import HistoryModel, PathHistory
from lightning_unlearn.unlearning.path_aware import PathAware


class Rewind(PathAware):
    """Go back to the model before the forget stage and train all later stages: the oracle itself.

    The result is equal to the oracle bit for bit, and shares its entries in the stage store. It
    costs all later stages; at the last position, nothing.
    """

    def __init__(self) -> None:
        super().__init__()

    def unlearned(self, history: PathHistory) -> HistoryModel:
        """Return the model of the path without the forget stage."""
        return history.without(history.forget)
