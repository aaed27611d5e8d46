"""Base class of monitors: it decides when to evaluate, and stores the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_unlearn.distributed.state_files import attributes
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.monitors.oracle_view import OracleView
from lightning_unlearn.monitors.results import EvaluationResults, Results
from lightning_unlearn.monitors.view import ModelView, RowRequest
from lightning_unlearn.storage.code_files import remember_code


class Monitor(Callback):
    """An evaluation during unlearning, for ``trainer.callbacks``.

    Subclass it and write `measure`. The trainer calls `measure` before the first and after the last
    step of unlearning, every n steps in between, and in ``validate``.

    Args:
        every_n_steps: optimizer steps between evaluations; 0 for the first and last step only.

    Attributes:
        uses_oracle: whether the monitor compares with the oracle (the model retrained without the
            forget stage). If there is an oracle, the view of such a monitor has it.
        is_single: whether two monitors of this class would give their metrics the same names.
        depends_on: files and folders that the monitor reads; their content is part of the identity
            of the run.
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
            raise TypeError(
                f"{cls.__name__}: found a monitor without measure(self, view), expected that it "
                "defines it."
            )

    def measure(self, view: ModelView) -> Mapping[str, Results]:
        """Compute the metrics of this monitor.

        Args:
            view: the model at this step, and its data.

        Returns:
            By name of the metric: one value per example, ``[examples]``, or a scalar; `SomeRows`
            for values of some examples.
        """
        raise NotImplementedError

    def measure_oracle(self, oracle: OracleView) -> None:
        """Request all values of the oracle that `measure` takes from ``view.oracle``.

        The trainer calls it once, before training, if the oracle is a model of its own
        (``oracle.base``). The oracle is then removed from memory, and ``view.oracle`` has these
        values only. The default calls `measure` with the oracle as model, oracle and base model.

        Args:
            oracle: view of the oracle, which is in memory.
        """
        self.measure(oracle.as_model())

    def check(self, data: Any) -> None:
        """Refuse settings that do not fit the data; the trainer calls it before training.

        Args:
            data: the `StagedDataModule`.

        Raises:
            InputError: with the key of the setting.
        """

    def requests(self, data: Any) -> list[RowRequest]:
        """Return the row sets of which this monitor uses `ModelView.token_statistics`.

        Args:
            data: the `StagedDataModule`.

        Returns:
            The requests; [] for a monitor that uses no token statistics.
        """
        return []

    def settings_from_data(self, data: Any) -> Mapping[str, Any]:
        """Return what the monitor takes from the data: the results depend on it.

        The store key has these values in the place of attributes of the same names.

        Args:
            data: the `StagedDataModule`, with its rows loaded.

        Returns:
            By name, values that JSON can represent; the same for the same data.
        """
        return {}

    def data_notes(self, model: CausalLM, data: Any) -> list[str]:
        """Return notes for the user on this monitor's data, to be printed before training.

        Args:
            model: the module, whose weights are not loaded yet.
            data: the `StagedDataModule`, with its rows loaded.

        Returns:
            Sentences.
        """
        return []

    def is_due(self, step: int, total: int) -> bool:
        """Return whether to evaluate after ``step`` of ``total`` optimizer steps."""
        return step in (0, total) or (self.every_n_steps > 0 and step % self.every_n_steps == 0)

    def evaluate(self, results: EvaluationResults, module: CausalLM, step: int) -> None:
        """Evaluate the model now and store the results."""
        results.busy(f"{type(self).__name__} evaluates")
        for name, values in self.measure(results.view(module, step)).items():
            results.add(step, name, values)

    def _evaluate_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, CausalLM)
        results: EvaluationResults | None = getattr(trainer, "results", None)
        wanted = module.stage == "unlearn" and self.is_due(module.step, module.total_steps)
        if results is not None and wanted:
            seen = len(results.steps)
            self.evaluate(results, module, module.step)
            # Other callbacks monitor these metrics, such as EarlyStopping.
            means = {metric: mean for _, metric, mean in results.steps[seen:]}
            trainer.callback_metrics.update(
                {name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()}
            )

    @property
    def state_key(self) -> str:
        """A key per instance, so that a trainer may have several monitors of one class.

        Only Lightning's own checkpoints use this key, and they are switched off.
        """
        return f"{type(self).__qualname__} {id(self)}"

    def state_dict(self) -> dict[str, Any]:
        """Return the plain and tensor attributes, which a resumed stage needs."""
        return attributes(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes that `state_dict` returned."""
        vars(self).update(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate before the first step of unlearning; not again when a checkpoint is resumed."""
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
        """Evaluate after a step of unlearning if it is due."""
        self._evaluate_if_due(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the model of ``validate``, or one that needs no steps."""
        assert isinstance(pl_module, CausalLM)
        results: EvaluationResults | None = getattr(trainer, "results", None)
        if results is not None:
            self.evaluate(results, pl_module, pl_module.step)
