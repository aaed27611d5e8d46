"""PairedPlan: the batch plan of unlearning with retain rows or alternates beside forget rows."""

from collections.abc import Sequence
from typing import Any

from lightning_unlearn.data.alternates import Alternates
from lightning_unlearn.data.batches import Batch, BatchPlan, GlobalBatch
from lightning_unlearn.data.examples import Example
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.data.retain import RetainBatches


class PairedPlan(BatchPlan):
    """A batch plan whose micro-batches have retain rows or alternates, row by row.

    Args:
        examples: forget rows.
        recipe: as of `BatchPlan`.
        seed: as of `BatchPlan`.
        stage: as of `BatchPlan`.
        pad_id: as of `BatchPlan`.
        retain: retain rows; None for none.
        alternates: alternates to the forget answers; None for none.
        options: further arguments of `BatchPlan`.

    Raises:
        InputError: as of `BatchPlan`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        recipe: Recipe,
        seed: int,
        stage: str,
        pad_id: int,
        retain: Sequence[Example] | None = None,
        alternates: Alternates | None = None,
        **options: Any,
    ) -> None:
        super().__init__(examples, recipe, seed, stage, pad_id, **options)
        sizes = [len(rows) for rows in self.steps]
        self.retain = None if retain is None else RetainBatches(retain, seed, sizes)
        self.alternates = alternates
        self._seed = seed
        self._per_epoch = -(-len(examples) // recipe.batch_size)
        self._pairs: dict[int, int] = {}

    def partners(self, step: int) -> dict[int, int]:
        """Return the retain row of each forget row of a step.

        Args:
            step: number of the step, from 0.

        Returns:
            Numbers of retain rows, by number of the forget row.
        """
        assert self.retain is not None
        return dict(zip(self.ordered(step), self.retain.rows(step), strict=True))

    def __getitem__(self, step: int) -> GlobalBatch:
        if self.retain is not None:
            self._pairs = self.partners(step)
        batch = super().__getitem__(step)
        if self.retain is not None:
            batch.retain = self.retain.counts(step)
        return batch

    def collated(self, step: int, rows: Sequence[int], filler: bool) -> Batch:
        """Return a micro-batch with its retain rows and alternates; see `BatchPlan.collated`."""
        batch = super().collated(step, rows, filler)
        if self.retain is not None:
            partners = [self._pairs[row] for row in rows]
            batch.retain = self.retain.batch(partners, self.pad_id, filler)
        if self.alternates is not None:
            epoch = step // self._per_epoch
            batch.alternates = self.alternates.batch(self._seed, epoch, rows, self.pad_id, filler)
        return batch
