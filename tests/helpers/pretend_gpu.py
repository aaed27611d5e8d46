"""A GPU that is not there: tensors that say they are on it, computed with on the CPU.

To PyTorch's C++ they are tensors of the CPU, so they need no CUDA; in Python their device is
``cuda:0``. What a GPU refuses is refused: tensors of both devices in one operation, a generator of
the CPU, NumPy, and sums that have no deterministic algorithm where such are asked for. What is
computed in 16 bits, in what order a GPU adds, and its kernels are not pretended.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from lightning_unlearn import StagedTrainer

GPU = torch.device("cuda", 0)
# Operations that a GPU lets have tensors of both.
MIXED = ("copy_", "index", "index_put_", "_index_put_impl_")
DIFFERENT = "Expected all tensors to be on the same device, but found cuda:0 and cpu"
GENERATOR = "Expected a 'cuda' device type for generator but found 'cpu'"


class OnGPU(Tensor):
    """A tensor on the GPU; ``held`` holds its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: Tensor) -> "OnGPU":
        self = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=real.device,
        )
        self.held = real
        return self

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def get_device(self) -> int:
        return 0

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, OnGPU):
            raise RuntimeError(DIFFERENT)
        Tensor.data.__set__(self, value)
        self.held = value.held

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    __array__ = numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        new: Tensor = OnGPU(self.held.detach().clone())
        if isinstance(self, nn.Parameter):
            new = nn.Parameter(new, self.requires_grad)
        memo[id(self)] = new
        return new

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        given = tree_leaves((args, kwargs))
        tensors = [value for value in given if isinstance(value, Tensor)]
        _refuse(func, name, args, given, tensors)
        result = func(*tree_map(_real, args), **tree_map(_real, kwargs))
        if name == "copy_":
            return args[0]
        known = {id(_real(tensor)): tensor for tensor in tensors}

        def on_gpu(value: Any) -> Any:
            return known.get(id(value), OnGPU(value)) if isinstance(value, Tensor) else value

        return tree_map(on_gpu, result)


def _real(value: Any) -> Any:
    return value.held if isinstance(value, OnGPU) else value


def _refuse(func: Any, name: str, args: Any, given: list[Any], tensors: list[Tensor]) -> None:
    """What a GPU refuses."""
    others = [t for t in tensors if not isinstance(t, OnGPU) and t.dim() > 0]
    if name in MIXED:
        # Places may be numbered on the CPU, where values are put and what they are put into not.
        both = not isinstance(args[0], OnGPU) if name != "copy_" else False
        both |= "put" in name and any(other is args[2] for other in others)
    else:
        # Lists are worked on tensor by tensor: an optimizer's steps are counted on the CPU.
        both = bool(others) and not name.startswith("_foreach")
    if both:
        raise RuntimeError(f"{func}: {DIFFERENT}")
    if any(isinstance(value, torch.Generator) for value in given):
        raise RuntimeError(f"{func}: {GENERATOR}")
    sums = name == "cumsum" and tensors[0].is_floating_point()
    if sums and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")


class _ToGPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return OnGPU(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Tensor:
        return gradient.held.clone()


class _ToCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Any) -> Tensor:
        return tensor.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return OnGPU(gradient.clone())


class _Devices(TorchFunctionMode):
    """Makes tensors where they are asked for, and moves them, without looking for a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Memory that a GPU reads from: there is none.
        kwargs = {k: v for k, v in (kwargs or {}).items() if k != "pin_memory"}
        if func in (Tensor.cuda, Tensor.cpu):
            return _move(args[0], func is Tensor.cuda)
        if func is Tensor.to:
            return _to(func, args, kwargs)
        device = kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        to_gpu = torch.device(device).type == "cuda"
        if to_gpu and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError(f"{func}: {GENERATOR}")
        if to_gpu:
            kwargs["device"] = "cpu"
        if args and isinstance(args[0], OnGPU):
            # As new_zeros and zeros_like: it decides for itself where its own are.
            kwargs.pop("device")
        made = func(*args, **kwargs)
        if not isinstance(made, Tensor) or isinstance(made, OnGPU) == to_gpu:
            return made
        return OnGPU(made.detach()).requires_grad_(made.requires_grad) if to_gpu else _real(made)


def _to(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """`Tensor.to` in all its forms."""
    tensor, *rest = args
    copy = kwargs.pop("copy", False)
    if rest and isinstance(rest[0], Tensor):
        device, dtype = rest[0].device, rest[0].dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*rest, **kwargs)
    if device is None:
        return func(*args, **kwargs, copy=copy)
    if isinstance(tensor, OnGPU) != (device.type == "cuda"):
        tensor, copy = _move(tensor, device.type == "cuda"), False
    return func(tensor, dtype or tensor.dtype, copy=copy)


def _move(tensor: Tensor, to_gpu: bool) -> Tensor:
    if isinstance(tensor, OnGPU) == to_gpu:
        return tensor
    return (_ToGPU if to_gpu else _ToCPU).apply(tensor)


@contextmanager
def gpu() -> Iterator[None]:
    """The time during which there is a GPU, on which trainers of ``accelerator="cpu"`` train."""
    import transformers.modeling_utils

    state = torch.zeros(16, dtype=torch.uint8)
    trainer = StagedTrainer.__init__

    def on_gpu(self: Any, *args: Any, **kwargs: Any) -> None:
        trainer(self, *args, **kwargs)
        self.strategy._root_device = GPU

    swaps = torch.__future__.get_swap_module_params_on_conversion()
    # A module's parameters become other ones, of another class, when it moves.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            patch.object(torch.cuda, "get_rng_state", lambda device=None: state),
            patch.object(torch.cuda, "set_rng_state", lambda state, device=None: None),
            patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            patch.object(torch.cuda, "get_device_name", lambda device=None: "pretended"),
            # It asks the driver how much memory is free.
            patch.object(transformers.modeling_utils, "caching_allocator_warmup", lambda *_: None),
            patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"}),
            patch.object(CPUAccelerator, "setup_device", lambda self, device: None),
            patch.object(StagedTrainer, "__init__", on_gpu),
            _Devices(),
        ):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
