"""Base class of unlearning methods: a callback that replaces the module's objective."""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, joined
from lightning_unlearn.distributed.state_files import attributes
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.objective import RetainTerm, supervised
from lightning_unlearn.storage.code_files import remember_code

RetainLoss = Literal["nll", "kl"]
_REFERENCES = ("_reference", "_alternates_reference")
# What a method defines at least one of.
_HOOKS = ("loss", "loss_with_alternates", "objective")


class Unlearning(Callback):
    """An unlearning method, for ``trainer.callbacks``.

    Subclass it and write `loss`; no registry and no other edit is needed. Parameters of
    ``__init__`` can be set from YAML. The identity of a run includes the attributes after
    ``__init__``, the file of the class, and each file of your own that it imports. Attributes that
    change later are not part of the identity, and are restored before each stage. A method that
    needs more than log-probabilities of the forget batch overrides `objective` instead.

    Each forget row of an optimizer step is paired with a retain row (``data.retain``), if the
    method uses them: ``batch.retain`` is then a batch of as many rows. Their loss,
    `retain_objective`, is added with the weight ``retain_weight``; it is the mean over the retain
    rows of the whole step. A method that prefers other answers (``data.alternates``) defines
    `loss_with_alternates` instead of `loss`.

    Args:
        retain_weight: weight of the loss on retain rows; 0 for none.
        retain_loss: loss on retain rows: "nll", the negative log-likelihood per label token; "kl",
            the KL from the next-token distributions of the model before unlearning to those of the
            model, per label token.

    Attributes:
        uses_reference: whether `loss` uses its second argument. False saves the pass over the
            forget set that computes the reference.
        uses_alternates: whether the batches have alternates. A class that defines
            `loss_with_alternates` uses them.
        depends_on: files and folders that the method reads. Their content is part of the identity
            of the run. A property may compute it from parameters.
    """

    uses_reference: bool = True
    uses_alternates: bool = False
    depends_on: Sequence[str | Path] | str | Path = ()
    # Attributes of the class, so that a method without a retain term keeps its identity.
    retain_weight: float = 0.0
    retain_loss: RetainLoss = "nll"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        remember_code(cls)
        own = [getattr(cls, name) for name in _HOOKS]
        if all(getattr(Unlearning, name) is hook for name, hook in zip(_HOOKS, own, strict=True)):
            raise TypeError(
                f"{cls.__name__}: found an unlearning method without a loss, expected "
                "loss(self, policy, reference), or objective(self, network, batch)."
            )
        for name, hook in zip(_HOOKS[:2], own[:2], strict=True):
            expected = list(inspect.signature(getattr(Unlearning, name)).parameters)
            found = list(inspect.signature(hook).parameters)
            if len(found) != len(expected):
                raise TypeError(
                    f"{cls.__name__}.{name}: found the parameters ({', '.join(found)}), expected "
                    f"({', '.join(expected)})."
                )
        if "loss_with_alternates" in vars(cls) and "uses_alternates" not in vars(cls):
            cls.uses_alternates = True

    def __init__(self, retain_weight: float = 0.0, retain_loss: RetainLoss = "nll") -> None:
        name = type(self).__name__
        if not 0 <= retain_weight < math.inf:
            raise InputError(
                f"{name}.retain_weight: found {retain_weight}, expected a number, 0 or more."
            )
        if retain_loss not in get_args(RetainLoss):
            raise InputError(
                f"{name}.retain_loss: found {retain_loss!r}, expected one of "
                f"{', '.join(get_args(RetainLoss))}."
            )
        if retain_weight:
            self.retain_weight, self.retain_loss = retain_weight, retain_loss
        self._reference: LogProbs | None = None
        self._alternates_reference: LogProbs | None = None

    @property
    def uses_retain(self) -> bool:
        """Whether the batches have retain rows. A class attribute of this name may replace it."""
        return self.retain_weight != 0

    @property
    def name(self) -> str:
        """Name of the method in folders, curves and tables: given by a study, or the class name."""
        return getattr(self, "_name", None) or type(self).__name__

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """Compute the loss that unlearning minimizes.

        Args:
            policy: log-probabilities of a forget batch under the model, with gradient.
            reference: the same at unlearning step 0, a constant; only valid with
                ``uses_reference``.

        Returns:
            One value per label token, ``[sequences, longest answer]``, or one per sequence,
            ``[sequences]``. Do not reduce them: the training step takes the mean over the global
            batch.
        """
        raise NotImplementedError

    def loss_with_alternates(
        self,
        policy: LogProbs,
        reference: LogProbs,
        alternates: LogProbs,
        alternates_reference: LogProbs,
    ) -> Tensor:
        """Compute the loss of a method that prefers other answers; it replaces `loss`.

        Args:
            policy: as of `loss`.
            reference: as of `loss`.
            alternates: log-probabilities of an alternate to each forget answer, with gradient. If
                a row has several, they take turns in the epochs.
            alternates_reference: the same at unlearning step 0, a constant; only valid with
                ``uses_reference``.

        Returns:
            Values as in `loss`: per label token of the forget answers, or per sequence.
        """
        raise NotImplementedError

    def objective(self, network: LogProbModel, batch: Batch) -> Tensor:
        """Compute the loss from the model and a forget batch.

        Override it instead of `loss` if log-probabilities are not enough.

        Args:
            network: has `LogProbModel.log_probs`, and ``network.hf_model`` for logits or hidden
                states.
            batch: a micro-batch of the forget set.

        Returns:
            Values as in `loss`.
        """
        if type(self).loss_with_alternates is not Unlearning.loss_with_alternates:
            return self._objective_with_alternates(network, batch)
        policy = network.log_probs(batch)
        return self.loss(policy, self._constant(policy, self._reference, batch))

    def _objective_with_alternates(self, network: LogProbModel, batch: Batch) -> Tensor:
        others, count = batch.alternates, len(batch.index)
        assert others is not None, "batches of a method that uses alternates"
        # One forward for both: sharded models exchange weights in each.
        both = network.log_probs(joined(batch, others)).per_token
        policy = LogProbs(both[:count, : batch.mask.shape[1]], batch.mask)
        preferred = LogProbs(both[count:, : others.mask.shape[1]], others.mask)
        return self.loss_with_alternates(
            policy,
            self._constant(policy, self._reference, batch),
            preferred,
            self._constant(preferred, self._alternates_reference, others),
        )

    def _constant(self, policy: LogProbs, known: LogProbs | None, batch: Batch) -> LogProbs:
        """Return the values of a batch at step 0, from those of all rows."""
        if not self.uses_reference:
            # Pass the detached policy, so that the losses have one signature.
            return LogProbs(policy.per_token.detach(), policy.mask)
        assert known is not None, "computed in on_train_start"
        return LogProbs(known.per_token[batch.index, : batch.mask.shape[1]], batch.mask)

    def retain_objective(self, network: LogProbModel, batch: Batch) -> Tensor:
        """Compute the loss of a batch of retain rows, without its weight.

        Override it for another loss than those of ``retain_loss``.

        Args:
            network: as of `objective`.
            batch: retain rows.

        Returns:
            Values as in `loss`, of the retain rows. The training step takes the mean over all
            retain rows of the step.
        """
        if self.retain_loss == "kl":
            return network.kl_to_reference(batch)
        return objectives.nll(network.log_probs(batch).per_token)

    def retain_term(self) -> RetainTerm | None:
        """Return what is added to the objective for retain rows; None without ``retain_weight``."""
        if not self.retain_weight:
            return None
        return RetainTerm(self.retain_objective, lambda: self.retain_weight)

    def check(self, model: CausalLM, data: Any) -> None:
        """Refuse settings that do not fit model and data; the trainer calls it before training.

        Args:
            model: the module, whose weights are not loaded yet.
            data: the `StagedDataModule`, whose rows are not read yet.

        Raises:
            InputError: with the key of the setting.
        """
        if self.uses_retain and data.retain is None:
            weight = f" (retain_weight {self.retain_weight:g})" if self.retain_weight else ""
            others = [stage for stage in data.stages if stage != data.forget]
            example = f"[{', '.join(others)}]" if others else "a source of rows"
            remedy = ", or retain_weight of the method to 0" if self.retain_weight else ""
            raise InputError(
                f"data.retain: found null, but {self.name} uses retain rows{weight}, expected "
                f"their rows; set data.retain to {example}{remedy}."
            )
        if self.uses_alternates and data.alternates is None:
            raise InputError(
                f"data.alternates: found null, but {self.name} prefers alternates to the forget "
                "answers, expected a column of the forget stage, or a source joined by prompt; "
                "set data.alternates."
            )
        if self.retain_weight and self.retain_loss == "kl" and model.settings.lora is None:
            raise InputError(
                f"{type(self).__name__}.retain_loss: found kl with model.lora null, expected nll: "
                "with LoRA the model before unlearning is the model without the adapter unlearn; "
                "without LoRA it would be a second model in memory. Set retain_loss: nll, or "
                "model.lora."
            )

    def data_notes(self, data: Any) -> list[str]:
        """Return notes for the user on the rows that this method uses, or leaves unused.

        Args:
            data: the `StagedDataModule`, with its rows loaded.
        """
        used = self.uses_retain, self.uses_alternates
        notes: list[str] = data.method_rows.notes(*used, data.path)
        if data.retain is not None and not used[0]:
            notes.append(
                f"data.retain: {self.name} has no retain term, so these rows are not used; set its "
                "retain_weight, or remove data.retain."
            )
        if data.alternates is not None and not used[1]:
            notes.append(
                f"data.alternates: {self.name} uses no alternates, so they are not read; remove "
                "data.alternates, or choose a method that uses them."
            )
        return notes

    def stop(self, module: CausalLM) -> str | None:
        """Decide after each optimizer step whether unlearning ends before its last step.

        The decision must depend only on the model, the data and the method's parameters, because
        the store uses the result for every run with the same settings.

        Args:
            module: the module after step ``module.step`` of ``module.total_steps``.

        Returns:
            The reason to end unlearning here; None to continue.
        """
        return None

    @property
    def may_stop(self) -> bool:
        """Whether the class overrides `stop`."""
        return type(self).stop is not Unlearning.stop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the reference and replace the module's objective, in the unlearning stage only.

        A stage that resumes from a checkpoint gets its reference from the checkpoint.
        """
        assert isinstance(pl_module, CausalLM)
        if pl_module.stage != "unlearn":
            return
        if self.uses_reference and pl_module.step == 0:
            data = trainer.train_dataloader.dataset  # type: ignore[union-attr]
            score, size = pl_module.evaluator.score, data.micro_batch_size
            self._reference = score(data.examples, size)
            if self.uses_alternates:
                self._alternates_reference = score(data.alternates.examples, size)
        pl_module.objective = self.objective
        pl_module.retain_term = self.retain_term()

    @property
    def state_key(self) -> str:
        """A key per instance, so that a trainer may have several methods of one class.

        Only Lightning's own checkpoints use this key, and they are switched off.
        """
        return f"{type(self).__qualname__} {id(self)}"

    def state_dict(self) -> dict[str, Any]:
        """Return the plain and tensor attributes, which a resumed stage needs."""
        state = attributes(self, leave_out=(*_REFERENCES, "_name"))
        for name in _REFERENCES:
            # Absent in a class that does not call the constructor of this one.
            if (known := getattr(self, name, None)) is not None:
                state[name] = (known.per_token, known.mask)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes that `state_dict` returned."""
        known = {name: state_dict.pop(name, None) for name in _REFERENCES}
        vars(self).update(state_dict)
        for name, values in known.items():
            if values is not None:
                setattr(self, name, LogProbs(*values))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the supervised objective of the module."""
        assert isinstance(pl_module, CausalLM)
        pl_module.objective, pl_module.retain_term = supervised, None
        self._reference = self._alternates_reference = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the supervised objective after a failure too."""
        self.on_train_end(trainer, pl_module)
