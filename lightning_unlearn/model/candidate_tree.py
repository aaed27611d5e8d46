"""A prompt and its candidates in one sequence, equal beginnings held once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Ids = tuple[int, ...]

# Elements of the mask of one forward: 16 MiB in fp32; eager attention forms that much per head.
MASK_ELEMENTS = 2**22


@dataclass
class CandidateTree:
    """A prompt and continuations of it, equal beginnings held once.

    Attributes:
        prompt: its tokens; they come first.
        row: whose it is.
        numbers: which candidates of the row are in it.
        tokens: those after the prompt; a candidate's last token is only predicted.
        parents: for each of them, the place before it in the sequence.
        positions: for each of them, how many tokens it follows.
        label_positions: for each candidate, the places that predict its tokens.
        label_ids: for each candidate, its tokens.
    """

    prompt: Ids
    row: int
    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    label_positions: list[list[int]] = field(default_factory=list)
    label_ids: list[Ids] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)

    def growth(self, candidate: Ids) -> int:
        """By how many tokens the candidate would make it longer."""
        place = len(self.prompt) - 1
        for known, token in enumerate(candidate[:-1]):
            if (place, token) not in self._children:
                return len(candidate) - 1 - known
            place = self._children[place, token]
        return 0

    def add(self, number: int, candidate: Ids) -> None:
        """Take a candidate in."""
        place = len(self.prompt) - 1
        label_positions = [place]
        for depth, token in enumerate(candidate[:-1]):
            if (place, token) not in self._children:
                self._children[place, token] = len(self)
                self.tokens.append(token)
                self.parents.append(place)
                self.positions.append(len(self.prompt) + depth)
            place = self._children[place, token]
            label_positions.append(place)
        self.numbers.append(number)
        self.label_positions.append(label_positions)
        self.label_ids.append(candidate)


def grow(prompt: Ids, candidates: Sequence[Ids], row: int = 0) -> list[CandidateTree]:
    """The candidates in one tree, or in several where its mask would be too large."""
    trees = [CandidateTree(prompt, row)]
    for number, candidate in enumerate(candidates):
        width = len(trees[-1]) + trees[-1].growth(candidate)
        if trees[-1].numbers and width * width > MASK_ELEMENTS:
            trees.append(CandidateTree(prompt, row))
        trees[-1].add(number, candidate)
    return trees


def batches(trees: list[CandidateTree], batch_size: int) -> list[list[CandidateTree]]:
    """Trees of similar length together, as many as the limits allow."""
    batches: list[list[CandidateTree]] = []
    for tree in sorted(trees, key=len):
        last = batches[-1] if batches else []
        full = len(last) == batch_size or (len(last) + 1) * len(tree) ** 2 > MASK_ELEMENTS
        if full or not batches:
            batches.append([])
        batches[-1].append(tree)
    return batches


@dataclass(frozen=True)
class Layout:
    """Inputs of one forward.

    Attributes:
        input_ids: ``[trees, longest tree]``.
        positions: same shape.
        visible: which place (last axis) each place sees, ``[trees, longest, longest]``.
        label_positions: places in the flattened ``input_ids`` that predict, ``[tokens]``.
        label_ids: what is predicted there, ``[tokens]``.
    """

    input_ids: Tensor
    positions: Tensor
    visible: Tensor
    label_positions: Tensor
    label_ids: Tensor


def lay_out(trees: list[CandidateTree]) -> Layout:
    """Several trees as one batch, padded on the right."""
    width = max(map(len, trees))
    input_ids = torch.zeros(len(trees), width, dtype=torch.long)
    positions = torch.zeros(len(trees), width, dtype=torch.long)
    # Each place sees itself, padding too: a place that sees nothing would be nan.
    visible = np.broadcast_to(np.eye(width, dtype=bool), (len(trees), width, width)).copy()
    label_positions: list[int] = []
    for r, tree in enumerate(trees):
        size = len(tree.prompt)
        input_ids[r, : len(tree)] = torch.tensor([*tree.prompt, *tree.tokens])
        positions[r, : len(tree)] = torch.tensor([*range(size), *tree.positions])
        own = visible[r]
        own[:size, :size] = np.tri(size, dtype=bool)
        for place, parent in enumerate(tree.parents, start=size):
            own[place, : parent + 1] = own[parent, : parent + 1]
        label_positions += [
            r * width + place for places in tree.label_positions for place in places
        ]
    label_ids = [token for tree in trees for candidate in tree.label_ids for token in candidate]
    return Layout(
        input_ids,
        positions,
        torch.from_numpy(visible),
        torch.tensor(label_positions),
        torch.tensor(label_ids),
    )
