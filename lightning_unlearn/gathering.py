"""Values of examples that several processes computed, put together again by example number."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ByExample(Metric):
    """A table with one row of values per example, each example counted once.

    ``update`` takes the rows this process computed; ``compute`` returns all rows in the order of
    the examples, whichever process computed them.

    Args:
        count: number of examples.
    """

    full_state_update = False
    index: list[Tensor]
    values: list[Tensor]

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, values: Tensor) -> None:
        """Add rows.

        Args:
            index: example numbers, ``[rows]``.
            values: ``[rows, ...]``.
        """
        self.index.append(index)
        self.values.append(values)

    def compute(self) -> Tensor:
        """All rows, ``[examples, ...]``; an example that is missing or double is a defect."""
        index = torch.cat(list(self.index)) if isinstance(self.index, list) else self.index
        values = torch.cat(list(self.values)) if isinstance(self.values, list) else self.values
        order = torch.argsort(index)
        expected = torch.arange(self.count, device=index.device)
        assert torch.equal(index[order], expected), "every example is measured exactly once"
        return values[order]
