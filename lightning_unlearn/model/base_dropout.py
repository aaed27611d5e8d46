"""Dropout and other noise of the base model itself, switched off in training too.

Masks are drawn forward by forward, so with them a loss would depend on how a batch is cut. Dropout
of the adapters is a setting of its own (``model.lora.dropout``).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn

# Names of settings across the causal LMs of transformers: resid_pdrop, attention_dropout,
# dropout_rate, activation_dropout, layerdrop, drop_path_rate, router_jitter_noise, moe_jitter_eps.
_NOISE = re.compile(r"dropout|pdrop|layerdrop|drop_path|drop_rate|drop_prob|jitter")
# Of heads that a causal LM does not have.
_ELSEWHERE = re.compile(r"classifier|summary|pooler")
_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

# Samples experts in training.
_SAMPLES = "phimoe"

Settings = dict[tuple[str, ...], float]


def switch_off(config: Any) -> Settings:
    """Set the dropout of a model's configuration to zero.

    Args:
        config: of transformers; changed, with the configurations in it.

    Returns:
        What it was, where it was not zero, by attribute and the attributes it is in.
    """
    found: Settings = {}
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            found |= {(name, *place): rate for place, rate in switch_off(value).items()}
        elif _is_noise(config, name) and _is_rate(value):
            setattr(config, name, type(value)(0))
            found[name,] = value
    return found


def _is_noise(config: Any, name: str) -> bool:
    if name == "router_jitter_noise" and config.model_type == _SAMPLES:
        # Its routers use the number in evaluation too.
        return False
    return bool(_NOISE.search(name)) and not _ELSEWHERE.search(name)


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def silence(lm: nn.Module) -> list[str]:
    """Set dropout to zero that a model has in spite of its configuration.

    Args:
        lm: without adapters, whose dropout is not the base's.

    Returns:
        Names of the layers.
    """
    found = [(n, m) for n, m in lm.named_modules() if isinstance(m, _MODULES) and m.p > 0]
    for _, layer in found:
        layer.p = 0.0
    for module in lm.modules():
        if "router_jitter_noise" in vars(module) and _SAMPLES in type(module).__name__.lower():
            module.eval()
            module.train = MethodType(_stay, module)  # type: ignore[method-assign]
    return [name for name, _ in found]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of ``train`` of a module that draws random numbers there: stay in eval mode."""
    return module


@contextmanager
def as_it_was(config: Any, settings: Settings) -> Iterator[None]:
    """The time during which a configuration has its dropout back, to be written.

    Args:
        config: of the model.
        settings: from `switch_off`.
    """
    _put(config, settings)
    try:
        yield
    finally:
        _put(config, dict.fromkeys(settings, 0.0))


def _put(config: Any, settings: Settings) -> None:
    for (*place, name), rate in settings.items():
        owner = config
        for part in place:
            owner = getattr(owner, part)
        setattr(owner, name, type(rate)(rate))


def remark(base: str, settings: Settings) -> list[str]:
    """What is said of it, once.

    Args:
        base: name of the model.
        settings: from `switch_off`.

    Returns:
        One sentence, or none.
    """
    if not settings:
        return []
    rates = ", ".join(f"{'.'.join(place)} {rate:g}" for place, rate in sorted(settings.items()))
    return [
        f"model.base: {base} has dropout of its own ({rates}), which is set to zero: with it "
        "results would depend on the micro-batch. Adapters have their own: model.lora.dropout."
    ]
