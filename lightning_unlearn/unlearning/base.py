"""The base of unlearning methods: a callback that swaps the module's objective."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_unlearn.data.batches import Batch
from lightning_unlearn.distributed.state_files import attributes
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.objective import supervised
from lightning_unlearn.storage.code_files import remember_code


class Unlearning(Callback):
    """A method of unlearning, put into ``trainer.callbacks``.

    Subclass it and write `loss`. That is all: no registry, no edit elsewhere. Parameters of
    ``__init__`` can be set from YAML. What ``__init__`` keeps in attributes is part of the run's
    identity, as is the class's file and each file of your own that it imports; what changes later
    is not, and is put back before each stage. A method that needs more than log-probabilities of
    the forget batch overrides `objective` instead.

    Attributes:
        uses_reference: whether `loss` looks at its second argument. False saves the one pass over
            the forget set that the reference costs.
        depends_on: files and folders that the method reads. Their content is part of the run's
            identity. A property may compute it from parameters.
    """

    uses_reference: bool = True
    depends_on: Sequence[str | Path] | str | Path = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        remember_code(cls)
        if cls.loss is Unlearning.loss and cls.objective is Unlearning.objective:
            raise TypeError(
                f"{cls.__name__} is an unlearning method without a loss: define "
                "loss(self, policy, reference), or objective(self, network, batch)."
            )
        if cls.loss is not Unlearning.loss:
            names = list(inspect.signature(cls.loss).parameters)
            if len(names) != 3:
                raise TypeError(
                    f"{cls.__name__}.loss has the parameters ({', '.join(names)}), expected "
                    "(self, policy, reference)."
                )

    def __init__(self) -> None:
        self._reference: LogProbs | None = None

    @property
    def name(self) -> str:
        """The method's name in folders, curves and tables: its class's, unless a study names it."""
        return getattr(self, "_name", None) or type(self).__name__

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        """What unlearning minimizes.

        Args:
            policy: log-probabilities of a forget batch under the model, with gradient.
            reference: the same at unlearning step 0, a constant. Only if ``uses_reference``.

        Returns:
            One value per label token, ``[sequences, longest answer]``, or one per sequence,
            ``[sequences]``, not reduced: the mean over the global batch is taken outside.
        """
        raise NotImplementedError

    def objective(self, network: LogProbModel, batch: Batch) -> Tensor:
        """Compute the loss from the model and a forget batch: the wider hook.

        Args:
            network: gives `LogProbModel.log_probs`, and ``network.hf_model`` for logits or hidden
                states.
            batch: a micro-batch of the forget set.

        Returns:
            As `loss`.
        """
        policy = network.log_probs(batch)
        # Without a reference the policy's constant stands in, so that loss() has one signature.
        reference = LogProbs(policy.per_token.detach(), policy.mask)
        if self.uses_reference:
            assert self._reference is not None, "made in on_train_start"
            width = batch.mask.shape[1]
            reference = LogProbs(self._reference.per_token[batch.index, :width], batch.mask)
        return self.loss(policy, reference)

    def stop(self, module: CausalLM) -> str | None:
        """A rule that ends unlearning before its last step; asked after every optimizer step.

        It must depend on nothing but the model, the data and the method's parameters, because the
        result is stored as that of every run with the same settings.

        Args:
            module: after its step ``module.step`` of ``module.total_steps``.

        Returns:
            Why unlearning ends here, or None.
        """
        return None

    @property
    def may_stop(self) -> bool:
        """Whether the class has a rule that ends unlearning."""
        return type(self).stop is not Unlearning.stop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the reference once, and swap the objective, if this is the unlearning stage.

        A stage that goes on from a checkpoint gets its reference from there.
        """
        assert isinstance(pl_module, CausalLM)
        if pl_module.stage != "unlearn":
            return
        if self.uses_reference and pl_module.step == 0:
            data = trainer.train_dataloader.dataset  # type: ignore[union-attr]
            self._reference = pl_module.evaluator.score(data.examples, data.micro_batch_size)
        pl_module.objective = self.objective

    @property
    def state_key(self) -> str:
        """Several of one kind may be there; Lightning's own checkpoints, which need it, are off."""
        return f"{type(self).__qualname__} {id(self)}"

    def state_dict(self) -> dict[str, Any]:
        """What a stage that goes on from a checkpoint needs: plain and tensor attributes."""
        state = attributes(self, leave_out=("_reference", "_name"))
        if self._reference is not None:
            state["_reference"] = (self._reference.per_token, self._reference.mask)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        reference = state_dict.pop("_reference", None)
        vars(self).update(state_dict)
        if reference is not None:
            self._reference = LogProbs(*reference)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the objective slot back."""
        assert isinstance(pl_module, CausalLM)
        pl_module.objective = supervised
        self._reference = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give it back after a failure too."""
        self.on_train_end(trainer, pl_module)
