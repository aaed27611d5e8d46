"""Checks of a run before anything is trained or written."""

import math
from collections.abc import Sequence
from inspect import signature

from lightning.pytorch import Callback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.distributed.strategy import (
    FSDP2,
    check_precision,
    check_strategy,
    data_share,
)
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.pretrained import load_tokenizer
from lightning_unlearn.monitors.base import Monitor
from lightning_unlearn.settings.folder_names import check_folder
from lightning_unlearn.storage.callback_identity import constructed
from lightning_unlearn.training.stage_trainer import StageTrainer
from lightning_unlearn.unlearning.base import Unlearning


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
    for callback in trainer.keyed:
        constructed(callback).record_user_changes(callback)
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "trainer.strategy: found a strategy that spawns or forks processes, expected one that "
            "launches them, such as ddp: spawned and forked processes end with each stage, and "
            "the weights are lost. Set trainer.strategy to ddp."
        )
    unlearns = datamodule.forget is not None and not datamodule.oracle
    if train and unlearns and trainer.method is None:
        raise InputError(
            "trainer.callbacks: found no unlearning method, expected one for the forget stage "
            f"{datamodule.forget!r} (data.forget). Add a method, such as GA, NPO or SimNPO, or "
            "set data.forget to null to train only."
        )
    if train and datamodule.forget is None and trainer.method is not None:
        raise InputError(
            f"data.forget: found null, but {trainer.method.name} is among trainer.callbacks. "
            f"Name the stage to unlearn: one of {', '.join(datamodule.stages)}."
        )
    check_folder(str(trainer.run_folder(datamodule)), "data.stages")
    check_strategy(trainer.strategy)
    check_precision(str(trainer.precision), trainer.strategy.root_device)
    model.check_device(str(trainer.precision), trainer.strategy.root_device)
    model.check_weights(str(trainer.precision))
    if isinstance(trainer.strategy, FSDP2):
        trainer.strategy.check_processes()
        model.check_layers(trainer.strategy.layer_classes, trainer.strategy.tensor_parallel_size)
    model.check_quantization(trainer)
    if train:
        datamodule.check_batches(data_share(trainer)[1])
    model.check_adapters()
    tokenizer, template = model.tokenizer(), None
    if datamodule.chat_template_from is not None and not datamodule.encodes_with(tokenizer):
        template = load_tokenizer(
            datamodule.chat_template_from, model.trust_remote_code, key="data.chat_template_from"
        )
    datamodule.prepare(tokenizer, model.context, template, model.base, model.vocabulary)
    for monitor in trainer.monitors:
        monitor.check(datamodule)
    if trainer.is_global_zero:
        # Run this check last: it reads all weight files.
        model.check_weights(str(trainer.precision), numbers=True)


def check_kinds(methods: Sequence[Unlearning], monitors: Sequence[Monitor]) -> None:
    """Refuse several methods, and monitors whose metrics would have the same names.

    Args:
        methods: unlearning methods of a run.
        monitors: monitors of a run.

    Raises:
        InputError: if there are several methods, or several monitors of a class that allows one.
    """
    # Do not inherit `is_single`: the metrics of a subclass may have other names.
    single = {kind for kind in map(type, monitors) if vars(kind).get("is_single")}
    for kind in single:
        if (count := sum(type(monitor) is kind for monitor in monitors)) > 1:
            raise InputError(
                f"trainer.callbacks: found {count} {kind.__name__} monitors, expected one: their "
                "metrics would have the same names."
            )
    if len(methods) > 1:
        names = " and ".join(type(method).__name__ for method in methods)
        raise InputError(
            f"trainer.callbacks: found {len(methods)} unlearning methods ({names}), "
            "expected one. To compare methods, use lightning-unlearn study."
        )


def check_numbers(callback: Callback) -> None:
    """Refuse NaN in the arguments of a callback, because NaN would make every weight NaN.

    For a method, its public attributes are checked too. Other callbacks may use NaN for values
    that are not known yet.

    Args:
        callback: a callback of the trainer.

    Raises:
        InputError: naming the class and the attribute.
    """
    own = {n for n in vars(callback) if isinstance(callback, Unlearning) and n[:1] != "_"}
    for name in sorted(own | (set(signature(type(callback)).parameters) & set(vars(callback)))):
        value = vars(callback)[name]
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and math.isnan(number):
                kind = type(callback).__name__
                raise InputError(f"{kind}.{name}: found nan, expected a number.")
