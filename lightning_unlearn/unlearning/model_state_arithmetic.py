"""Model state arithmetic: vectors from a checkpoint before the forget stage."""

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.path_history import PathHistory, Weights
from lightning_unlearn.unlearning.path_aware import PathAware, check_factor


class ModelStateArithmetic(PathAware):
    """end - alpha (F - start) + beta (R - start), with start the model before the forget stage.

    F is that model after the forget stage, and R that model after a stage of retain rows (model
    state arithmetic, arXiv 2506.20941, which uses alpha from 1 to 2, and beta 1). It costs the
    stage of retain rows, unless that stage follows the path's own models.

    Args:
        alpha: share of the update of the forget stage that is subtracted.
        beta: share of the update of the retain stage that is added; 0 for none.
        retain: name of the stage of the path with the retain rows; null for the first one that is
            not the forget stage.
        rank: rank of the adapter ``unlearn``; null keeps the exact one.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        retain: str | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(rank)
        for name, value in (("alpha", alpha), ("beta", beta)):
            check_factor(f"ModelStateArithmetic.{name}", value)
        self.alpha, self.beta, self.retain = alpha, beta, retain

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the final model without the forget vector, and with the retain vector."""
        start = history.before(history.forget)
        result = history.end - self.alpha * (history.after(history.forget) - start)
        others = [stage for stage in history.path if stage != history.forget]
        if not self.beta:
            return result
        if self.retain == history.forget or not others:
            raise InputError(
                f"retain: found {self.retain or 'null'} on the path {'-'.join(history.path)}, "
                "expected another stage than the forget stage; or set beta to 0."
            )
        before = history.path[: history.path.index(history.forget)]
        retained = history.trained(*before, others[0] if self.retain is None else self.retain)
        return result + self.beta * (retained - start)
