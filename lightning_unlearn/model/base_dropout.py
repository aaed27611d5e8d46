"""Switch off dropout and other noise of the base model, in training too.

Each forward draws its own masks, so with dropout a loss would depend on the micro-batch size. The
adapters have their own dropout (``model.lora.dropout``).
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
# Settings of heads that a causal LM does not have.
_OTHER_HEADS = re.compile(r"classifier|summary|pooler")
_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

# This model type samples experts in training.
_SAMPLING_MODEL = "phimoe"

Settings = dict[tuple[str, ...], float]


def switch_off(config: Any) -> Settings:
    """Set the dropout of a model's configuration to zero.

    Args:
        config: configuration of transformers; it is modified, with all configurations inside it.

    Returns:
        Earlier rates that were not zero, by path: attributes that lead to the rate.
    """
    found: Settings = {}
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            found |= {(name, *path): rate for path, rate in switch_off(value).items()}
        elif _is_noise(config, name) and _is_rate(value):
            setattr(config, name, type(value)(0))
            found[name,] = value
    return found


def _is_noise(config: Any, name: str) -> bool:
    if name == "router_jitter_noise" and config.model_type == _SAMPLING_MODEL:
        # The routers of this model use the number in evaluation too.
        return False
    return bool(_NOISE.search(name)) and not _OTHER_HEADS.search(name)


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def silence(lm: nn.Module) -> list[str]:
    """Set dropout layers to zero that do not follow the configuration.

    Args:
        lm: a model without adapters, which have their own dropout.

    Returns:
        Names of the layers.
    """
    found = [(n, m) for n, m in lm.named_modules() if isinstance(m, _MODULES) and m.p > 0]
    for _, layer in found:
        layer.p = 0.0
    for module in lm.modules():
        sampler = _SAMPLING_MODEL in type(module).__name__.lower()
        if "router_jitter_noise" in vars(module) and sampler:
            module.eval()
            module.train = MethodType(_stay_in_eval, module)  # type: ignore[method-assign]
    return [name for name, _ in found]


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replace ``train`` of a module that draws random numbers in training: stay in eval mode."""
    return module


@contextmanager
def as_it_was(config: Any, settings: Settings) -> Iterator[None]:
    """Restore the dropout of a configuration within the context, in order to save it.

    Args:
        config: configuration of the model.
        settings: from `switch_off`.
    """
    _set_rates(config, settings)
    try:
        yield
    finally:
        _set_rates(config, dict.fromkeys(settings, 0.0))


def _set_rates(config: Any, settings: Settings) -> None:
    for (*path, name), rate in settings.items():
        owner = config
        for attribute in path:
            owner = getattr(owner, attribute)
        setattr(owner, name, type(rate)(rate))


def remark(base: str, settings: Settings) -> list[str]:
    """Return a note for the user about dropout that was switched off.

    Args:
        base: name of the model.
        settings: from `switch_off`.

    Returns:
        A list of one sentence; [] if nothing was switched off.
    """
    if not settings:
        return []
    rates = ", ".join(f"{'.'.join(path)} {rate:g}" for path, rate in sorted(settings.items()))
    return [
        f"model.base: {base} has dropout ({rates}), which is set to zero: with it, results would "
        "depend on the micro-batch size. Adapters have their own dropout: model.lora.dropout."
    ]
