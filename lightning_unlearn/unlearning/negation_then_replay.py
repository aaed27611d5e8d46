"""Negation of the forget stage's update, repaired by a part of the later stages."""

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.path_history import PathHistory, Weights
from lightning_unlearn.unlearning.path_aware import PathAware, check_factor


class NegationThenReplay(PathAware):
    """`StageNegation`, kept as it is, and a new adapter trained on a part of the later stages.

    Each later stage is trained on the first ceil(fraction n) of its n global batches, as in
    `Replay`. If the forget stage is the last one, nothing is trained.

    Args:
        fraction: share of the global batches of each later stage, above 0 and at most 1.
        alpha: share of the update of the forget stage that is subtracted.
        rank: rank of the adapter ``unlearn``; null keeps the exact one, three times that of
            ``learn`` if the two shapes are equal.
    """

    def __init__(self, fraction: float = 0.1, alpha: float = 1.0, rank: int | None = None) -> None:
        super().__init__(rank)
        name = type(self).__name__
        if not 0 < fraction <= 1:
            raise InputError(
                f"{name}.fraction: found {fraction}, expected a share above 0, at most 1."
            )
        check_factor(f"{name}.alpha", alpha)
        self.fraction, self.alpha = fraction, alpha

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the negated model, trained on."""
        update = history.after(history.forget) - history.before(history.forget)
        return history.continued(history.end - self.alpha * update, self.fraction)
