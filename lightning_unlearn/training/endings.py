"""Reasons for which a stage ends before its last step, and whether it counts as finished.

A rule finishes a stage only if all its settings are part of the stage's key. Another run with the
same key then ends the stage at the same step. A timer, a signal, or a ``should_stop`` set by
unknown code does not finish a stage.
"""

import signal
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, Timer

from lightning_unlearn.data.datamodule import UNLEARN
from lightning_unlearn.distributed.processes import Requeued
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.signals import ENDS
from lightning_unlearn.training.stage_trainer import StageTrainer


def rule_that_ends(trainer: StageTrainer, module: CausalLM, upto: int | None = None) -> str | None:
    """Find the rule that ends the current stage after the step that was just made.

    Args:
        trainer: the trainer of the stage. The rule is a decision of EarlyStopping, or the ``stop``
            of the unlearning method.
        module: the module during the stage.
        upto: step after which the stage ends, for a state inside a stage; None for none.

    Returns:
        A sentence that names the rule, the same on all processes; None if no rule ends the stage.
    """
    for callback in trainer.run_callbacks.others:
        if isinstance(callback, EarlyStopping) and _has_decided(callback):
            why = " ".join(str(callback.stopping_reason_message or "").split())
            return f"EarlyStopping: {why.removesuffix(' Signaling Trainer to stop.')}"
    if upto is not None and module.step >= upto:
        return f"the history of a path uses the model after step {upto}"
    method = trainer.method
    if module.stage != UNLEARN or method is None or not method.may_stop:
        return None
    reason: str | None = trainer.strategy.broadcast(method.stop(module))
    return f"{method.name}: {reason}" if reason is not None else None


def _has_decided(callback: EarlyStopping) -> bool:
    reason: Any = callback.stopping_reason
    return reason is not type(reason).NOT_STOPPED


def evaluate_early_end(trainer: StageTrainer, module: CausalLM) -> None:
    """Evaluate all monitors that are not due at the step where a rule ends unlearning early.

    Args:
        trainer: the trainer of the stage.
        module: the module after the last step that was made.
    """
    if module.stage != UNLEARN or trainer.results is None:
        return
    for monitor in trainer.monitors:
        if not monitor.is_due(module.step, module.total_steps):
            monitor.evaluate(trainer.results, module, module.step)


def cause_of_stop(trainer: StageTrainer) -> str:
    """Return the cause that stopped an unfinished stage, as a subordinate clause."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Timer):
            left = callback.time_remaining()
            if left is not None and left <= 0:
                return "because the duration of the Timer is over"
    return (
        "because a callback set trainer.should_stop (only EarlyStopping and the method's own "
        "`stop` finish a stage early)"
    )


def place_of_stop(
    names: Sequence[str], number: int, module: CausalLM, kept: bool | None, cause: str = ""
) -> str:
    """Describe where the run of a path was stopped.

    Args:
        names: names of the stages of the path.
        number: index of the stage that was stopped, counted from 0.
        module: the module, which counts the optimizer steps.
        kept: whether a checkpoint of the last step was written; None if only earlier checkpoints
            may exist.
        cause: what stopped the stage, as a clause; empty to leave it out.

    Returns:
        The words after "stopped", up to the full stop.
    """
    done = ", ".join(names[:number]) or "none"
    if kept is None:
        stored = "the steps since its last checkpoint are lost"
    elif kept:
        stored = f"a checkpoint of step {module.step} is stored"
    else:
        stored = "the steps of this stage are lost"
    return (
        f"in stage {names[number]} at step {module.step} of "
        f"{module.total_steps}{cause and f', {cause}'}; {stored}. "
        f"Stored stages of this path: {done}."
    )


def signal_of(stop: SystemExit, requeue: int | None) -> int | None:
    """Return the signal that ended a fit at once, and handle Ctrl-C by Python's own rule again.

    Args:
        stop: Lightning's exit.
        requeue: number of the signal that requeues the job; None for none.

    Returns:
        Number of the signal; None if another cause ended the fit.
    """
    cause = stop.__context__
    if not isinstance(cause, KeyboardInterrupt):
        return None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(cause, Requeued):
        return requeue or signal.SIGTERM
    return next((n for n, kind in ENDS.items() if type(cause) is kind), int(signal.SIGINT))


def stopped(number: int, where: str) -> KeyboardInterrupt:
    """Return the exception that ends the command after a signal.

    Args:
        number: number of the signal.
        where: result of `place_of_stop`.

    Returns:
        The exception; its message says how to resume.
    """
    kind = ENDS.get(number, Requeued)
    return kind(stop_message(where))


def stop_message(where: str) -> str:
    """Return the message of a stopped run, with the way to resume it."""
    return f"stopped {where} Run the same command again to resume."
