"""Checks of a run before anything is trained or written."""

from typing import Any

from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.distributed.strategy import (
    FSDP2,
    check_precision,
    check_strategy,
    data_share,
)
from lightning_unlearn.distributed.tensor_parallel import KEY
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.pretrained import load_tokenizer
from lightning_unlearn.settings.diagnosis import show
from lightning_unlearn.settings.folder_names import check_folder
from lightning_unlearn.storage.callback_identity import constructed
from lightning_unlearn.training.oracle_values import check_oracle
from lightning_unlearn.training.planned_stage import PlannedStage
from lightning_unlearn.training.stage_trainer import StageTrainer


def check_arguments(
    precision: str | int,
    plugins: Any,
    store: str,
    default_root_dir: str,
    run_name: str | None,
    snapshot_steps: int | None,
) -> None:
    """Refuse arguments of `StagedTrainer` that are wrong in every run.

    Args:
        precision: precision of the Trainer.
        plugins: plugins of the Trainer.
        store: folder of the stage store.
        default_root_dir: folder of the runs.
        run_name: folder of the run inside ``default_root_dir``; None for no such name.
        snapshot_steps: optimizer steps between two snapshots of a stage; None for none.

    Raises:
        InputError: naming the key.
    """
    if str(precision) in ("16-mixed", "16"):
        raise InputError(
            f"trainer.precision: found {precision}, expected bf16-mixed, bf16-true or 32-true: "
            "16-mixed would carry its loss scale from stage to stage."
        )
    for key, folder in (("store", store), ("default_root_dir", default_root_dir)):
        check_folder(folder, f"trainer.{key}")
    if run_name is not None:
        check_folder(run_name, "trainer.run_name")
    if snapshot_steps is not None and snapshot_steps < 1:
        raise InputError(
            f"trainer.snapshot_steps: found {snapshot_steps}, expected at least 1, or null."
        )
    if isinstance(plugins, str | dict):
        raise InputError(
            f"trainer.plugins: found {show(plugins)}, expected null, or plugin objects created "
            "in Python."
        )


def check_run(
    trainer: StageTrainer, model: CausalLM, datamodule: StagedDataModule, train: bool
) -> None:
    """Check trainer, model and data of a run; see `StagedTrainer.check`.

    Args:
        trainer: the trainer of the run.
        model: the module.
        datamodule: stages and path.
        train: whether the run will train; False for an evaluation only.

    Raises:
        InputError: for a wrong setting that the user can correct.
    """
    for callback in trainer.run_callbacks.keyed:
        constructed(callback).record_user_changes(callback)
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "trainer.strategy: found a strategy that spawns or forks processes, expected one that "
            "launches them, such as ddp: spawned and forked processes end with each stage, and "
            "the weights are lost. Set trainer.strategy to ddp."
        )
    _check_learned(model, datamodule)
    if train:
        _check_method(trainer, datamodule)
    unlearns = datamodule.forget is not None and not datamodule.oracle
    method = trainer.method if unlearns else None
    if method is not None:
        method.check(model, datamodule)
    check_folder(str(trainer.run_folder(datamodule)), "data.stages")
    _check_model(trainer, model)
    if train:
        datamodule.check_batches(data_share(trainer)[1])
    model.checks.adapters()
    _load_rows(model, datamodule)
    if method is not None:
        datamodule.load_method_rows(method.uses_retain, method.uses_alternates)
    for monitor in trainer.monitors:
        monitor.check(datamodule)
    check_oracle(trainer, model, datamodule)
    if trainer.is_global_zero and not model.is_open:
        # Run this check last: it reads all weight files.
        model.checks.files(str(trainer.precision), numbers=True)


def check_result(trainer: StageTrainer, stage: PlannedStage) -> None:
    """Refuse a path-aware method whose result the strategy cannot hold.

    Args:
        trainer: the trainer of the run.
        stage: the last planned stage.

    Raises:
        InputError: for an adapter of another rank with tensor parallelism.
    """
    strategy, result = trainer.strategy, stage.result
    if result is None or result.is_model or not isinstance(strategy, FSDP2):
        return
    if (size := strategy.tensor_parallel_size) > 1:
        raise InputError(
            f"{KEY}: found {size} with {type(trainer.method).__name__}, which computes an adapter "
            "of another rank than model.lora.rank, expected 1: fsdp2 shards any model."
        )


def _check_learned(model: CausalLM, datamodule: StagedDataModule) -> None:
    """Refuse given adapters of other stages than those that the base model has learned."""
    given, learned = model.pretrained.given, datamodule.learned
    stages = given.stages if given is not None else ()
    if stages and learned[-len(stages) :] != stages:
        raise InputError(
            f"data.learned: found {', '.join(learned) or 'no stage'}, expected it to end with the "
            f"stages of model.adapters, {', '.join(stages)}. Set data.learned: "
            f"[{', '.join(stages)}]."
        )


def _check_method(trainer: StageTrainer, datamodule: StagedDataModule) -> None:
    """Refuse a forget stage without a method, and a method without a forget stage."""
    method, forget = trainer.method, datamodule.forget
    if forget is not None and not datamodule.oracle and method is None:
        raise InputError(
            "trainer.callbacks: found no unlearning method, expected one for the forget stage "
            f"{forget!r} (data.forget). Add a method, such as GA, NPO or SimNPO, or "
            "set data.forget to null to train only."
        )
    if forget is None and not datamodule.training_stages:
        raise InputError(
            "data.order: found no stage to train and data.forget null, expected one of the two: "
            "set data.forget to unlearn a stage that model.base has learned."
        )
    if forget is None and method is not None:
        raise InputError(
            f"data.forget: found null, but {method.name} is among trainer.callbacks. "
            f"Name the stage to unlearn: one of {', '.join(datamodule.stages)}."
        )


def _check_model(trainer: StageTrainer, model: CausalLM) -> None:
    """Refuse a model that cannot be loaded, or that cannot run on this device."""
    precision, strategy = str(trainer.precision), trainer.strategy
    check_strategy(strategy)
    check_precision(precision, strategy.root_device)
    model.checks.device(precision, strategy.root_device)
    if not model.is_open:
        model.checks.files(precision)
    if isinstance(strategy, FSDP2):
        strategy.check_processes()
        model.checks.layers(strategy.layer_classes, strategy.tensor_parallel_size)
    model.checks.quantization(trainer)


def _load_rows(model: CausalLM, datamodule: StagedDataModule) -> None:
    pretrained = model.pretrained
    tokenizer, template = pretrained.tokenizer(), None
    if datamodule.chat_template_from is not None and not datamodule.encodes_with(tokenizer):
        template = load_tokenizer(
            datamodule.chat_template_from,
            model.settings.trust_remote_code,
            key="data.chat_template_from",
        )
    datamodule.load_rows(
        tokenizer,
        pretrained.context_length,
        template,
        pretrained.name,
        pretrained.vocabulary_size,
    )
