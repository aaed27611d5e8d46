"""Differences between the supported versions of libraries. No other module has such code."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def cache_arguments(module: Any, cache: Any) -> dict[str, Any]:
    """Return the keyword arguments that pass a cache to a model's forward.

    transformers 5.24 renamed ``past_key_values`` to ``cache``; since then the older name warns, and
    5.40 will remove it. Models with remote code may keep the older name, so the signature decides.

    Args:
        module: a Hugging Face model or decoder.
        cache: a cache of transformers; None for none.
    """
    if cache is None:
        return {"use_cache": False}
    known = inspect.signature(module.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache, "use_cache": True}


def enable_gradient_checkpointing(hf_model: Any) -> None:
    """Recompute activations of decoder layers in the backward pass.

    It uses the non-reentrant form: in the reentrant one, adapters on a frozen embedding get no
    gradient. transformers renamed the method within version 5 and warns about the older name.
    """
    newer = getattr(hf_model, "activation_checkpointing_enable", None)
    (newer or hf_model.gradient_checkpointing_enable)({"use_reentrant": False})


def compute_experts_in_fp64(hf_model: Any) -> None:
    """Compute a mixture of experts expert by expert.

    The grouped matrix products that transformers uses by default do not support fp64.
    """
    choose = getattr(hf_model, "set_experts_implementation", None)
    if choose is not None:
        choose("eager")


def check_all_guards() -> None:
    """Make compiled layers check all conditions of a program before they use it.

    PyTorch 2.9 has a shortcut that skips conditions of unchanged objects. On Python 3.13 it takes
    layers for unchanged whose active adapters have changed: unlearning used the program of
    training, without the adapter that it trains. Later versions switch the shortcut off.
    """
    settings: Any = torch._dynamo.config
    if hasattr(settings, "use_recursive_dict_tags_for_guards"):
        settings.use_recursive_dict_tags_for_guards = False


def clip_gradients(parameters: Sequence[Tensor], most: float) -> None:
    """Scale gradients in place so that their total norm is at most `most`.

    It does the same as `torch.nn.utils.clip_grad_norm_`. In PyTorch 2.9 that function rounds the
    factor of sharded gradients to fp32, for every dtype.

    Args:
        parameters: parameters, with or without a gradient.
        most: the largest norm.
    """
    from torch.distributed.tensor import DTensor

    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    clip_grads_with_norm_(parameters, most, norm)


def reduced_fp32_products() -> dict[str, str]:
    """Return the backends on which this process multiplies fp32 matrices in fewer bits.

    PyTorch 2.9 replaced ``get_float32_matmul_precision`` and ``allow_tf32`` by these settings and
    warns about the older names.

    Returns:
        Precision by backend, such as ``{"cuda": "tf32"}``; {} if all products are in fp32.
    """
    backends: Any = torch.backends
    settings = {
        "all": backends.fp32_precision,
        "cuda": backends.cuda.matmul.fp32_precision,
        "mkldnn": backends.mkldnn.matmul.fp32_precision,
    }
    return {name: value for name, value in settings.items() if value not in ("none", "ieee")}
