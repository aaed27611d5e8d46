"""Values of an oracle that is a model of its own: measured once, before training."""

import gc
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.oracle_states import OracleHead
from lightning_unlearn.monitors.oracle_view import OracleView, RecordedView
from lightning_unlearn.monitors.view import EXTERNAL, ORACLE_MODEL
from lightning_unlearn.storage.callback_identity import callback_identity
from lightning_unlearn.training.oracle_model import OracleModel, about_oracle
from lightning_unlearn.training.stage_trainer import StageTrainer


def check_oracle(trainer: StageTrainer, model: CausalLM, data: StagedDataModule) -> None:
    """Refuse an oracle that cannot be compared with the model of a run.

    Args:
        trainer: the trainer of the run.
        model: the module.
        data: stages and path, with their rows loaded.

    Raises:
        InputError: for a wrong setting that the user can correct.
    """
    if trainer.oracle is None:
        model.remembered.pop(ORACLE_MODEL, None)
        return
    if data.oracle:
        raise InputError(
            f"data.oracle: found true with oracle.base {trainer.oracle.base}, expected one of the "
            "two. Set data.oracle to false to compare with that model, or remove oracle to train "
            "an oracle."
        )
    oracle_of(trainer, model).check(trainer, model, data)


def oracle_of(trainer: StageTrainer, model: CausalLM) -> OracleModel:
    """Return the oracle that is a model of its own; the model remembers it.

    Args:
        trainer: a trainer with such an oracle.
        model: the module.

    Raises:
        InputError: if there is no such model.
    """
    assert trainer.oracle is not None, "callers check it"
    known: OracleModel | None = model.remembered.get(ORACLE_MODEL)
    if known is None or known.settings != trainer.oracle:
        known = model.remembered[ORACLE_MODEL] = OracleModel(trainer.oracle, model.settings)
    return known


def oracle_identity(trainer: StageTrainer, model: CausalLM) -> dict[str, Any] | None:
    """Return what the values of the oracle depend on; None if it is no model of its own.

    Args:
        trainer: the trainer of the run.
        model: the module.
    """
    if trainer.oracle is None or not _compares(trainer):
        return None
    return oracle_of(trainer, model).identity()


def oracle_notes(trainer: StageTrainer, model: CausalLM) -> list[str]:
    """Return what the user should know about the oracle, as sentences; after `check_oracle`.

    Args:
        trainer: the trainer of the run.
        model: the module.
    """
    if trainer.oracle is None:
        return []
    found = oracle_of(trainer, model).notes(model)
    if not _compares(trainer):
        found.append(
            f"oracle.base: {trainer.oracle.base} is not loaded, because no monitor compares with "
            "the oracle; OracleDistance, TOFU and Membership do."
        )
    return found


def _compares(trainer: StageTrainer) -> bool:
    return any(monitor.uses_oracle for monitor in trainer.monitors)


def measure_oracle(trainer: StageTrainer, model: CausalLM, data: StagedDataModule) -> None:
    """Load the oracle, record all values that monitors request of it, and free it.

    The model remembers the values under `EXTERNAL`. They are recorded again if something that
    they depend on has changed since.

    Args:
        trainer: the trainer of the run.
        model: the module; its weights leave the device meanwhile, unless it is sharded.
        data: stages and path, with their rows loaded.

    Raises:
        InputError: if the oracle cannot be used.
    """
    assert trainer.oracle is not None, "callers check it"
    monitors = [monitor for monitor in trainer.monitors if monitor.uses_oracle]
    requests = trainer.requests(data, None, 1)
    conditions = [
        asdict(trainer.oracle),
        sorted(data.path),
        [callback_identity(monitor) for monitor in monitors],
        frozenset(requests),
    ]
    known: RecordedView | None = model.remembered.get(EXTERNAL)
    if known is not None and known.data is data and known.conditions == conditions:
        return
    model.remembered.pop(EXTERNAL, None)
    oracle, name = oracle_of(trainer, model), trainer.oracle.base
    drafts = trainer.store.folder / "drafts"
    drafts.mkdir(parents=True, exist_ok=True)
    trainer.messages.info(f"oracle: loading {name} ...")
    model.cpu()

    def record(module: CausalLM) -> RecordedView:
        view = OracleView(module, data, {}, requests, drafts)
        for monitor in monitors:
            monitor.measure_oracle(view)
        view.record_states()
        return view.release(model)

    view = _evaluate(trainer, model, oracle.open(), record)
    view.conditions = conditions
    model.remembered[EXTERNAL] = view
    if trainer.is_global_zero:
        trainer.messages.warn(_kept(name, view, trainer))


def _evaluate(
    trainer: StageTrainer,
    model: CausalLM,
    module: CausalLM,
    record: Callable[[CausalLM], RecordedView],
) -> RecordedView:
    """Record values of an oracle in a Lightning validation, and free it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    recorder = _Recorder(record)
    trainer.callbacks = [recorder]  # type: ignore[attr-defined]
    try:
        with about_oracle():
            trainer.evaluate_once(module)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        # Lightning refers to the module until its next fit.
        module.close()
        trainer.strategy.connect(model)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    assert recorder.view is not None, "a validation has run"
    return recorder.view


class _Recorder(Callback):
    """Records the values of the oracle in a Lightning validation."""

    def __init__(self, record: Callable[[CausalLM], RecordedView]) -> None:
        self._record = record
        self.view: RecordedView | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CausalLM)
        self.view = self._record(pl_module)


def _kept(name: str, view: RecordedView, trainer: StageTrainer) -> str:
    """Describe the memory that the oracle's values take."""
    text = f"oracle: measured {name}, which is in memory no more."
    if isinstance(view.head, OracleHead):
        text += (
            f" Kept for the KL: {view.mapped / 2**20:.1f} MiB of hidden states on the disk of "
            f"{trainer.store.folder}, mapped into memory, and {view.head.size / 2**20:.1f} MiB of "
            f"output projection{', per process' if trainer.world_size > 1 else ''}."
        )
    return text
