"""Check the attention implementation, and use a fused one in every precision."""

import importlib.util
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.errors import InputError

FLASH = "flash_attention_"
# The packages in which transformers finds flash attention, by version.
PACKAGES = {"2": "flash_attn", "3": "flash_attn_interface"}


def check_attention(
    name: str, precision: str, device: torch.device, trust_remote_code: bool
) -> None:
    """Refuse an attention implementation that would fail at the first forward, or be replaced.

    If a package of flash attention is missing, transformers may use code from the hub instead.

    Args:
        name: name of the implementation in transformers, such as "sdpa".
        precision: precision of the Trainer.
        device: device of this process.
        trust_remote_code: run code from the hub.

    Raises:
        InputError: with the reason.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    found = f"model.attn_implementation: found {name or repr(name)}"
    if "/" in name:
        if not trust_remote_code:
            raise InputError(
                f"{found}, which is code from the hub, expected sdpa, eager or "
                "flash_attention_2; or set model.trust_remote_code: true to run it."
            )
        return
    known = sorted({"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()})
    if name not in known:
        usual = [n for n in known if not n.startswith("paged")]
        raise InputError(f"{found}, expected one of {', '.join(usual)}.")
    if not name.startswith((FLASH, "flex")):
        return
    if device.type == "cpu":
        raise InputError(f"{found}, which runs on a GPU only, expected sdpa or eager on a CPU.")
    if not name.startswith(FLASH):
        return
    package = PACKAGES.get(name.removeprefix(FLASH))
    if package is None:
        versions = " or ".join(FLASH + version for version in PACKAGES)
        raise InputError(f"{found}, expected sdpa, {versions}.")
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"{found}, but the package {package} is not installed, expected sdpa, which runs "
            "PyTorch's own flash attention on a GPU without a package; or install it "
            "(pip install flash-attn --no-build-isolation for version 2)."
        )
    if precision in ("32-true", "64-true"):
        raise InputError(
            f"{found} with trainer.precision {precision}, but it computes in 16 bits only, "
            "expected trainer.precision bf16-true or bf16-mixed, or model.attn_implementation sdpa."
        )


class _Plain:
    """Replaces a module, so that transformers sees heads that share no keys."""


_PLAIN = _Plain()


def fuse_in_fp32(lm: Any) -> None:
    """Use a fused attention kernel on a GPU in fp32 also if several heads share keys.

    PyTorch's fused GPU kernels for shared keys accept only 16 bits, and its fused kernel for fp32
    does not accept shared keys. This function repeats keys and values, so that the fp32 kernel can
    be used. Then the attention scores of the layers need not be stored for the backward pass. In
    all other cases PyTorch's own attention is used.

    Args:
        lm: a Hugging Face causal LM with the attention "sdpa".
    """
    from transformers.masking_utils import sdpa_mask

    config = lm.config.get_text_config()
    heads = config.num_attention_heads
    if (getattr(config, "num_key_value_heads", None) or heads) != heads:
        _register(lm, "sdpa_fused", _attend, sdpa_mask)


def fuse_as_gpu(lm: Any) -> None:
    """Compute attention on the CPU as `fuse_in_fp32` does on a GPU, for sequences without padding.

    Args:
        lm: see `fuse_in_fp32`.
    """

    def no_mask(*_: Any, **__: Any) -> None:
        # For meta tensors transformers would create a mask, as in a traced program.
        return None

    _register(lm, "sdpa_fused_as_gpu", partial(_attend, as_gpu=True), no_mask)


def _register(lm: Any, name: str, function: Any, mask: Any) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)
    lm.set_attn_implementation(name)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    as_gpu: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention with the interface of transformers."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    # If there is a mask, transformers itself repeats the keys.
    needs_copies = (as_gpu or query.is_cuda) and query.dtype == torch.float32
    if needs_copies and attention_mask is None:
        groups = getattr(module, "num_key_value_groups", 1)
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        if options.get("is_causal") is None:
            options["is_causal"] = getattr(module, "is_causal", True)
        module = _PLAIN
    attended: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return attended
