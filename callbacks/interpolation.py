"""A method of one's own that uses the history of the path: one file, one class.

    lightning-unlearn fit --config configs/demo.yaml \\
        --trainer.callbacks+=callbacks.interpolation.Interpolation --trainer.callbacks.share 0.5
"""

from lightning_unlearn import InputError, PathAware, PathHistory
from lightning_unlearn.storage.path_history import Weights


class Interpolation(PathAware):
    """Interpolate between the model after the path and the model before the forget stage.

    Args:
        share: 0 gives the model after the path, 1 the model before the forget stage.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise InputError(f"Interpolation.share: found {share}, expected 0 to 1.")
        self.share = share

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the sum of the two models."""
        return (1 - self.share) * history.end + self.share * history.before(history.forget)
