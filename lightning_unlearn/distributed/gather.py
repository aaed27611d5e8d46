"""Values that several processes computed, put together again by number."""

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

    A process that has added nothing takes part. Rows come back in the order of their numbers,
    whichever process added them and when; of rows with one number, as a sampler that pads to
    equal shares makes them, the first is kept.
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
            index: their numbers, ``[rows]``.
            values: ``[rows, ...]``.
        """
        if index.ndim != 1 or values.shape[:1] != index.shape:
            raise InputError(
                f"{type(self).__name__}: found numbers {list(index.shape)} for values "
                f"{list(values.shape)}, expected one number for each row"
            )
        self.index.append(index.detach().to(self.device, torch.long))
        self.values.append(values.detach().to(self.device))

    def table(self) -> tuple[Tensor, Tensor]:
        """All rows, each number once: numbers ``[rows]``, rising, and values ``[rows, ...]``."""
        if len(self.index) == 0:
            raise InputError(
                f"{type(self).__name__}: found no values, expected some: nothing was measured"
            )
        index = torch.cat(list(self.index)) if isinstance(self.index, list) else self.index
        values = torch.cat(list(self.values)) if isinstance(self.values, list) else self.values
        order = torch.argsort(index, stable=True)
        numbers = index[order]
        first = torch.ones_like(numbers, dtype=torch.bool)
        first[1:] = numbers[1:] != numbers[:-1]
        return numbers[first], values[order[first]]

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # torchmetrics squeezes a tensor of one element; a table of one example stays a table.
        def kept() -> _Kept:
            return _Kept(compute())

        wrapped = super()._wrap_compute(kept)

        @functools.wraps(compute)
        def unpacked() -> Any:
            return wrapped().value

        return unpacked


class PerExampleMetric(Table):
    """A table with one row of values per example, each example counted once.

    A measure subclasses it and overrides `measure`. ``update`` takes the numbers of the examples
    this process looked at and what `measure` takes; ``compute`` returns the values of all
    examples, in their order.

    Args:
        count: number of examples; None for the highest number seen and one.
    """

    def __init__(self, count: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def measure(self, *given: Any, **named: Any) -> Tensor:
        """Values of some examples, ``[rows, ...]``; here they are given as they are."""
        values: Tensor = given[0]
        return values

    def update(self, index: Tensor, *given: Any, **named: Any) -> None:
        """Add examples.

        Args:
            index: example numbers, ``[rows]``.
            given: what `measure` takes.
            named: the same, by name.
        """
        self.keep(index, self.measure(*given, **named))

    def compute(self) -> Tensor:
        """Values of all examples, ``[examples, ...]``; a missing example is refused."""
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
                f"{type(self).__name__}: found {_some(missing)} not measured"
                + (f" and {_some(beyond)} not among them" if beyond else "")
                + f", expected each of the {count} examples: number them from 0 and leave none out"
            )
        return values


class TwoSampleMetric(Table):
    """Numbered rows of two samples; the numbers of one may be those of the other.

    Args:
        counts: rows of the first and of the second sample; None for as many as there are.
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
        """Values of the first and of the second sample, in the order of their numbers."""
        keys, values = self.table()
        one, two = values[keys % 2 == 1], values[keys % 2 == 0]
        if self.counts is not None and self.counts != (len(one), len(two)):
            raise InputError(
                f"{type(self).__name__}: found samples of {len(one)} and {len(two)}, expected "
                f"{self.counts[0]} and {self.counts[1]}"
            )
        return one, two


class _Kept:
    """A value that torchmetrics does not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of every process; unlike torchmetrics' own, one may have none of any type.

    Args:
        rows: this process's, ``[rows, ...]``.
        group: the processes; None for all.

    Returns:
        The rows of each process; only this one's if none has any.

    Raises:
        InputError: the rows of two processes differ in shape or type.
    """
    world = dist.get_world_size(group)
    told: list[Any] = [None] * world
    dist.all_gather_object(told, (len(rows), tuple(rows.shape[1:]), rows.dtype), group=group)
    kinds = sorted({kind[1:] for kind in told if kind[0]}, key=str)
    if not kinds:
        return [rows]
    if len(kinds) > 1:
        found = " and ".join(f"{list(shape)} ({dtype})" for shape, dtype in kinds)
        raise InputError(
            f"gathering: found rows of {found} in different processes, expected one shape and type"
        )
    shape, dtype = kinds[0]
    padded = torch.zeros(max(kind[0] for kind in told), *shape, dtype=dtype, device=rows.device)
    if len(rows):
        padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    return [part[: kind[0]] for part, kind in zip(parts, told, strict=True)]


def _some(numbers: list[int], most: int = 5) -> str:
    shown = ", ".join(str(number) for number in numbers[:most])
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    noun = "example" if len(numbers) == 1 else "examples"
    return f"{noun} {shown}{more}" if numbers else "no example"
