"""The batch plan: the rows of each optimizer step, a function of (seed, stage, epoch) alone.

Micro-batch size and number of processes change only speed and rounding: every loss is divided by
the counts of the whole global batch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn.data.examples import Example
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.errors import InputError

# Largest micro-batch in sequences, if the user gives no micro-batch size.
DEFAULT_MICRO_BATCH = 8


def derive_seed(*parts: object) -> int:
    """Compute a seed of 63 bits from its parts alone, such as (seed, stage, epoch)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass
class Batch:
    """Sequences of one forward.

    Attributes:
        input_ids: padded on the right, ``[sequences, length]``.
        label_positions: positions in the flattened ``input_ids`` that predict a label, ``[label
            tokens]``.
        label_ids: the label tokens predicted there, ``[label tokens]``.
        mask: True where a ``[sequences, longest answer]`` table has a label token.
        index: row number of each sequence in its data set, ``[sequences]``.
        weight: 1, or 0 for a filler sequence that only lets a process take part, ``[sequences]``.
        retain: retain rows, one for each sequence, if the method uses them.
        alternates: answers to prefer, to the same prompts, one for each sequence, if the method
            uses them.
    """

    input_ids: Tensor
    label_positions: Tensor
    label_ids: Tensor
    mask: Tensor
    index: Tensor
    weight: Tensor
    retain: "Batch | None" = None
    alternates: "Batch | None" = None


@dataclass
class Counts:
    """Counts of the rows of one kind in a whole global batch.

    Attributes:
        tokens: label tokens.
        sequences: sequences.
    """

    tokens: int
    sequences: int


@dataclass
class GlobalBatch:
    """One process's share of one optimizer step.

    Attributes:
        micro_batches: micro-batches; every process has the same number.
        tokens: label tokens of the whole global batch.
        sequences: sequences of the whole global batch.
        retain: counts of its retain rows, if the method uses them.
    """

    micro_batches: list[Batch]
    tokens: int
    sequences: int
    retain: Counts | None = None


def joined(first: Batch, second: Batch) -> Batch:
    """Put the sequences of two batches into one, so that one forward computes both.

    Args:
        first: its sequences come first.
        second: of the same kind, on the same device.

    Returns:
        The batch, without retain rows and alternates.
    """
    width = max(batch.input_ids.shape[1] for batch in (first, second))
    longest = max(batch.mask.shape[1] for batch in (first, second))
    begin, positions = 0, []
    for batch in (first, second):
        count, own = batch.input_ids.shape
        rows, places = batch.label_positions // own, batch.label_positions % own
        positions.append((rows + begin) * width + places)
        begin += count

    def both(one: Tensor, other: Tensor, size: int | None = None) -> Tensor:
        parts = (one, other)
        if size is not None:
            parts = F.pad(one, (0, size - one.shape[1])), F.pad(other, (0, size - other.shape[1]))
        return torch.cat(parts)

    return Batch(
        input_ids=both(first.input_ids, second.input_ids, width),
        label_positions=torch.cat(positions),
        label_ids=both(first.label_ids, second.label_ids),
        mask=both(first.mask, second.mask, longest),
        index=both(first.index, second.index),
        weight=both(first.weight, second.weight),
    )


