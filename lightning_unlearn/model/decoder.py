"""The decoder of a causal LM, and its layers."""

from typing import Any

from torch import nn

from lightning_unlearn.errors import InputError


def decoder_of(lm: Any) -> Any:
    """Return the decoder of a causal LM, which computes hidden states.

    Args:
        lm: a Hugging Face causal LM, with or without PEFT layers. Some models return themselves or
            their output projection from ``get_decoder``.

    Returns:
        The decoder; the model itself if it has no separate decoder.
    """
    found = (lm.get_decoder(), lm.base_model, getattr(lm, "model", None))
    return next((m for m in found if m is not lm and hasattr(m, "get_input_embeddings")), lm)


def decoder_layers(lm: Any, names: list[str] | None = None) -> list[nn.Module]:
    """Return the decoder layers, which are sharded and compiled one by one.

    Args:
        lm: a Hugging Face causal LM.
        names: class names of the layers; None for the classes in the model's ``_no_split_modules``,
            or else the longest list of modules in its decoder.

    Returns:
        The layers in order.

    Raises:
        InputError: if there are none.
    """
    wanted = set(names or getattr(lm, "_no_split_modules", None) or ())
    layers = [module for module in lm.modules() if type(module).__name__ in wanted]
    if names is None and not layers:
        lists = [m for m in decoder_of(lm).modules() if isinstance(m, nn.ModuleList)]
        layers = max((list(found) for found in lists), key=len, default=[])
    if not layers:
        found = f"found no module of the class {', '.join(names)}" if names else "found no layers"
        classes = sorted({type(m).__name__ for m in lm.modules() if "Layer" in type(m).__name__})
        raise InputError(
            f"trainer.strategy: {found} in this model, expected its decoder layers. Name "
            "their class in init_args.layer_classes of FSDP2; among its modules are "
            f"{', '.join(classes)}."
        )
    return layers
