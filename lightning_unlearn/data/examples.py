"""Tokens of many rows in few arrays: four bytes for a token, instead of a Python object."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """One row as token ids.

    Attributes:
        prompt: tokens up to and including the assistant header.
        answer: label tokens: the answer and the end of the turn.
        truncated: whether the end of the answer was cut off.
        end: how many of the last label tokens end the turn; 0 for a truncated answer and for plain
            text.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    truncated: bool = False
    end: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    @property
    def answer_without_end(self) -> tuple[int, ...]:
        """Label tokens without those that end the turn."""
        return self.answer[: len(self.answer) - self.end]


class Examples(Sequence[Example]):
    """Examples in arrays; reading one makes an `Example`.

    Args:
        ids: tokens of all examples, one after the other, int32 ``[tokens]``.
        bounds: where the prompt and the answer of each example begin in `ids`, and where the last
            answer ends, int64 ``[2 * examples + 1]``.
        truncated: whether an answer is cut off, bool ``[examples]``.
        ends: label tokens that end the turn, int32 ``[examples]``.
        fingerprint: `data_fingerprint` of the examples, if it is known already.
    """

    def __init__(
        self,
        ids: NDArray[np.int32],
        bounds: NDArray[np.int64],
        truncated: NDArray[np.bool_],
        ends: NDArray[np.int32],
        fingerprint: str | None = None,
    ) -> None:
        self.ids = ids
        self.bounds = bounds
        self.truncated = truncated
        self.ends = ends
        self._fingerprint = fingerprint

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Put examples into arrays."""
        collected = ExampleCollector()
        for example in examples:
            collected.add(example.prompt, example.answer, example.truncated, example.end)
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
        arrays = (self.ids, self.bounds, self.truncated, self.ends)
        return sum(array.nbytes for array in arrays)

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
            int(self.ends[number]),
        )

    def _part(self, place: slice) -> "Examples":
        first, stop, step = place.indices(len(self))
        if step != 1:
            return Examples.of(self[number] for number in range(first, stop, step))
        stop = max(first, stop)
        bounds = self.bounds[2 * first : 2 * stop + 1]
        ids = self.ids[bounds[0] : bounds[-1]]
        part = slice(first, stop)
        return Examples(ids, bounds - bounds[0], self.truncated[part], self.ends[part])

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Examples):
            return all(
                np.array_equal(getattr(self, name), getattr(other, name))
                for name in ("ids", "bounds", "truncated", "ends")
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
        self._ends = array("i")

    def add(
        self, prompt: Sequence[int], answer: Sequence[int], truncated: bool, end: int = 0
    ) -> None:
        """Add an example; see `Example`."""
        for part in (prompt, answer):
            self._ids.extend(part)
            self._bounds.append(len(self._ids))
        self._truncated.append(truncated)
        self._ends.append(end)
        if self._digest is not None:
            self._digest.update(hashed(prompt, answer))

    def examples(self) -> Examples:
        """Return the examples; nothing can be added after it."""
        return Examples(
            np.frombuffer(self._ids, np.int32),
            np.frombuffer(self._bounds, np.int64),
            np.frombuffer(self._truncated, np.bool_),
            np.frombuffer(self._ends, np.int32),
            None if self._digest is None else self._digest.hexdigest(),
        )


def data_fingerprint(examples: Iterable[Example]) -> str:
    """Hash the token ids of a data set; the file format has no effect."""
    known: str | None = getattr(examples, "fingerprint", None)
    if known is not None:
        return known
    digest = hashlib.sha256()
    for example in examples:
        digest.update(hashed(example.prompt, example.answer))
    return digest.hexdigest()


def hashed(prompt: Sequence[int], answer: Sequence[int]) -> bytes:
    """Return what `data_fingerprint` hashes of an example."""
    return repr((tuple(prompt), tuple(answer))).encode()
