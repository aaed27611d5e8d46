"""A base in NF4, four bits per weight (QLoRA, arXiv 2305.14314): its checks and its loading."""

import math
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from packaging.version import Version
from torch import Tensor, nn

from lightning_unlearn.errors import InputError

Quantization = Literal["nf4"]

# The oldest version of bitsandbytes that transformers supports.
OLDEST = "0.46.1"
INSTALL = 'pip install "lightning-unlearn[bitsandbytes]"'
# Dtype of matrix products, by precision of the Trainer.
COMPUTE = {
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "32-true": torch.float32,
}
# Number of weights per scale, and of scales per second-level scale, as in the paper and in
# bitsandbytes.
BLOCK, BLOCK_OF_SCALES = 64, 256


def check_base(quantization: str | None, base: str, config: Any, has_adapters: bool) -> None:
    """Refuse a base that cannot be quantized, or is already quantized.

    Args:
        quantization: "nf4", or None.
        base: name of the model.
        config: configuration of the model.
        has_adapters: whether adapters are trained instead of the base.

    Raises:
        InputError: with the key.
    """
    if quantization not in (None, "nf4"):
        raise InputError(f"model.quantization: found {quantization!r}, expected nf4 or null.")
    if (stored := getattr(config, "quantization_config", None)) is not None:
        values = stored if isinstance(stored, dict) else stored.to_dict()
        raise InputError(
            f"model.base: found {base}, whose weights are stored quantized "
            f"({values.get('quant_method', 'by an unnamed method')}), expected weights that are "
            "not quantized. Name the original model; model.quantization: nf4 quantizes it when it "
            "is loaded."
        )
    if quantization is not None and not has_adapters:
        raise InputError(
            "model.quantization: found nf4 with model.lora null, expected adapters: weights of 4 "
            "bits can't be trained. Set model.lora, or model.quantization to null."
        )


def check_quantization(lm: Any, precision: str, strategy: Any) -> None:
    """Refuse NF4 if precision, strategy, package or device do not support it.

    Args:
        lm: the Hugging Face model, which may be on the meta device.
        precision: precision of the Trainer.
        strategy: strategy of the Trainer; its device is tested.

    Raises:
        InputError: with the reason.
    """
    check_precision(precision)
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise of_strategy(type(strategy).__name__)
    _check_package()
    widths = (layer.in_features for _, layer in quantized_layers(lm))
    _try_out(widths, COMPUTE[precision], strategy.root_device)


def check_precision(precision: str) -> None:
    """Refuse a precision that bitsandbytes does not support.

    Args:
        precision: precision of the Trainer.

    Raises:
        InputError: with the precision.
    """
    if precision not in COMPUTE:
        raise InputError(
            f"trainer.precision: found {precision} with model.quantization: nf4, expected one of "
            f"{', '.join(COMPUTE)}."
        )


def of_strategy(name: str) -> InputError:
    """Return the error for a strategy that does not support a quantized base."""
    return InputError(
        f"model.quantization: found nf4 with the strategy {name}, expected one device, or "
        "trainer.strategy: ddp. Packed weights and their scales can't be sharded by rows. If the "
        "quantized model is too large for one GPU, set trainer.strategy: fsdp2, "
        "model.quantization: null and trainer.precision: bf16-true."
    )


def _check_package() -> None:
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        raise InputError(
            "model.quantization: found nf4, but the package bitsandbytes is not installed. "
            f"Install it ({INSTALL}), or set model.quantization to null."
        ) from None
    if Version(found) < Version(OLDEST):
        raise InputError(
            f"model.quantization: found nf4 with bitsandbytes {found}, expected {OLDEST} or later: "
            f"{INSTALL}."
        )


def _try_out(widths: Iterable[int], compute: torch.dtype, device: torch.device) -> None:
    """Test packing of small matrices, because bitsandbytes does not report what it supports."""
    found = f"found nf4 on the device {device}, where bitsandbytes {version('bitsandbytes')}"
    try:
        wrong = [width for width in sorted(set(widths)) if not _is_right(width, compute, device)]
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"model.quantization: {found} can't compute: {lines[0]} Expected a CUDA GPU, or "
            "another device that it supports (https://huggingface.co/docs/bitsandbytes). "
            "Otherwise set model.quantization to null."
        ) from error
    if wrong:
        columns = ", ".join(map(str, wrong))
        raise InputError(
            f"model.quantization: {found} computes wrong results for matrices of {columns} "
            "columns, expected a CUDA GPU, or another version: on CPUs, 0.46 to 0.48 accept any "
            "number of columns, 0.49 and 0.50 multiples of 64. Otherwise set model.quantization "
            "to null."
        )


