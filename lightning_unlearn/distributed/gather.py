"""Gather the values that several processes computed, in the order of their numbers."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from lightning_unlearn.errors import InputError


class Table(Metric):
    """Numbered rows of values, gathered over all processes.

    A process that has added no rows takes part too. The rows are sorted by number, independent of
    the process that added them and of the time. A sampler that pads its shares to equal length
    gives several rows one number; the first of them is kept.
    """

    full_state_update = False
    index: list[Tensor]
    values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def keep(self, index: Tensor, values: Tensor) -> None:
        """Add rows.

        Args:
            index: numbers of the rows, ``[rows]``.
            values: ``[rows, ...]``.

        Raises:
            InputError: if there is not one number for each row.
        """
        if index.ndim != 1 or values.shape[:1] != index.shape:
            raise InputError(
                f"{type(self).__name__}: found numbers {list(index.shape)} for values "
                f"{list(values.shape)}, expected one number for each row"
            )
        self.index.append(index.detach().to(self.device, torch.long))
        self.values.append(values.detach().to(self.device))

    def table(self) -> tuple[Tensor, Tensor]:
        """Return all rows, each number once: ascending numbers ``[rows]``, values ``[rows, ...]``.

        Raises:
            InputError: if there are no rows.
        """
        if len(self.index) == 0:
            raise InputError(
                f"{type(self).__name__}: found no values, expected some: call update first"
            )
        index = torch.cat(list(self.index)) if isinstance(self.index, list) else self.index
        values = torch.cat(list(self.values)) if isinstance(self.values, list) else self.values
        order = torch.argsort(index, stable=True)
        numbers = index[order]
        first = torch.ones_like(numbers, dtype=torch.bool)
        first[1:] = numbers[1:] != numbers[:-1]
        return numbers[first], values[order[first]]

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # torchmetrics squeezes a tensor of one element. Hide it, so that a table of one example
        # keeps its shape.
        def hidden() -> _Hidden:
            return _Hidden(compute())

        wrapped = super()._wrap_compute(hidden)

        @functools.wraps(compute)
        def unpacked() -> Any:
            return wrapped().value

        return unpacked


class PerExampleMetric(Table):
    """A table with one row of values per example, each example counted once.

    A metric subclasses it and overrides `measure`. ``update`` takes the numbers of the examples
    that this process evaluated and the arguments of `measure`. ``compute`` returns the values of
    all examples, in the order of their numbers.

    Args:
        count: number of examples; None for the highest number plus one.
    """

    def __init__(self, count: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def measure(self, *given: Any, **named: Any) -> Tensor:
        """Compute values of some examples, ``[rows, ...]``; here, return the first argument."""
        values: Tensor = given[0]
        return values

    def update(self, index: Tensor, *given: Any, **named: Any) -> None:
        """Add examples.

        Args:
            index: example numbers, ``[rows]``.
            given: positional arguments of `measure`.
            named: keyword arguments of `measure`.
        """
        self.keep(index, self.measure(*given, **named))

    def compute(self) -> Tensor:
        """Return the values of all examples, ``[examples, ...]``.

        Raises:
            InputError: if an example is missing, or a number is too high.
        """
        if self.count == 0 and len(self.index) == 0:
            return torch.empty(0, device=self.device)
        numbers, values = self.table()
        last = int(numbers[-1]) if len(numbers) else -1
        count = last + 1 if self.count is None else self.count
        if len(numbers) != count or last != count - 1:
            seen = set(numbers.tolist())
            missing = [i for i in range(count) if i not in seen]
            beyond = sorted(seen - set(range(count)))
            raise InputError(
                f"{type(self).__name__}: found no values of {_some(missing)}"
                + (f" and unexpected values of {_some(beyond)}" if beyond else "")
                + f", expected values of all {count} examples: number them from 0 without gaps"
            )
        return values


class TwoSampleMetric(Table):
    """Numbered rows of two samples; both samples may use the same numbers.

    Args:
        counts: expected rows of the first and of the second sample; None for any numbers.
    """

    def __init__(self, counts: tuple[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts = counts

    def keep_side(self, index: Tensor, values: Tensor, first: Tensor | bool) -> None:
        """Add rows.

        Args:
            index: numbers, ``[rows]``.
            values: ``[rows, ...]``.
            first: True for rows of the first sample, ``[rows]`` or one for all.
        """
        side = torch.as_tensor(first, dtype=torch.long, device=index.device)
        self.keep(2 * index + side.expand(index.shape), values)

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return the values of the first and of the second sample, sorted by number.

        Raises:
            InputError: if a sample has another number of rows than expected.
        """
        keys, values = self.table()
        one, two = values[keys % 2 == 1], values[keys % 2 == 0]
        if self.counts is not None and self.counts != (len(one), len(two)):
            raise InputError(
                f"{type(self).__name__}: found samples of {len(one)} and {len(two)}, expected "
                f"{self.counts[0]} and {self.counts[1]}"
            )
        return one, two


class _Hidden:
    """Wrapper of a value that torchmetrics must not change."""

    def __init__(self, value: Any) -> None:
        self.value = value


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """Gather the rows of every process.

    Unlike the gathering of torchmetrics, a process without rows may have any dtype.

    Args:
        rows: rows of this process, ``[rows, ...]``.
        group: the processes; None for all.

    Returns:
        The rows of each process; if no process has rows, only the tensor of this process.

    Raises:
        InputError: if the rows of two processes differ in shape or dtype.
    """
    world = dist.get_world_size(group)
    shapes: list[Any] = [None] * world
    dist.all_gather_object(shapes, (len(rows), tuple(rows.shape[1:]), rows.dtype), group=group)
    kinds = sorted({kind[1:] for kind in shapes if kind[0]}, key=str)
    if not kinds:
        return [rows]
    if len(kinds) > 1:
        found = " and ".join(f"{list(shape)} ({dtype})" for shape, dtype in kinds)
        raise InputError(
            f"gathering: found rows of {found} in different processes, expected one shape and dtype"
        )
    shape, dtype = kinds[0]
    padded = torch.zeros(max(kind[0] for kind in shapes), *shape, dtype=dtype, device=rows.device)
    if len(rows):
        padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    return [part[: kind[0]] for part, kind in zip(parts, shapes, strict=True)]


def _some(numbers: list[int], most: int = 5) -> str:
    shown = ", ".join(str(number) for number in numbers[:most])
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    noun = "example" if len(numbers) == 1 else "examples"
    return f"{noun} {shown}{more}" if numbers else "no example"
