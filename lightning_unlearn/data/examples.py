"""Tokens of many rows in few arrays: four bytes for a token, instead of a Python object."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.data.chat import Example, data_fingerprint, hashed


class Examples(Sequence[Example]):
    """Examples in arrays; reading one makes an `Example`.

    Args:
        ids: tokens of all examples, one after the other, int32 ``[tokens]``.
        bounds: where the prompt and the answer of each example begin in `ids`, and where the last
            answer ends, int64 ``[2 * examples + 1]``.
        truncated: whether an answer is cut off, bool ``[examples]``.
        fingerprint: `data_fingerprint` of the examples, if it is known already.
    """

    def __init__(
        self,
        ids: NDArray[np.int32],
        bounds: NDArray[np.int64],
        truncated: NDArray[np.bool_],
        fingerprint: str | None = None,
    ) -> None:
        self.ids = ids
        self.bounds = bounds
        self.truncated = truncated
        self._fingerprint = fingerprint

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Put examples into arrays."""
        collected = ExampleCollector()
        for example in examples:
            collected.add(example.prompt, example.answer, example.truncated)
        return collected.examples()

    @property
    def fingerprint(self) -> str:
        """`data_fingerprint` of the examples, computed once."""
        if self._fingerprint is None:
            self._fingerprint = data_fingerprint(iter(self))
        return self._fingerprint

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.ids.nbytes + self.bounds.nbytes + self.truncated.nbytes

    def __len__(self) -> int:
        return len(self.truncated)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> "Examples": ...
    def __getitem__(self, place: int | slice) -> "Example | Examples":
        if isinstance(place, slice):
            return self._part(place)
        number = range(len(self))[place]
        begin, middle, end = self.bounds[2 * number : 2 * number + 3].tolist()
        return Example(
            tuple(self.ids[begin:middle].tolist()),
            tuple(self.ids[middle:end].tolist()),
            bool(self.truncated[number]),
        )

    def _part(self, place: slice) -> "Examples":
        first, stop, step = place.indices(len(self))
        if step != 1:
            return Examples.of(self[number] for number in range(first, stop, step))
        stop = max(first, stop)
        bounds = self.bounds[2 * first : 2 * stop + 1]
        ids = self.ids[bounds[0] : bounds[-1]]
        return Examples(ids, bounds - bounds[0], self.truncated[first:stop])

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Examples):
            return all(
                np.array_equal(getattr(self, name), getattr(other, name))
                for name in ("ids", "bounds", "truncated")
            )
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Examples({len(self)} examples, {len(self.ids)} tokens)"


class ExampleCollector:
    """Collects tokens of examples in arrays that grow.

    Args:
        fingerprint: compute `data_fingerprint` on the way, from the ids that are at hand.
    """

    def __init__(self, fingerprint: bool = False) -> None:
        self._digest = hashlib.sha256() if fingerprint else None
        self._ids = array("i")
        self._bounds = array("q", [0])
        self._truncated = array("b")

    def add(self, prompt: Sequence[int], answer: Sequence[int], truncated: bool) -> None:
        """Add an example."""
        for part in (prompt, answer):
            self._ids.extend(part)
            self._bounds.append(len(self._ids))
        self._truncated.append(truncated)
        if self._digest is not None:
            self._digest.update(hashed(prompt, answer))

    def examples(self) -> Examples:
        """Return the examples; nothing can be added after it."""
        return Examples(
            np.frombuffer(self._ids, np.int32),
            np.frombuffer(self._bounds, np.int64),
            np.frombuffer(self._truncated, np.bool_),
            None if self._digest is None else self._digest.hexdigest(),
        )
