"""The base of monitors: when to look, and where what is seen goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_unlearn.distributed.state_files import attributes
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.results import EvaluationResults
from lightning_unlearn.monitors.view import ModelView, RowRequest
from lightning_unlearn.storage.code_files import remember_code


class Monitor(Callback):
    """Something measured during unlearning, put into ``trainer.callbacks``.

    Subclass it and write `measure`. It is asked before the first and after the last step of
    unlearning, every so many steps in between, and by ``validate``.

    Args:
        every_n_steps: optimizer steps between looks; 0 looks at the first and last step only.

    Attributes:
        uses_oracle: whether it compares with the model retrained without the forget stage. Its
            view then has one, if there is one.
        is_single: whether two of its kind would give their measures the same names.
        depends_on: files and folders that the monitor reads; their content is part of the run's
            identity.
    """

    uses_oracle: bool = False
    is_single: bool = False
    depends_on: Sequence[str | Path] | str | Path = ()

    def __init__(self, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise InputError(
                f"{type(self).__name__}.every_n_steps: found {every_n_steps}, expected 0 (first "
                "and last step only) or more."
            )
        self.every_n_steps = every_n_steps

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        remember_code(cls)
        if cls.measure is Monitor.measure:
            raise TypeError(f"{cls.__name__} is a monitor without measure(self, view): define it.")

    def measure(self, view: ModelView) -> Mapping[str, Tensor]:
        """What is measured.

        Args:
            view: the model at this step and its data.

        Returns:
            By name of the measure: one value per example, ``[examples]``, or a scalar.
        """
        raise NotImplementedError

    def check(self, data: Any) -> None:
        """Refuse settings that do not fit the data; called before anything is trained.

        Args:
            data: the `StagedDataModule`.

        Raises:
            InputError: naming the setting.
        """

    def requests(self, data: Any) -> list[RowRequest]:
        """The row sets whose statistics it will request, by `ModelView.token_statistics`.

        Args:
            data: the `StagedDataModule`.

        Returns:
            The sets; none for a monitor that asks for less.
        """
        return []

    def data_notes(self, model: CausalLM, data: Any) -> list[str]:
        """What the user should know of what it will measure, before anything is trained.

        Args:
            model: the module, not opened yet.
            data: the `StagedDataModule`, prepared.

        Returns:
            Sentences.
        """
        return []

    def is_due(self, step: int, total: int) -> bool:
        """Whether to look after ``step`` of ``total`` optimizer steps."""
        return step in (0, total) or (self.every_n_steps > 0 and step % self.every_n_steps == 0)

    def evaluate(self, results: EvaluationResults, module: CausalLM, step: int) -> None:
        """Measure now and keep what is seen."""
        results.busy(f"{type(self).__name__} looks")
        for name, values in self.measure(results.view(module, step)).items():
            results.add(step, name, values)

    def _evaluate_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, CausalLM)
        results: EvaluationResults | None = getattr(trainer, "results", None)
        wanted = module.stage == "unlearn" and self.is_due(module.step, module.total_steps)
        if results is not None and wanted:
            seen = len(results.steps)
            self.evaluate(results, module, module.step)
            # For callbacks that watch a measure, such as EarlyStopping.
            means = {measure: mean for _, measure, mean in results.steps[seen:]}
            trainer.callback_metrics.update(
                {name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()}
            )

    @property
    def state_key(self) -> str:
        """Several of one kind may be there; Lightning's own checkpoints, which need it, are off."""
        return f"{type(self).__qualname__} {id(self)}"

    def state_dict(self) -> dict[str, Any]:
        """What a stage that goes on from a checkpoint needs: plain and tensor attributes."""
        return attributes(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        vars(self).update(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the first step of unlearning; what a checkpoint holds was looked at."""
        if getattr(pl_module, "step", 0) == 0:
            self._evaluate_if_due(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look after a step of unlearning, if it is due."""
        self._evaluate_if_due(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the model that ``validate`` was given."""
        assert isinstance(pl_module, CausalLM)
        results: EvaluationResults | None = getattr(trainer, "results", None)
        if results is not None:
            self.evaluate(results, pl_module, 0)
