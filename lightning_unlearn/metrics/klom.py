"""KLoM over models that several processes evaluate."""

from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import TwoSampleMetric
from lightning_unlearn.statistics.klom import BINS, CLIP, FLOOR, klom, noise_floor


class KLoM(TwoSampleMetric):
    """`statistics.klom.klom` of margins, with the noise floor for the same number of models.

    ``compute`` returns a dictionary: ``per_point`` divergences, nats, ``[points]``; their ``mean``
    and ``percentile95``; ``unlearned`` and ``oracles``, the numbers of models; and
    ``floor_mean`` and ``floor_percentile95``, the values for unlearned models that equal oracles.

    Args:
        bins: number of bins of a histogram.
        clip: margins are clipped to [-clip, clip].
        floor: smallest share of the oracles in a bin.
    """

    def __init__(
        self, bins: int = BINS, clip: float = CLIP, floor: float = FLOOR, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.bins, self.clip, self.floor = bins, clip, floor

    def update(self, model_number: int, margins: Tensor, is_oracle: bool) -> None:
        """Add a model.

        Args:
            model_number: number among the oracles, or among the unlearned models.
            margins: margins of all points, in one order for all models, ``[points]``.
            is_oracle: whether the model is an oracle.
        """
        index = torch.tensor([model_number], device=margins.device)
        self.keep_side(index, margins[None], not is_oracle)

    def compute(self) -> dict[str, Any]:
        """Return the divergences and the noise floor."""
        unlearned, oracle = (side.cpu().double().numpy() for side in self.samples())
        values = torch.from_numpy(klom(unlearned, oracle, self.bins, self.clip, self.floor))
        chance = noise_floor(
            len(unlearned), len(oracle), bins=self.bins, clip=self.clip, floor=self.floor
        )
        return {
            "per_point": values,
            "mean": values.mean().item(),
            "percentile95": values.quantile(0.95).item(),
            "unlearned": chance.count,
            "oracles": chance.oracles,
            "floor_mean": chance.mean,
            "floor_percentile95": chance.percentile95,
        }
