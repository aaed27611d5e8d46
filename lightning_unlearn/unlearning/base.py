"""Base class of unlearning methods: a callback that replaces the module's objective."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_unlearn.data.batches import Batch
from lightning_unlearn.distributed.state_files import attributes
from lightning_unlearn.model.causal_lm import CausalLM, supervised
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.storage.code_files import remember_code


class Unlearning(Callback):
    """An unlearning method, for ``trainer.callbacks``.

    Subclass it and write `loss`; no registry and no other edit is needed. Parameters of
    ``__init__`` can be set from YAML. The identity of a run includes the attributes after
    ``__init__``, the file of the class, and each file of your own that it imports. Attributes that
    change later are not part of the identity, and are restored before each stage. A method that
    needs more than log-probabilities of the forget batch overrides `objective` instead.

    Attributes:
        uses_reference: whether `loss` uses its second argument. False saves the pass over the
            forget set that computes the reference.
        depends_on: files and folders that the method reads. Their content is part of the identity
            of the run. A property may compute it from parameters.
    """

    uses_reference: bool = True
    depends_on: Sequence[str | Path] | str | Path = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        remember_code(cls)
        if cls.loss is Unlearning.loss and cls.objective is Unlearning.objective:
            raise TypeError(
                f"{cls.__name__}: found an unlearning method without a loss, expected "
                "loss(self, policy, reference), or objective(self, module, batch)."
            )
        if cls.loss is not Unlearning.loss:
            names = list(inspect.signature(cls.loss).parameters)
            if len(names) != 3:
                raise TypeError(
                    f"{cls.__name__}.loss: found the parameters ({', '.join(names)}), expected "
                    "(self, policy, reference)."
                )

    def __init__(self) -> None:
        self._reference: LogProbs | None = None

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

    def objective(self, module: CausalLM, batch: Batch) -> Tensor:
        """Compute the loss from the module and a forget batch.

        Override it instead of `loss` if log-probabilities are not enough.

        Args:
            module: has `CausalLM.log_probs`, and ``module.lm`` for logits or hidden states.
            batch: a micro-batch of the forget set.

        Returns:
            Values as in `loss`.
        """
        policy = module.log_probs(batch)
        # Without a reference, pass the detached policy, so that loss() has one signature.
        reference = LogProbs(policy.per_token.detach(), policy.mask)
        if self.uses_reference:
            assert self._reference is not None, "computed in on_train_start"
            width = batch.mask.shape[1]
            reference = LogProbs(self._reference.per_token[batch.index, :width], batch.mask)
        return self.loss(policy, reference)

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
            self._reference = pl_module.score(data.examples, data.micro)
        pl_module.objective = self.objective

    @property
    def state_key(self) -> str:
        """A key per instance, so that a trainer may have several methods of one class.

        Only Lightning's own checkpoints use this key, and they are switched off.
        """
        return f"{type(self).__qualname__} {id(self)}"

    def state_dict(self) -> dict[str, Any]:
        """Return the plain and tensor attributes, which a resumed stage needs."""
        state = attributes(self, leave_out=("_reference", "_name"))
        if self._reference is not None:
            state["_reference"] = (self._reference.per_token, self._reference.mask)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes that `state_dict` returned."""
        reference = state_dict.pop("_reference", None)
        vars(self).update(state_dict)
        if reference is not None:
            self._reference = LogProbs(*reference)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the supervised objective of the module."""
        assert isinstance(pl_module, CausalLM)
        pl_module.objective = supervised
        self._reference = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the supervised objective after a failure too."""
        self.on_train_end(trainer, pl_module)
