"""Which implementation of attention can be used where, and a fused one in every precision."""

import importlib.util
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.errors import InputError

FLASH = "flash_attention_"
# The packages that transformers takes them from.
PACKAGES = {"2": "flash_attn", "3": "flash_attn_interface"}


def check_attention(
    name: str, precision: str, device: torch.device, trust_remote_code: bool
) -> None:
    """Refuse an implementation of attention that would fail at the first forward, or be replaced.

    Where a package of flash attention is missing, transformers may take code from the hub instead.

    Args:
        name: of transformers, such as "sdpa".
        precision: of the Trainer.
        device: of this process.
        trust_remote_code: run code that comes from the hub.

    Raises:
        InputError: naming what is missing.
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
            f"{found}, but the package {package} is not installed, expected sdpa, which needs "
            "none and runs PyTorch's own flash attention on a GPU; or install it "
            "(pip install flash-attn --no-build-isolation for version 2)."
        )
    if precision in ("32-true", "64-true"):
        raise InputError(
            f"{found} with trainer.precision {precision}, but it computes in 16 bits only, "
            "expected trainer.precision bf16-true or bf16-mixed, or model.attn_implementation sdpa."
        )


class _Plain:
    """Stands for a module whose heads share no keys."""


_PLAIN = _Plain()


def fuse_in_fp32(lm: Any) -> None:
    """Keep a GPU from forming all attention scores in fp32 where several heads share keys.

    Of PyTorch's fused kernels for a GPU those that let heads share keys take 16 bits only, and the
    one that takes fp32 does not let them. With keys and values repeated it can be used, and the
    scores of every layer need not be kept for the backward pass. Else this is PyTorch's own.

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
        lm: as of `fuse_in_fp32`.
    """

    def no_mask(*_: Any, **__: Any) -> None:
        # transformers makes one for tensors without memory, which it takes for a traced program.
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
    """Attention as of transformers' interface."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    # With a mask transformers repeats keys itself.
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
