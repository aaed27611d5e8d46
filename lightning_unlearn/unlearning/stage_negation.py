"""Negation of the forget stage's own update."""

from lightning_unlearn.storage.path_history import PathHistory, Weights
from lightning_unlearn.unlearning.path_aware import PathAware, check_factor


class StageNegation(PathAware):
    """Subtract what the forget stage added: end - alpha (after - before the forget stage).

    It makes no optimizer step. At the last position of the forget stage, alpha 1 gives the oracle.
    The vector is that of the path itself; task arithmetic (Ilharco et al. 2022, arXiv 2212.04089)
    is blind to the path.

    Args:
        alpha: share of the update that is subtracted.
        rank: rank of the adapter ``unlearn``; null keeps the exact one, twice that of ``learn``.
    """

    def __init__(self, alpha: float = 1.0, rank: int | None = None) -> None:
        super().__init__(rank)
        check_factor("StageNegation.alpha", alpha)
        self.alpha = alpha

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the model after the path, without alpha times the update of the forget stage."""
        update = history.after(history.forget) - history.before(history.forget)
        return history.end - self.alpha * update
