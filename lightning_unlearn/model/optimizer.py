"""Optimizer and learning rate schedule of a stage, as its recipe says."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.distributed.state_files import restore_optimizer
from lightning_unlearn.schedules import schedule


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Make a fresh optimizer of the trainable ones among some parameters."""
    trained = [p for p in parameters if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(
        trained, recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
    )


def make_scheduler(
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    total_steps: int,
    done: int = 0,
    state: dict[str, Any] | None = None,
) -> LambdaLR:
    """Make the schedule of a stage's learning rate; resume it from a checkpoint.

    Args:
        optimizer: fresh; gets the state.
        recipe: recipe of the stage.
        total_steps: optimizer steps of the stage.
        done: optimizer steps that the checkpoint has behind it.
        state: state of the checkpoint's optimizer; None to start at step 0.
    """
    factor = schedule(recipe.schedule, total_steps, recipe.warmup, recipe.decay)
    scheduler = LambdaLR(optimizer, factor)
    if state is not None:
        restore_optimizer(optimizer, state)
        scheduler.last_epoch = done
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * factor(done)
    return scheduler
