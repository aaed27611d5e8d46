"""Hidden states of an oracle at the label positions, and its output projection, for the KL."""

import copy
import mmap
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data.batches import Batch
from lightning_unlearn.distributed.tensors import full_tensor
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.log_probs import LogitTransform
from lightning_unlearn.model.network import LogProbModel


class OracleStates:
    """Hidden states of an oracle at the label positions of this process's share of a row set.

    Args:
        folder: folder for a file that holds them, mapped into memory; None keeps them in CPU
            memory. The file has no name, so it vanishes with the process, however that ends.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._rows: dict[int, Tensor] = {}
        self._drafts: list[tuple[list[int], list[int], torch.dtype, int]] = []
        self._file: Any = None if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.size = 0

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """Add the states of a batch.

        Args:
            batch: the batch.
            hidden: ``[label tokens, width]``, row after row of the batch.
        """
        hidden = hidden.detach().to("cpu").contiguous()
        counts = batch.mask.sum(-1).tolist()
        numbers = batch.index.tolist()
        self.size += hidden.numel() * hidden.element_size()
        if self._file is None:
            self._rows |= dict(zip(numbers, torch.split(hidden, counts), strict=True))
            return
        self._file.write(hidden.view(torch.uint8).numpy().data)
        self._drafts.append((numbers, counts, hidden.dtype, hidden.shape[-1]))

    def close(self) -> "OracleStates":
        """Map the file into memory; return these states. Nothing can be added afterwards."""
        if self._file is None:
            return self
        with self._file:
            self._file.flush()
            self._map()
        return self

    def _map(self) -> None:
        if not self.size:
            return
        # A private mapping: PyTorch warns about memory that it may not write to.
        mapped = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_COPY)
        start = 0
        for numbers, counts, dtype, width in self._drafts:
            values = sum(counts) * width
            flat = torch.frombuffer(mapped, dtype=dtype, count=values, offset=start)
            start += values * dtype.itemsize
            parts = torch.split(flat.view(-1, width), counts)
            self._rows |= dict(zip(numbers, parts, strict=True))
        self._drafts.clear()

    def of(self, batch: Batch) -> Tensor:
        """Return the states of a batch, ``[label tokens, width]``, in CPU memory."""
        return torch.cat([self._rows[number] for number in batch.index.tolist()])


class OracleHead(nn.Module):
    """A copy of an oracle's output projection, which gives its logits without the oracle.

    Args:
        network: the oracle. All processes that share it call this.
        device: device of the copy.

    Raises:
        InputError: if adapters change the output projection of an oracle that is sharded.
    """

    def __init__(self, network: LogProbModel, device: torch.device) -> None:
        super().__init__()
        own = network.takes_own_logits
        head = nn.Identity() if own else network.hf_model.get_output_embeddings()
        self.transform = LogitTransform() if own else network.transform
        self.dtype: torch.dtype = network.hf_model.dtype
        self.head = _copied(head).to(device).eval().requires_grad_(False)

    @property
    def size(self) -> int:
        """Bytes of the copy."""
        return sum(p.numel() * p.element_size() for p in self.head.parameters())

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the oracle's logits, ``[tokens, vocabulary]``, for ``[tokens, width]``."""
        logits: Tensor = self.transform(self.head(hidden.to(self.dtype)))
        return logits


def _copied(head: nn.Module) -> nn.Module:
    """Copy an output projection; gather it first if it is sharded."""
    from torch.distributed.tensor import DTensor

    parameters = dict(head.named_parameters())
    if not any(isinstance(p, DTensor) for p in parameters.values()):
        return copy.deepcopy(head)
    if not isinstance(head, nn.Linear) or set(parameters) - {"weight", "bias"}:
        raise InputError(
            "oracle.base: adapters change the output projection of this model, which is sharded, "
            "expected an output projection without adapters. Merge the adapter into its model, "
            "or set OracleDistance.kl to false."
        )
    weights = {name: full_tensor(p.detach()).clone() for name, p in parameters.items()}
    rows, width = weights["weight"].shape
    with torch.device("meta"):
        plain = nn.Linear(width, rows, bias="bias" in weights)
    plain.load_state_dict(weights, assign=True)
    return plain
