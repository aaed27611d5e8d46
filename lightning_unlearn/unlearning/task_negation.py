"""Task arithmetic, which does not use the history of the path."""

from lightning_unlearn.storage.path_history import PathHistory, Weights
from lightning_unlearn.unlearning.path_aware import PathAware, check_factor


class TaskNegation(PathAware):
    """Train the final model on the forget stage once more, and subtract that update.

    Negation of a task vector (Ilharco et al. 2022, arXiv 2212.04089). It is blind to the path: a
    contrast to `StageNegation`. It costs the forget stage, trained with its own recipe.

    Args:
        alpha: share of the update that is subtracted.
        rank: rank of the adapter ``unlearn``; null keeps the exact one, twice that of ``learn``.
    """

    def __init__(self, alpha: float = 1.0, rank: int | None = None) -> None:
        super().__init__(rank)
        check_factor("TaskNegation.alpha", alpha)
        self.alpha = alpha

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the final model without alpha times the update of a further forget stage."""
        again = history.trained(*history.path, history.forget)
        return history.end - self.alpha * (again - history.end)
