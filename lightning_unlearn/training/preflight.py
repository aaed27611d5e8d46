"""What is found wrong with a run before anything is trained or written."""

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
    """Everything of a run; see `StagedTrainer.check`.

    Args:
        trainer: of the run.
        model: the module.
        datamodule: stages and path.
        train: whether training is to follow.

    Raises:
        InputError: for anything a user can mend.
    """
    for callback in trainer.keyed:
        constructed(callback).notice(callback)
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "trainer.strategy: spawned or forked processes end with each stage and take the "
            "weights with them; use ddp."
        )
    unlearns = datamodule.forget is not None and not datamodule.oracle
    if train and unlearns and trainer.method is None:
        raise InputError(
            f"trainer.callbacks: the stage {datamodule.forget!r} is to be forgotten "
            "(data.forget), but no callback unlearns. Add one, such as GA, NPO or SimNPO, or "
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
    model.checks.device(str(trainer.precision), trainer.strategy.root_device)
    if not model.is_open:
        model.checks.files(str(trainer.precision))
    if isinstance(trainer.strategy, FSDP2):
        trainer.strategy.check_processes()
        model.checks.layers(trainer.strategy.layer_classes, trainer.strategy.tensor_parallel_size)
    model.checks.quantization(trainer)
    if train:
        datamodule.check_batches(data_share(trainer)[1])
    model.checks.adapters()
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
    for monitor in trainer.monitors:
        monitor.check(datamodule)
    if trainer.is_global_zero and not model.is_open:
        # Last, for it takes as long as reading the files.
        model.checks.files(str(trainer.precision), numbers=True)


def check_kinds(methods: Sequence[Unlearning], monitors: Sequence[Monitor]) -> None:
    """Refuse several methods, and monitors whose measures would have the same names.

    Args:
        methods: of a run.
        monitors: of a run.

    Raises:
        InputError: naming them.
    """
    # Not inherited: measures of a subclass may have other names.
    single = {kind for kind in map(type, monitors) if vars(kind).get("is_single")}
    for kind in single:
        if (count := sum(type(monitor) is kind for monitor in monitors)) > 1:
            raise InputError(
                f"trainer.callbacks: found {count} of {kind.__name__}, expected one: their "
                "measures would have the same names."
            )
    if len(methods) > 1:
        names = " and ".join(type(method).__name__ for method in methods)
        raise InputError(
            f"trainer.callbacks: found {len(methods)} unlearning methods ({names}), "
            "expected one. To compare methods, use lightning-unlearn study."
        )


def check_numbers(callback: Callback) -> None:
    """Refuse NaN among what a callback was made with: it would spoil every weight.

    Other callbacks than methods may keep one for what they have not seen yet.
    """
    own = {n for n in vars(callback) if isinstance(callback, Unlearning) and n[:1] != "_"}
    for name in sorted(own | (set(signature(type(callback)).parameters) & set(vars(callback)))):
        value = vars(callback)[name]
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and math.isnan(number):
                kind = type(callback).__name__
                raise InputError(f"{kind}.{name}: found nan, expected a number.")
