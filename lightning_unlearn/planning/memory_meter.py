"""What tensors take, while they live: a count of bytes by part, with its peak, and of work."""

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
# Which arguments of a collective are its whole buffers, and how often their bytes are sent.
_EXCHANGES = {
    "c10d::_allgather_base_": ((0,), 0, 1),
    "c10d::_reduce_scatter_base_": ((0, 1), 1, 1),
    "c10d::allreduce_": ((0,), 0, 2),
}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of the tensors that operations make, until they are freed, and operations' work.

    The counting of `torch.distributed._tools.fsdp2_mem_tracker.FSDPMemTracker`, without its record
    for each module, which makes up most of its time.

    Args:
        processes: that share a model.

    Attributes:
        now: bytes by part.
        peak: bytes by part at the moment at which they were most together.
        flops: operations with floating-point numbers of matrix products and attention.
        traffic: bytes that operations read and wrote, as if nothing stayed in a cache.
        exchanged: bytes that this process sends to others.
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
        """Count a tensor's memory.

        Args:
            tensor: any.
            part: what it is.
            again: also where it is counted as another part already.
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
        """The time during which operations are counted."""

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            # FSDP2 frees and gives memory so, which is no operation.
            changed = _RESIZE(storage, size)
            if (found := self._known.get(storage._cdata)) is not None:
                before, part, reference = found
                self._known[storage._cdata] = (storage.nbytes(), part, reference)
                self._add(part, storage.nbytes() - before)
                self._look()
            return changed

        self._mode = active_fake_mode()
        self._look()
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        try:
            with self:
                yield
        finally:
            torch.UntypedStorage.resize_ = _RESIZE  # type: ignore[method-assign]

    def _look(self) -> None:
        # Also where it is the same again: a buffer is known for what it is only when it is used.
        if self._total >= self._most:
            self._most, self.peak = self._total, dict(self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind is DTensor for kind in types):
            return NotImplemented
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # DTensor works out shapes with a mode of its own; nothing is allocated there.
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
            self._work(func, args, kwargs, result, made)
        self._look()
        return result

    def _work(self, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]) -> None:
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
    """This process's part of a tensor that may be cut up, by no operation."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def _attention_flops(name: str, args: Any) -> int:
    """Both products of attention over all pairs of positions, as is the custom, causal or not."""
    backward = "backward" in name
    query, key, value = args[1:4] if backward else args[:3]
    pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    flops: int = 2 * pairs * (query.shape[3] + value.shape[3])
    # Backward forms the scores anew, and two products for each of the two.
    return flops * 5 // 2 if backward else flops


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(values: Any) -> list[Tensor]:
    """The tensors among arguments or results, which lie at most in lists and mappings."""
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
