"""Learning-rate schedules of one stage, as factors of the peak learning rate of the stage."""

import math
from collections.abc import Callable
from typing import Literal

ScheduleName = Literal["wsd", "cosine", "constant"]


def _ramp(share: float, total_steps: int) -> int:
    """Return the length of a ramp in steps: at least 1 for a positive share, else 0."""
    return max(1, round(share * total_steps)) if share > 0 else 0


def wsd(step: int, total_steps: int, warmup: float = 0.02, decay: float = 0.02) -> float:
    """Return the factor of warm-up, stable, decay: linear up, flat, linear down.

    Args:
        step: the next optimizer step, 0-based.
        total_steps: optimizer steps of the stage.
        warmup: share of warm-up steps, between 0 and 1.
        decay: share of decay steps, between 0 and 1.

    Returns:
        Factor in (0, 1]. No step has factor 0: the ramps are ``1/(n+1) ... n/(n+1)``.

    Source: Hu et al. 2024, arXiv 2404.06395; shares of 2 % as in arXiv 2510.16629.
    """
    up, down = _ramp(warmup, total_steps), _ramp(decay, total_steps)
    rising = (step + 1) / (up + 1) if step < up else 1.0
    left = total_steps - step
    falling = left / (down + 1) if left <= down else 1.0
    return min(rising, falling)


def cosine(step: int, total_steps: int, warmup: float = 0.02) -> float:
    """Return the factor of a linear warm-up and half a cosine, which ends just above zero.

    Args:
        step: the next optimizer step, 0-based.
        total_steps: optimizer steps of the stage.
        warmup: share of warm-up steps, between 0 and 1.

    Returns:
        Factor in (0, 1].
    """
    up = _ramp(warmup, total_steps)
    if step < up:
        return (step + 1) / (up + 1)
    progress = (step - up) / max(1, total_steps - up)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def constant(step: int, total_steps: int) -> float:
    """Return 1.0, the factor of the peak learning rate, at every step.

    Args:
        step: the next optimizer step, 0-based; has no effect.
        total_steps: optimizer steps of the stage; has no effect.

    Returns:
        1.0
    """
    return 1.0


def schedule(
    name: ScheduleName, total_steps: int, warmup: float, decay: float
) -> Callable[[int], float]:
    """Return the factor as a function of the step, for ``torch.optim.lr_scheduler.LambdaLR``.

    Args:
        name: "wsd", "cosine" or "constant".
        total_steps: optimizer steps of the stage.
        warmup: share of warm-up steps (wsd, cosine).
        decay: share of decay steps (wsd).

    Returns:
        ``step -> factor``.
    """
    if name == "wsd":
        return lambda step: wsd(step, total_steps, warmup, decay)
    if name == "cosine":
        return lambda step: cosine(step, total_steps, warmup)
    return lambda step: constant(step, total_steps)
