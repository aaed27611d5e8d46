"""A base in NF4, four bits a weight (QLoRA, arXiv 2305.14314): where it can be had, and how."""

import math
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from packaging.version import Version
from torch import Tensor, nn

from lightning_unlearn.errors import InputError

# The oldest that transformers takes.
OLDEST = "0.46.1"
INSTALL = 'pip install "lightning-unlearn[bitsandbytes]"'
# What matrix products are computed in, by the Trainer's precision.
COMPUTE = {
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "32-true": torch.float32,
}
# Weights that share a scale, and scales that share one: those of the paper and of bitsandbytes.
BLOCK, BLOCK_OF_SCALES = 64, 256


def check_base(quantization: str | None, base: str, config: Any, has_adapters: bool) -> None:
    """Refuse a base that can't be quantized, or is already.

    Args:
        quantization: "nf4", or None.
        base: name of the model.
        config: its configuration.
        has_adapters: whether adapters are trained, and not the base.

    Raises:
        InputError: naming the key.
    """
    if quantization not in (None, "nf4"):
        raise InputError(f"model.quantization: found {quantization!r}, expected nf4 or null.")
    if (stored := getattr(config, "quantization_config", None)) is not None:
        values = stored if isinstance(stored, dict) else stored.to_dict()
        raise InputError(
            f"model.base: found {base}, whose weights are stored quantized "
            f"({values.get('quant_method', 'by an unnamed method')}), expected weights as they "
            "were trained. Name the model it was made from; model.quantization: nf4 quantizes that "
            "when it is opened."
        )
    if quantization is not None and not has_adapters:
        raise InputError(
            "model.quantization: found nf4 with model.lora null, expected adapters: weights of 4 "
            "bits can't be trained. Set model.lora, or model.quantization to null."
        )


def check_quantization(lm: Any, precision: str, strategy: Any) -> None:
    """Refuse NF4 where it can't be computed with.

    Args:
        lm: the Hugging Face model, which may be without memory.
        precision: of the Trainer.
        strategy: of the Trainer; its device is tried out.

    Raises:
        InputError: naming what is in the way.
    """
    check_precision(precision)
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise of_strategy(type(strategy).__name__)
    _check_package()
    widths = (layer.in_features for _, layer in quantized_layers(lm))
    _try_out(widths, COMPUTE[precision], strategy.root_device)


def check_precision(precision: str) -> None:
    """Refuse a precision that bitsandbytes does not compute in.

    Args:
        precision: of the Trainer.

    Raises:
        InputError: naming it.
    """
    if precision not in COMPUTE:
        raise InputError(
            f"trainer.precision: found {precision} with model.quantization: nf4, expected one of "
            f"{', '.join(COMPUTE)}."
        )


def of_strategy(name: str) -> InputError:
    """What is said of a strategy under which a base can't be quantized."""
    return InputError(
        f"model.quantization: found nf4 with the strategy {name}, expected one device, or "
        "trainer.strategy: ddp. Packed weights and their scales can't be cut up by rows. For a "
        "model too large for one GPU even so, take fsdp2 with model.quantization: null and "
        "trainer.precision: bf16-true."
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
    """Pack matrices of a few rows: bitsandbytes does not say what it can do where."""
    found = f"found nf4 on the device {device}, where bitsandbytes {version('bitsandbytes')}"
    try:
        wrong = [width for width in sorted(set(widths)) if not _is_right(width, compute, device)]
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"model.quantization: {found} can't compute: {lines[0]} Expected a CUDA GPU, or "
            "another device that it knows (https://huggingface.co/docs/bitsandbytes). Else set "
            "model.quantization to null."
        ) from error
    if wrong:
        columns = ", ".join(map(str, wrong))
        raise InputError(
            f"model.quantization: {found} gets matrices of {columns} columns wrong, expected a "
            "CUDA GPU, or another version: on CPUs 0.46 to 0.48 take any number of columns, 0.49 "
            "and 0.50 multiples of 64. Else set model.quantization to null."
        )


def _is_right(width: int, compute: torch.dtype, device: torch.device) -> bool:
    """Whether a matrix of so many columns comes back as it was packed, and is multiplied so."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    # What the layer starts with is drawn at random.
    with torch.random.fork_rng(devices=[]):
        layer = Linear4bit(width, 16, bias=False, compute_dtype=compute, quant_type="nf4")
    # Alike within a block, and from block to block further apart than rounding brings them.
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
    """The layers of a model that are quantized: all linear ones but the output projection.

    Args:
        lm: a Hugging Face causal LM that is not quantized.
    """
    head = lm.get_output_embeddings()
    return [(n, m) for n, m in lm.named_modules() if type(m) is nn.Linear and m is not head]


def loading_options(precision: str, device: torch.device) -> dict[str, Any]:
    """How ``from_pretrained`` quantizes a model while it reads it.

    All linear layers but the output projection, with double quantization. On the device itself,
    layer by layer, so that neither it nor the computer's memory ever holds the whole model.

    Args:
        precision: of the Trainer.
        device: where the model is to be.

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


def keep_packed(lm: nn.Module) -> None:
    """Keep packed weights as they are, whatever is done with the model.

    On CPUs with bf16 instructions bitsandbytes would pack them anew in the first forward in eval
    mode, with scales rounded further, for an operation that gives no gradient: training after it
    would silently go wrong.

    Args:
        lm: just opened.
    """
    for _, layer in _packed_layers(lm):
        layer.support_avx512bf16_for_cpu = False


@torch.no_grad()
def dequantize_into(target: nn.Module, lm: nn.Module) -> None:
    """Give a model the weights that a quantized one computes with.

    Args:
        target: the same model, not quantized, without adapters.
        lm: quantized, with adapters or without.
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
    """What is stored of a matrix.

    Args:
        weights: how many it has.

    Returns:
        Bytes of packed weights, scales of one byte, and numbers in fp32: scales of the scales, the
        16 values of NF4, the 256 values of a scale, and their mean.
    """
    scales = math.ceil(weights / BLOCK)
    return math.ceil(weights / 2), scales, math.ceil(scales / BLOCK_OF_SCALES) + 16 + 256 + 1