def collate(
    examples: Sequence[Example], indices: Sequence[int], pad_id: int, filler: bool = False
) -> Batch:
    """Pad examples to a batch.

    Args:
        examples: the data set.
        indices: numbers of the rows to take.
        pad_id: id that fills the right end. Its value has no effect: no label attends to it.
        filler: give the sequences weight 0.

    Returns:
        The batch, on the CPU.
    """
    rows = [examples[i] for i in indices]
    width = max(len(row) for row in rows)
    longest = max(len(row.answer) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    label_positions: list[int] = []
    label_ids: list[int] = []
    for r, row in enumerate(rows):
        input_ids[r, : len(row)] = torch.tensor(row.prompt + row.answer)
        mask[r, : len(row.answer)] = True
        first = r * width + len(row.prompt) - 1
        label_positions.extend(range(first, first + len(row.answer)))
        label_ids.extend(row.answer)
    return Batch(
        input_ids=input_ids,
        label_positions=torch.tensor(label_positions),
        label_ids=torch.tensor(label_ids),
        mask=mask,
        index=torch.tensor(list(indices)),
        weight=torch.full((len(rows),), 0.0 if filler else 1.0),
    )


class BatchPlan(Dataset[GlobalBatch]):
    """All optimizer steps of a stage; item i is the share of one process in step i.

    Args:
        examples: rows of the stage.
        recipe: epochs or steps, and the global batch size.
        seed: seed of the run.
        stage: name of the stage. The order of its rows does not depend on its position in the path.
        pad_id: padding token.
        micro_batch_size: sequences of one forward; None takes the largest divisor, up to 8, of the
            share of a process.
        rank: number of this process.
        world_size: number of processes.
        key: YAML key of the stage, for messages.

    Raises:
        InputError: if the global batch is not divisible into micro-batches and processes.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        recipe: Recipe,
        seed: int,
        stage: str,
        pad_id: int,
        micro_batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        key: str = "data",
    ) -> None:
        self.examples = examples
        self.pad_id = pad_id
        self.rank, self.world_size = rank, world_size
        self.micro_batch_size = micro_batch(recipe.batch_size, micro_batch_size, world_size, key)
        self.steps = list(_global_batches(len(examples), recipe, seed, stage))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> GlobalBatch:
        rows, ordered = self.steps[step], self.ordered(step)
        stride = self.micro_batch_size * self.world_size
        micro_batches = []
        for start in range(0, len(ordered), stride):
            begin = start + self.rank * self.micro_batch_size
            share = ordered[begin : min(begin + self.micro_batch_size, start + stride)]
            # A process without rows computes a filler: all processes must exchange gradients.
            micro_batches.append(self.collated(step, share or ordered[:1], filler=not share))
        tokens = sum(len(self.examples[i].answer) for i in rows)
        return GlobalBatch(micro_batches, tokens, len(rows))

    def ordered(self, step: int) -> list[int]:
        """Return the numbers of the rows of a step, the shortest row first."""
        return sorted(self.steps[step], key=lambda i: (len(self.examples[i]), i))

    def collated(self, step: int, rows: Sequence[int], filler: bool) -> Batch:
        """Return rows of a step as a micro-batch.

        Args:
            step: number of the step, from 0.
            rows: numbers of the rows.
            filler: give the sequences weight 0.
        """
        return collate(self.examples, rows, self.pad_id, filler)

    def loader(self, done: int = 0, upto: int | None = None) -> DataLoader[GlobalBatch]:
        """Return a loader that yields the steps in order, one at a time.

        Args:
            done: number of steps to skip at the start.
            upto: number of steps after which to end; None for all.
        """
        left = range(done, len(self.steps) if upto is None else upto)
        return DataLoader(self, batch_size=None, sampler=left, num_workers=0)


def micro_batch(batch_size: int, requested: int | None, world_size: int, key: str) -> int:
    """Choose the number of sequences of one forward on one process.

    Args:
        batch_size: sequences of the global batch.
        requested: requested size; None takes the largest divisor, up to 8, of the share of a
            process.
        world_size: number of processes.
        key: YAML key of the stage, for the message.

    Returns:
        The micro-batch size.

    Raises:
        InputError: if the global batch is not a multiple of micro-batch times processes.
    """
    unit = world_size * (requested or 1)
    if requested is not None and requested < 1:
        raise InputError(f"data.micro_batch_size: found {requested}, expected at least 1, or null.")
    if batch_size % unit:
        parts = f"{world_size} process(es)"
        if requested:
            parts += f" x data.micro_batch_size {requested}"
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        near = f"{below} or {above}" if below else str(above)
        raise InputError(
            f"{key}.batch_size: found {batch_size}, which is not divisible by {parts} = {unit}. "
            f"Choose a multiple of {unit}, such as {near}, or another micro-batch size."
        )
    if requested:
        return requested
    share = batch_size // world_size
    return max(n for n in range(1, DEFAULT_MICRO_BATCH + 1) if share % n == 0)


def count_steps(count: int, recipe: Recipe) -> int:
    """Return the number of optimizer steps of a recipe on ``count`` rows."""
    if recipe.steps is not None:
        return recipe.steps
    return recipe.epochs * -(-count // recipe.batch_size)


def _global_batches(count: int, recipe: Recipe, seed: int, stage: str) -> Iterator[list[int]]:
    """Yield the row numbers of each optimizer step.

    The remaining rows at the end of an epoch make a smaller step.
    """
    per_epoch = -(-count // recipe.batch_size)
    for step in range(count_steps(count, recipe)):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            generator = torch.Generator().manual_seed(derive_seed(seed, stage, epoch))
            order = torch.randperm(count, generator=generator).tolist()
        yield order[position * recipe.batch_size : (position + 1) * recipe.batch_size]
