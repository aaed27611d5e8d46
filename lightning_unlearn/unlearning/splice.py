"""The oracle's first steps, continued by what the path did after the same step."""

from lightning_unlearn.errors import InputError
from lightning_unlearn.storage.path_history import HistoryModel, PathHistory, Weights
from lightning_unlearn.unlearning.path_aware import PathAware


class Splice(PathAware):
    """Train the oracle for some steps, then add what the path did after the same step.

    The result is oracle(t) + end - path(t), where oracle(t) is the model before the forget stage
    after t steps of the oracle's own training of the later stages, and path(t) the model after the
    forget stage after t steps of the same stages. 0 steps are `StageNegation` with alpha 1; all
    steps are the oracle. It costs t steps, and t more if the store has no snapshot of path(t)
    (``trainer.snapshot_steps``).

    Args:
        steps: optimizer steps of the oracle's training, counted over all later stages. If the
            forget stage is the last one there are none, and the result is the oracle.
        rank: rank of the adapter ``unlearn``; null keeps the exact one, up to three times that of
            ``learn``.
    """

    def __init__(self, steps: int = 0, rank: int | None = None) -> None:
        super().__init__(rank)
        if steps < 0:
            raise InputError(f"Splice.steps: found {steps}, expected 0 or more.")
        self.steps = steps

    def unlearned(self, history: PathHistory) -> Weights:
        """Return the spliced model."""
        start = history.path[: history.path.index(history.forget)]
        oracle = self._advanced(history, start)
        own = self._advanced(history, (*start, history.forget))
        return oracle + history.end - own

    def _advanced(self, history: PathHistory, start: tuple[str, ...]) -> HistoryModel:
        """Return the model after ``start`` and the first steps of the later stages."""
        left, stages = self.steps, list(start)
        for name in history.later:
            count = history.steps(name)
            stages.append(name)
            if left <= count:
                return history.trained(*stages, upto=left)
            left -= count
        if history.later and left:
            raise InputError(
                f"steps: found {self.steps}, expected at most {self.steps - left}, the optimizer "
                f"steps of the stages after {history.forget!r} on the path "
                f"{'-'.join(history.path)}."
            )
        return history.trained(*stages)
