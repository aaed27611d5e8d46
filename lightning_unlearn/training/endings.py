"""Why a stage ends before its last step, and whether it is finished then.

Only a rule whose every part is in the stage's key finishes it: another run with the same key ends
it at the same step. A clock, a signal, or a ``should_stop`` that anything may have set does not.
"""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, Timer

from lightning_unlearn.data.datamodule import UNLEARN
from lightning_unlearn.distributed.processes import Requeued
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.signals import ENDS
from lightning_unlearn.training.stage_trainer import StageTrainer


def rule_that_ends(trainer: StageTrainer, module: CausalLM) -> str | None:
    """The rule that ends the present stage after the step that was just made.

    Args:
        trainer: of the stage; its method may have a rule, and EarlyStopping may have decided.
        module: in the stage.

    Returns:
        The same sentence on all processes, or None.
    """
    for callback in trainer.run_callbacks.others:
        if isinstance(callback, EarlyStopping) and _has_decided(callback):
            why = " ".join(str(callback.stopping_reason_message or "").split())
            return f"EarlyStopping: {why.removesuffix(' Signaling Trainer to stop.')}"
    method = trainer.method
    if module.stage != UNLEARN or method is None or not method.may_stop:
        return None
    reason: str | None = trainer.strategy.broadcast(method.stop(module))
    return f"{method.name}: {reason}" if reason is not None else None


def _has_decided(callback: EarlyStopping) -> bool:
    reason: Any = callback.stopping_reason
    return reason is not type(reason).NOT_STOPPED


def measure_the_end(trainer: StageTrainer, module: CausalLM) -> None:
    """Have monitors evaluate the model where a stage ends that was to go on.

    Args:
        trainer: of the stage.
        module: after its last step.
    """
    if module.stage != UNLEARN or trainer.results is None:
        return
    for monitor in trainer.monitors:
        if not monitor.is_due(module.step, module.total_steps):
            monitor.evaluate(trainer.results, module, module.step)


def cause_of_stop(trainer: StageTrainer) -> str:
    """What stopped a stage that is not finished, in words."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Timer):
            left = callback.time_remaining()
            if left is not None and left <= 0:
                return "because the Timer's duration is over"
    return (
        "because something set trainer.should_stop; a rule that finishes a stage is EarlyStopping, "
        "or the method's own `stop`"
    )


def place_of_stop(
    names: Sequence[str], number: int, module: CausalLM, kept: str, cause: str = ""
) -> str:
    """Where a run of a path was stopped, in words.

    Args:
        names: of its stages.
        number: of the stage that was stopped, from 0.
        module: knows the step.
        kept: what is kept of the stage.
        cause: what stopped it, if that is to be said.
    """
    done = ", ".join(names[:number]) or "none"
    return (
        f"in stage {names[number]} at step {module.step} of "
        f"{module.total_steps}{cause and f', {cause}'}; {kept}. "
        f"Stored stages of this path: {done}."
    )


def stopped(number: int, where: str) -> KeyboardInterrupt:
    """What ends the command, with a message of how to go on."""
    kind = ENDS.get(number, Requeued)
    return kind(told(where))


def told(where: str) -> str:
    """The message of a stop, with how to go on."""
    return f"stopped {where} The same command goes on from there."
