"""A prompt and its candidates in one sequence, in which common prefixes occur once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Ids = tuple[int, ...]

# Largest number of elements of the mask of one forward: 16 MiB in fp32. Eager attention needs the
# same memory for each head.
MASK_ELEMENTS = 2**22


@dataclass
class CandidateTree:
    """A prompt and continuations of it, in which common prefixes occur once.

    Attributes:
        prompt: tokens of the prompt, at the start of the sequence.
        row: number of the row.
        numbers: numbers of the row's candidates in this tree.
        tokens: tokens after the prompt. The last token of a candidate is not among them, because
            it is only predicted.
        parents: for each of `tokens`, the index in the sequence of the token before it.
        positions: for each of `tokens`, its position in its own candidate's text.
        source: for each candidate, the indices that predict its tokens.
        target: for each candidate, its tokens.
    """

    prompt: Ids
    row: int
    numbers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    source: list[list[int]] = field(default_factory=list)
    target: list[Ids] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)

    def growth(self, candidate: Ids) -> int:
        """Return the number of tokens by which the candidate would extend the sequence."""
        node = len(self.prompt) - 1
        for known, token in enumerate(candidate[:-1]):
            if (node, token) not in self._children:
                return len(candidate) - 1 - known
            node = self._children[node, token]
        return 0

    def add(self, number: int, candidate: Ids) -> None:
        """Add a candidate."""
        node = len(self.prompt) - 1
        source = [node]
        for depth, token in enumerate(candidate[:-1]):
            if (node, token) not in self._children:
                self._children[node, token] = len(self)
                self.tokens.append(token)
                self.parents.append(node)
                self.positions.append(len(self.prompt) + depth)
            node = self._children[node, token]
            source.append(node)
        self.numbers.append(number)
        self.source.append(source)
        self.target.append(candidate)


def grow(prompt: Ids, candidates: Sequence[Ids], row: int = 0) -> list[CandidateTree]:
    """Build one tree of all candidates, or several if its mask would be too large."""
    trees = [CandidateTree(prompt, row)]
    for number, candidate in enumerate(candidates):
        width = len(trees[-1]) + trees[-1].growth(candidate)
        if trees[-1].numbers and width * width > MASK_ELEMENTS:
            trees.append(CandidateTree(prompt, row))
        trees[-1].add(number, candidate)
    return trees


def batches(trees: list[CandidateTree], batch_size: int) -> list[list[CandidateTree]]:
    """Batch trees of similar length, as many as the limits allow."""
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
        visible: True where a token (second axis) attends to a token (last axis),
            ``[trees, longest, longest]``.
        source: indices in the flattened ``input_ids`` that predict a token, ``[tokens]``.
        target: the tokens predicted there, ``[tokens]``.
    """

    input_ids: Tensor
    positions: Tensor
    visible: Tensor
    source: Tensor
    target: Tensor


def lay_out(trees: list[CandidateTree]) -> Layout:
    """Return several trees as one batch, padded on the right."""
    width = max(map(len, trees))
    input_ids = torch.zeros(len(trees), width, dtype=torch.long)
    positions = torch.zeros(len(trees), width, dtype=torch.long)
    # Each token attends to itself, padding too: a softmax over nothing would be nan.
    visible = np.broadcast_to(np.eye(width, dtype=bool), (len(trees), width, width)).copy()
    source: list[int] = []
    for r, tree in enumerate(trees):
        size = len(tree.prompt)
        input_ids[r, : len(tree)] = torch.tensor([*tree.prompt, *tree.tokens])
        positions[r, : len(tree)] = torch.tensor([*range(size), *tree.positions])
        own = visible[r]
        own[:size, :size] = np.tri(size, dtype=bool)
        for node, parent in enumerate(tree.parents, start=size):
            own[node, : parent + 1] = own[parent, : parent + 1]
        source += [r * width + node for nodes in tree.source for node in nodes]
    target = [token for tree in trees for candidate in tree.target for token in candidate]
    return Layout(
        input_ids,
        positions,
        torch.from_numpy(visible),
        torch.tensor(source),
        torch.tensor(target),
    )
