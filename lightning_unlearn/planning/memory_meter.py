"""Meter for the memory of tensors, by part and at the peak, and for the work of operations."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Part = Literal["parameters", "gradients", "optimizer", "activations", "gathered", "other"]
PARTS: tuple[Part, ...] = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "gathered",
    "other",
)

_RESIZE = torch.UntypedStorage.resize_
# Per collective: the arguments that are full buffers, the one whose bytes are sent, and how often.
_EXCHANGES = {
    "c10d::_allgather_base_": ((0,), 0, 1),
    "c10d::_reduce_scatter_base_": ((0, 1), 1, 1),
    "c10d::allreduce_": ((0,), 0, 2),
}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors from their creation until they are freed, and the work.

    It counts as `torch.distributed._tools.fsdp2_mem_tracker.FSDPMemTracker` does, but without the
    record of each module, which takes most of that tracker's time.

    Args:
        processes: number of processes that share a model.

    Attributes:
        now: current bytes by part.
        peak: bytes by part at the moment of their largest sum.
        flops: floating-point operations of matrix products and attention.
        traffic: bytes that operations read and wrote, without any cache.
        exchanged: bytes that this process sends to other processes.
    """

    def __init__(self, processes: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.processes = processes
        self.now: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self.peak = dict(self.now)
        self.flops = 0
        self.traffic = 0
        self.exchanged = 0.0
        self._most = 0
        self._total = 0
        self._known: dict[int, tuple[int, Part, Any]] = {}
        self._views: dict[Any, bool] = {}
        self._mode: Any = None

    def put(self, tensor: Tensor, part: Part, again: bool = True) -> None:
        """Count the memory of a tensor.

        Args:
            tensor: the tensor.
            part: the part that the tensor belongs to.
            again: whether to move a tensor that is already counted for another part.
        """
        storage = local_part(tensor).untyped_storage()
        key = storage._cdata
        size = storage.nbytes()
        if (found := self._known.get(key)) is not None:
            before, known, reference = found
            part = part if again else known
            if (before, known) == (size, part):
                return
            self._add(known, -before)
        else:
            reference = weakref.ref(storage, lambda _: self._drop(key))
        self._known[key] = (size, part, reference)
        self._add(part, size)

    def _drop(self, key: int) -> None:
        size, part, _ = self._known.pop(key)
        self._add(part, -size)

    def _add(self, part: Part, size: int) -> None:
        self.now[part] += size
        self._total += size

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count operations while the context is active."""

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            # FSDP2 frees and allocates memory by resizing, which is not an operation.
            changed = _RESIZE(storage, size)
            if (found := self._known.get(storage._cdata)) is not None:
                before, part, reference = found
                self._known[storage._cdata] = (storage.nbytes(), part, reference)
                self._add(part, storage.nbytes() - before)
                self._update_peak()
            return changed

        self._mode = active_fake_mode()
        self._update_peak()
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        try:
            with self:
                yield
        finally:
            torch.UntypedStorage.resize_ = _RESIZE  # type: ignore[method-assign]

    def _update_peak(self) -> None:
        # Update for an equal sum too: the part of a buffer is known only when it is used.
        if self._total >= self._most:
            self._most, self.peak = self._total, dict(self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # DTensor computes shapes in another fake mode, without allocating memory.
        if active_fake_mode() is not self._mode:
            return result
        name = func._schema.name
        made = _tensors(result)
        for tensor in made:
            self.put(tensor, "activations", again=False)
        if name in _EXCHANGES:
            buffers, whole, times = _EXCHANGES[name]
            for place in buffers:
                for tensor in _tensors(args[place]):
                    self.put(tensor, "gathered")
            sent = sum(map(_bytes, _tensors(args[whole])))
            self.exchanged += times * sent * (self.processes - 1) / self.processes
        elif name.startswith("fsdp::"):
            for tensor in _tensors(kwargs.get("out")):
                self.put(tensor, "gathered")
        else:
            self._count_work(func, args, kwargs, result, made)
        self._update_peak()
        return result

    def _count_work(
        self, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]
    ) -> None:
        if func not in self._views:
            aliases = [value.alias_info for value in func._schema.returns]
            self._views[func] = any(a is not None and not a.is_write for a in aliases)
        if self._views[func]:
            return
        name = func._schema.name
        if "scaled_dot_product" in name:
            self.flops += _attention_flops(name, args)
        elif (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        read = _tensors((args, kwargs))
        self.traffic += sum(map(_bytes, read)) + sum(map(_bytes, made))


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that may be sharded, without an operation."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def _attention_flops(name: str, args: Any) -> int:
    """Return the FLOP of both attention products over all pairs of positions, causal or not."""
    backward = "backward" in name
    query, key, value = args[1:4] if backward else args[:3]
    pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    flops: int = 2 * pairs * (query.shape[3] + value.shape[3])
    # The backward pass computes the scores again, and two products for each forward product.
    return flops * 5 // 2 if backward else flops


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors among arguments or results, also inside lists and mappings."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return []
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)):
            found += _tensors(value)
    return found
