"""CausalLM: a language model with adapters, an objective slot, and one optimizer step per batch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from lightning_unlearn import objectives
from lightning_unlearn.data.batches import Batch, GlobalBatch, derive_seed
from lightning_unlearn.data.datamodule import ORACLE
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.distributed.state_files import restore_optimizer
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.model import adapters
from lightning_unlearn.model.adapters import LEARN, UNLEARN, LoRA
from lightning_unlearn.model.base_dropout import switch_off
from lightning_unlearn.model.compat import clip_gradients
from lightning_unlearn.model.compiling import eager_mode
from lightning_unlearn.model.measured_lm import MeasuredLM
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.pretrained import load_config, quiet_transformers
from lightning_unlearn.model.quantization import Quantization, check_base
from lightning_unlearn.model.verify import check_log_probs, check_model, check_result
from lightning_unlearn.schedules import schedule

Objective = Callable[["CausalLM", Batch], Tensor]


def supervised(module: "CausalLM", batch: Batch) -> Tensor:
    """The objective of training stages: negative log-likelihood per label token."""
    return objectives.nll(module.log_probs(batch).per_token)


@dataclass
class StageStart:
    """What a stage starts from.

    Attributes:
        stage: its name, "unlearn" for unlearning.
        recipe: how it is trained.
        total_steps: its optimizer steps.
        seed: seed of the run.
        fresh: start from the base model instead of the present weights.
        load: folders of saved weights to take up first, by "learn" and "unlearn".
        done: optimizer steps of the stage that those weights have behind them.
        optimizer: what the optimizer remembers of them.
    """

    stage: str
    recipe: Recipe
    total_steps: int
    seed: int
    fresh: bool = False
    load: dict[str, Path] = field(default_factory=dict)
    done: int = 0
    optimizer: dict[str, Any] | None = None


class CausalLM(MeasuredLM):
    """Any Hugging Face causal LM, with LoRA adapters or fully trained.

    Args:
        base: model folder, hub name, or demo:tiny-llama.
        lora: shape of the adapters; null trains all weights.
        quantization: nf4 keeps the base in 4 bits a weight, as QLoRA does; needs bitsandbytes.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        merge: also write the final model, adapters merged, as a plain Hugging Face folder.
        attn_implementation: as of transformers: sdpa, eager, flash_attention_2 (with the package
            flash-attn, on a GPU, in 16 bits).
        compile: have the decoder layers compiled by torch.compile.
        trust_remote_code: run code that comes with the model.

    Raises:
        InputError: if the model can't be opened or the adapters match nothing.
    """

    def __init__(
        self,
        base: str,
        lora: LoRA | None = LoRA(),  # noqa: B008  (never changed)
        quantization: Quantization | None = None,
        gradient_checkpointing: bool = False,
        merge: bool = False,
        attn_implementation: str = "sdpa",
        compile: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        quiet_transformers()
        if lora is not None:
            lora.check()
        self.base = base
        self.lora = lora
        self.quantization = quantization
        self.gradient_checkpointing = gradient_checkpointing
        self.merge = merge
        self.attn_implementation = attn_implementation
        # Not by its own name, which is a method of modules.
        self.compiles = compile
        self.trust_remote_code = trust_remote_code
        self.automatic_optimization = False
        self.model_config = load_config(base, trust_remote_code)
        self.dropout = switch_off(self.model_config)
        check_base(quantization, base, self.model_config, lora is not None)
        self.net: LogProbModel | None = None
        self.peft: Any = None
        self.objective: Objective = supervised
        self.stage = LEARN
        self.recipe = Recipe()
        self.total_steps = 1
        self.step = 0
        self.prompt_sharing: str | None = None
        self.prompt_sharing_tried = 0
        # What monitors learned of models that do not change, such as the oracle, from run to run.
        self.remembered: dict[str, Any] = {}
        self._entry: StageStart | None = None
        self._changed = False
        self._seed = 0
        self._held: dict[str, str] = {}
        self._done = 0
        self._remembered: dict[str, Any] | None = None
        self._tokenizer: Any = None
        self._identity: str | None = None
        self._fits = False
        self._looked: set[bool] = set()
        self._left: list[str] = []
        self._stays = False

    def configure_model(self) -> None:
        """Open the base model and put the adapters on it, once; then enter the stage begun."""
        if self.net is None:
            self._build()
        if self._entry is not None:
            entry, self._entry = self._entry, None
            self._enter_stage(entry)

    def begin(self, entry: "StageStart") -> None:
        """Make ready for a stage; done as soon as the model is configured.

        Args:
            entry: the stage and what it starts from.
        """
        self._entry = entry
        self.stage, self.recipe, self.total_steps = entry.stage, entry.recipe, entry.total_steps
        self._seed = entry.seed
        self._done, self._remembered = entry.done, entry.optimizer
        self.step = entry.done
        self.objective = supervised

    def _enter_stage(self, entry: "StageStart") -> None:
        trained = UNLEARN if entry.stage == UNLEARN else LEARN
        for which in (LEARN, UNLEARN):
            # Without adapters there is one set of weights.
            if self.peft is None or which == trained or entry.fresh or which in entry.load:
                self._held.pop(which, None)
        if entry.fresh:
            self._start_path(entry.seed)
        for which, folder in entry.load.items():
            self.load(which, folder)
        if self.peft is None:
            self.lm.requires_grad_(True)
        elif entry.stage == UNLEARN:
            if UNLEARN not in entry.load:
                adapters.start_adapter(self.peft, UNLEARN, entry.seed)
            adapters.choose_adapters(self.peft, [LEARN, UNLEARN], UNLEARN)
        else:
            adapters.choose_adapters(self.peft, [LEARN], LEARN)
        # A stage that failed may have left some.
        self.zero_grad(set_to_none=True)
        self.train()
        # For callbacks that draw random numbers when a stage starts.
        torch.manual_seed(derive_seed(entry.seed, entry.stage, "start"))

    def holds(self, plan: Sequence[Any]) -> bool:
        """Whether the present weights are those after a walk's last step, as far as is known.

        Args:
            plan: steps of a walk, each with ``name`` and ``key``; a look at an oracle changes none.
        """
        trained = [step for step in plan if step.name != ORACLE]
        if not trained:
            return False
        # "unlearn" lies upon "learn", so both must be the walk's.
        return all(
            self._held.get(LEARN if step.name != UNLEARN else UNLEARN) == step.key
            for step in trained[-2 if trained[-1].name == UNLEARN else -1 :]
            if self.peft is not None or step is trained[-1]
        )

    def hold(self, stage: str, key: str) -> None:
        """Remember what the present weights are, when a stage has been trained."""
        self._held[UNLEARN if stage == UNLEARN else LEARN] = key

    def _start_path(self, seed: int) -> None:
        """The base model as it was, with fresh adapters."""
        if self.peft is not None:
            adapters.start_adapter(self.peft, LEARN, seed)
            adapters.start_adapter(self.peft, UNLEARN, seed)
        elif self._changed:
            self._take_up(self.base)

    def on_fit_start(self) -> None:
        """Check the model before callbacks compute with it."""
        # One row is a shape of its own, for which nothing else may be compiled.
        with eager_mode(self.compiles):
            check_log_probs(self)

    def on_train_start(self) -> None:
        """Check gradients on a row."""
        examples = self.trainer.train_dataloader.dataset.examples  # type: ignore[union-attr]
        with eager_mode(self.compiles):
            check_model(self, examples[0])

    def on_validation_model_eval(self) -> None:
        """Check the model that is to be measured, before callbacks compute with it."""
        super().on_validation_model_eval()
        with eager_mode(self.compiles):
            check_log_probs(self)

    def on_train_end(self) -> None:
        """Refuse weights that the last step spoiled, as of `check_result`."""
        examples = self.trainer.train_dataloader.dataset.examples  # type: ignore[union-attr]
        with eager_mode(self.compiles):
            place = f"stage {self.stage}, step {self.step} of {self.total_steps}"
            check_result(self, examples[0], place, self.recipe.lr)

    def training_step(self, batch: GlobalBatch, batch_idx: int) -> None:
        """One optimizer step on a global batch, micro-batch by micro-batch.

        Args:
            batch: this process's share.
            batch_idx: number of the step since the stage was begun or resumed, from 0.

        Raises:
            DivergedError: if the loss of the global batch is not finite; weights are then still
                those of the step before.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self._changed = True
        number = self._done + batch_idx
        # Dropout of each step: Lightning's loops draw random numbers too, in a trainer's later fits
        # more than in its first, and a resumed run must not see the difference.
        share, shares = self.data_share
        torch.manual_seed(derive_seed(self._seed, self.stage, number, share))
        assert not isinstance(optimizer, list) and scheduler is not None
        total = torch.zeros((), dtype=self.kept_dtype, device=self.device)
        for part, micro in enumerate(batch.micro):
            last = part == len(batch.micro) - 1
            with nullcontext() if last else self._keep_gradients_local():
                loss = self._share(self.objective(self, micro), micro, batch)
                # Strategies average gradients over processes; ours are shares of one sum.
                self.manual_backward(loss * shares)
            total += loss.detach()
        # The mean counts a share once, however many processes work on it.
        total = shares * self.trainer.strategy.reduce(total, reduce_op="mean")
        if not torch.isfinite(total):
            raise DivergedError(
                f"stage {self.stage}, step {number + 1} of {self.total_steps}: the loss is "
                f"{total.item()}. Everything stored before this stage is kept. Lower the learning "
                f"rate (now {self.recipe.lr:g}) or clip gradients (gradient_clip)."
            )
        if self.recipe.gradient_clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip_gradients(parameters, self.recipe.gradient_clip)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()  # type: ignore[union-attr]  # one scheduler, of LambdaLR
        self.step = number + 1
        self.log("loss", total, prog_bar=True, logger=False)
        self.log("lr", rate, logger=False)

    def _share(self, values: Tensor, micro: Batch, batch: GlobalBatch) -> Tensor:
        """A micro-batch's share of the global batch's mean loss.

        Args:
            values: one loss per label token, ``[sequences, longest answer]``, or one per
                sequence, ``[sequences]``.
            micro: the micro-batch.
            batch: gives the counts of the whole global batch.

        Returns:
            A scalar; the sum over all micro-batches and processes is the mean.
        """
        if values.shape == micro.mask.shape:
            return (values * micro.mask * micro.weight[:, None]).sum() / batch.tokens
        if values.shape == micro.weight.shape:
            return (values * micro.weight).sum() / batch.sequences
        raise InputError(
            f"the objective returned a tensor of shape {tuple(values.shape)}, expected one value "
            f"per label token {tuple(micro.mask.shape)} or per sequence "
            f"{tuple(micro.weight.shape)}, not reduced: the mean is taken over the whole global "
            "batch, which may be spread over micro-batches and processes."
        )

    def _keep_gradients_local(self) -> AbstractContextManager[Any]:
        """Exchange gradients once per step, not after every micro-batch."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: measuring is what the monitors do, in ``fit`` and in ``validate`` alike."""

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule for the stage that was begun: fresh, or its checkpoint's."""
        trained = [p for p in self.parameters() if p.requires_grad]
        recipe = self.recipe
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                trained, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(
                trained, recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
            )
        factor = schedule(recipe.schedule, self.total_steps, recipe.warmup, recipe.decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        if self._remembered is not None:
            restore_optimizer(optimizer, self._remembered)
            self._remembered = None
            scheduler.last_epoch = self._done
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * factor(self._done)
        return [optimizer], [scheduler]
