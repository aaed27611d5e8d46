"""Views of an oracle that is a model of its own: while it is in memory, and after it is freed."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn.data.datamodule import StagedDataModule
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.model.oracle_states import OracleHead, OracleStates
from lightning_unlearn.model.token_statistics import TokenStatistics
from lightning_unlearn.monitors.view import ModelView, RowRequest


class OracleView(ModelView):
    """An oracle while its model is in memory; it records all values that monitors request.

    Args:
        module: the oracle.
        data: stages and evaluation sets.
        prompts: store of encoded prompts and phrases; see `ModelView`.
        requests: requests of all monitors at all steps.
        folder: folder on a disk with room for the hidden states.
    """

    def __init__(
        self,
        module: CausalLM,
        data: StagedDataModule,
        prompts: dict[Any, Any],
        requests: Sequence[RowRequest],
        folder: Path,
    ) -> None:
        super().__init__(module, data, prompts, requests)
        self._folder = folder

    def _states(self) -> OracleStates:
        return OracleStates(self._folder)

    def as_model(self) -> ModelView:
        """Return a view in which this oracle is also the model and the base model."""
        return _OracleAsModel(self.module, self.data, self._prompts, self.requests, self, self)

    def record_states(self) -> None:
        """Record the hidden states for every pass with a KL that may be requested at some step.

        Monitors that are due at a step decide the number of rows of its pass, and the number of
        rows decides which process evaluates which row.
        """
        names = dict.fromkeys(self.data.set_name(r.name) for r in self.requests if r.kl)
        for name in names:
            own = [r for r in self.requests if self.data.set_name(r.name) == name]
            least = min(_rows(r.limit) for r in own if r.kl)
            for limit in {r.limit for r in own if _rows(r.limit) >= least}:
                self._hidden(name, limit)

    def release(self, module: CausalLM) -> "RecordedView":
        """Return the recorded values as a view that does not need the oracle's model.

        All processes that share the oracle call it.

        Args:
            module: the module of the run.

        Raises:
            InputError: if a value is not finite.
        """
        # All processes refuse together: this one may have finite values only.
        strategy = self.module.trainer.strategy
        if not strategy.reduce_boolean_decision(self._is_finite(), all=True):
            raise InputError(
                f"oracle.base: found {self.module.settings.base}, whose log-probabilities are not "
                "finite on some rows, expected finite numbers. Use another copy of the model, or "
                "another trainer.precision."
            )
        states = [known for known in self._known.values() if isinstance(known, OracleStates)]
        head = OracleHead(self.module.network, self.module.device) if states else None
        return RecordedView(self, module, head, sum(each.size for each in states))

    def _is_finite(self) -> bool:
        for (kind, *_), known in self._known.items():
            table = known.per_token if isinstance(known, LogProbs) else None
            if kind == "statistics":
                statistics: TokenStatistics = known[1]
                table = statistics.log_prob
            if table is not None and not bool(torch.isfinite(table).all()):
                return False
        return True


class _OracleAsModel(ModelView):
    """An oracle compared with itself: both have one output projection."""

    @property
    def has_kl(self) -> bool:
        """Return True."""
        return True


class RecordedView(ModelView):
    """The recorded values of an oracle whose model is not in memory any more.

    Args:
        recorded: the view that recorded them.
        module: the module of the run.
        head: the oracle's output projection; None if no KL is requested.
        mapped: bytes of the hidden states on disk, of this process.

    Attributes:
        mapped: the argument `mapped`.
        head: the argument `head`.
        conditions: what the values depend on; set by the trainer.
    """

    def __init__(
        self, recorded: OracleView, module: CausalLM, head: OracleHead | None, mapped: int
    ) -> None:
        super().__init__(module, recorded.data, recorded._prompts, recorded.requests)
        self.head = head
        self.mapped = mapped
        self.conditions: Any = None
        self._known = recorded._known

    def _with_weights(self) -> AbstractContextManager[None]:
        raise InputError(
            "oracle: found a monitor that requests values of the oracle which were not measured "
            "before training, expected that its measure_oracle requests all values that its "
            "measure takes from view.oracle. Add them to measure_oracle."
        )


def _rows(limit: int | None) -> float:
    return float("inf") if limit is None else limit
