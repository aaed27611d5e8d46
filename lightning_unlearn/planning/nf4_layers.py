"""Linear layers with the memory and work of 4-bit layers, without bitsandbytes."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.model.quantization import packed_sizes, quantized_layers


class _Product(torch.autograd.Function):
    """The product of bitsandbytes: it dequantizes the weights in both passes and keeps no copy."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: "PackedLinear") -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(rows.dtype)
        return nn.functional.linear(rows, layer.unpacked(rows.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        return grads[0] @ layer.unpacked(layer.stored).to(grads[0].dtype), None


class PackedLinear(nn.Linear):
    """Replacement for the ``Linear4bit`` of bitsandbytes.

    Args:
        linear: the layer that is quantized.
        compute: data type of the products.
    """

    def __init__(self, linear: nn.Linear, compute: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compute, self.stored = compute, linear.weight.dtype
        weights, scales, numbers = packed_sizes(self.in_features * self.out_features)

        def kept(count: int, dtype: torch.dtype) -> nn.Parameter:
            return nn.Parameter(torch.empty(count, 1, dtype=dtype, device="meta"), False)

        self.weight = kept(weights, torch.uint8)
        self.scales = kept(scales, torch.uint8)
        self.numbers = kept(numbers, torch.float32)
        self.bias = linear.bias

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantized weights, ``[out, in]``."""
        scales = self.scales.float()  # allocated until the weights exist
        pairs = self.weight.expand(-1, 2).to(dtype)
        del scales
        return pairs.flatten()[: self.in_features * self.out_features].view(
            self.out_features, self.in_features
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``, in the data type of ``rows``."""
        found: Tensor = _Product.apply(rows.to(self.compute), self)  # type: ignore[no-untyped-call]
        # PEFT clones the output of a quantized layer.
        return found.to(rows.dtype).clone()


def pack(lm: Any, compute: torch.dtype) -> None:
    """Replace the layers that would be quantized.

    Args:
        lm: a Hugging Face causal LM without memory.
        compute: data type of the products.
    """
    for name, layer in quantized_layers(lm):
        lm.set_submodule(name, PackedLinear(layer, compute))
