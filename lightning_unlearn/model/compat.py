"""Names that differ between supported versions of libraries: the one place that knows them."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def cache_arguments(module: Any, cache: Any) -> dict[str, Any]:
    """Return the keyword arguments that pass a cache to a model's forward.

    transformers 5.24 renamed ``past_key_values`` to ``cache``; the older name warns from then on
    and goes in 5.40. Models of other origin may keep the older name, so the signature decides.

    Args:
        module: a Hugging Face model or decoder.
        cache: of transformers; None for none.
    """
    if cache is None:
        return {"use_cache": False}
    known = inspect.signature(module.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache, "use_cache": True}


def enable_gradient_checkpointing(hf_model: Any) -> None:
    """Recompute activations of decoder layers in the backward pass.

    In the non-reentrant form: the reentrant one gives adapters on a frozen embedding no gradient.
    transformers renamed the method within its version 5 and warns about the older name.
    """
    newer = getattr(hf_model, "activation_checkpointing_enable", None)
    (newer or hf_model.gradient_checkpointing_enable)({"use_reentrant": False})


def compute_experts_in_fp64(hf_model: Any) -> None:
    """Have a mixture of experts computed expert by expert.

    The grouped matrix products that transformers takes by default know no fp64.
    """
    choose = getattr(hf_model, "set_experts_implementation", None)
    if choose is not None:
        choose("eager")


def clip_gradients(parameters: Sequence[Tensor], most: float) -> None:
    """Scale gradients in place so that the norm of all of them together is at most so large.

    As `torch.nn.utils.clip_grad_norm_`, which in PyTorch 2.9 rounds the factor of gradients that
    are shared out over processes to fp32, whatever their type.

    Args:
        parameters: may be without a gradient.
        most: the largest norm.
    """
    from torch.distributed.tensor import DTensor

    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    clip_grads_with_norm_(parameters, most, norm)


def reduced_fp32_products() -> dict[str, str]:
    """Return where this process computes products of fp32 matrices in fewer bits, and how.

    PyTorch 2.9 replaced ``get_float32_matmul_precision`` and ``allow_tf32`` by these settings and
    warns about the older names.

    Returns:
        Such as ``{"cuda": "tf32"}``; empty where all products are computed in fp32.
    """
    backends: Any = torch.backends
    settings = {
        "all": backends.fp32_precision,
        "cuda": backends.cuda.matmul.fp32_precision,
        "mkldnn": backends.mkldnn.matmul.fp32_precision,
    }
    return {name: value for name, value in settings.items() if value not in ("none", "ieee")}