def _is_right(width: int, compute: torch.dtype, device: torch.device) -> bool:
    """Return whether a matrix with this number of columns is unpacked and multiplied correctly."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    # The constructor draws random weights: do not change the random state of the process.
    with torch.random.fork_rng(devices=[]):
        layer = Linear4bit(width, 16, bias=False, compute_dtype=compute, quant_type="nf4")
    # Values are equal within a block, and differ between blocks by more than rounding.
    scales = torch.arange(math.ceil(16 * width / BLOCK)) % 7 + 1.0
    matrix = scales.repeat_interleave(BLOCK)[: 16 * width].view(16, width)
    layer.weight.data = matrix
    layer.support_avx512bf16_for_cpu = False
    layer.to(device)
    with torch.enable_grad():
        rows = torch.full((2, width), 1 / width, device=device, requires_grad=True)
        product = layer(rows)
        product.sum().backward()
    unpacked = dequantize_4bit(layer.weight.data, layer.weight.quant_state).cpu()
    means = unpacked.mean(1).expand(2, -1)
    near = torch.allclose(product.detach().cpu(), means, rtol=2e-2)
    return near and (unpacked - matrix).abs().max().item() < 0.5


def quantized_layers(lm: Any) -> list[tuple[str, nn.Linear]]:
    """Return the layers that are quantized: all linear layers but the output projection.

    Args:
        lm: a Hugging Face causal LM that is not quantized.

    Returns:
        Names and layers.
    """
    head = lm.get_output_embeddings()
    return [(n, m) for n, m in lm.named_modules() if type(m) is nn.Linear and m is not head]


def loading_options(precision: str, device: torch.device) -> dict[str, Any]:
    """Return the arguments with which ``from_pretrained`` quantizes a model while loading it.

    All linear layers but the output projection are quantized, with double quantization. This
    happens on the device, layer by layer, so the unquantized model is never complete in memory.

    Args:
        precision: precision of the Trainer.
        device: device of the model.

    Returns:
        Keyword arguments.
    """
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=COMPUTE[precision],
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def settle(lm: nn.Module) -> None:
    """Prevent bitsandbytes from packing weights again.

    On CPUs with bf16 instructions, bitsandbytes would pack them again in the first forward in eval
    mode, with rounded scales, for an operation without gradient. Training after that would silently
    be wrong.

    Args:
        lm: quantized model that was just loaded.
    """
    for _, layer in _packed_layers(lm):
        layer.support_avx512bf16_for_cpu = False


@torch.no_grad()
def dequantize_into(target: nn.Module, lm: nn.Module) -> None:
    """Copy the dequantized weights of a quantized model into an unquantized one.

    Args:
        target: the same model, not quantized, without adapters.
        lm: quantized model, with or without adapters.
    """
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in _packed_layers(lm):
        weight = layer.weight
        values: Tensor = dequantize_4bit(weight.data, weight.quant_state)
        target.get_submodule(name.replace(".base_layer", "")).weight.copy_(values)  # type: ignore[operator]


def _packed_layers(lm: nn.Module) -> Iterator[tuple[str, Any]]:
    from bitsandbytes.nn import Linear4bit

    for name, module in lm.named_modules():
        if isinstance(module, Linear4bit):
            yield name, module


def packed_sizes(weights: int) -> tuple[int, int, int]:
    """Return the sizes of a packed matrix.

    Args:
        weights: number of weights of the matrix.

    Returns:
        Bytes of packed weights, number of scales of one byte, and number of fp32 values:
        second-level scales, the 16 values of NF4, the 256 values of a scale, and their mean.
    """
    scales = math.ceil(weights / BLOCK)
    return math.ceil(weights / 2), scales, math.ceil(scales / BLOCK_OF_SCALES) + 16 + 256 + 1
