"""CausalLM: a language model as a LightningModule that makes one optimizer step per batch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from typing_extensions import Self

from lightning_unlearn.data.batches import GlobalBatch, derive_seed
from lightning_unlearn.data.examples import Example
from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.errors import DivergedError
from lightning_unlearn.model.adapters import LEARN, UNLEARN, Adapters
from lightning_unlearn.model.build import build_network
from lightning_unlearn.model.candidates import CandidateScorer
from lightning_unlearn.model.checks import ModelChecks
from lightning_unlearn.model.combination import freeze_sum
from lightning_unlearn.model.compat import clip_gradients
from lightning_unlearn.model.evaluator import Evaluator
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.objective import Objective, RetainTerm, shares, supervised
from lightning_unlearn.model.optimizer import make_optimizer, make_scheduler
from lightning_unlearn.model.pretrained import PretrainedModel
from lightning_unlearn.model.settings import LoRA, ModelSettings, Quantization
from lightning_unlearn.model.stage import LoadedKeys, StageStart
from lightning_unlearn.model.verify import verify_log_probs, verify_model, verify_result
from lightning_unlearn.model.weights import ModelWeights


class CausalLM(LightningModule):
    """Any Hugging Face causal LM, with LoRA adapters or fully trained.

    Args:
        base: model folder, hub name, or demo:tiny-llama; or a LoRA adapter in PEFT's format (folder
            or hub name), which is loaded on the base model that it names and becomes ``learn``.
        lora: shape of new adapters; null trains all weights. A given adapter keeps its own shape,
            with the dropout set here.
        quantization: nf4 keeps the base in 4 bits a weight, as QLoRA does; needs bitsandbytes.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        save_merged: also write the final model, adapters merged, as a plain Hugging Face folder.
        attn_implementation: as in transformers: sdpa, eager, flash_attention_2 (with the package
            flash-attn, on a GPU, in 16 bits).
        compile: have the decoder layers compiled by torch.compile.
        trust_remote_code: run code that comes with the model.
        adapters: adapters trained elsewhere on ``base``, by the name of the stage after which each
            is the state, in order; the last one becomes ``learn``. The names are the last ones of
            data.learned.
        stacked: each of the adapters was trained on the merge of those before it; otherwise they
            are states of one adapter.

    Attributes:
        settings: the arguments; if ``base`` is an adapter, with its base model.
        pretrained: the base model on disk.
        placement: device, precision and processes.
        checks: what can be found wrong before weights are loaded.
        loaded_keys: what the present weights are.
        objective: what training minimizes.
        retain_term: what is added to it for the retain rows of each batch; None for nothing.
        stage: the present stage, "unlearn" for unlearning.
        recipe: recipe of the stage.
        step: optimizer steps of the stage that are done.
        total_steps: optimizer steps of the stage.
        remembered: what monitors computed of models that do not change, such as the oracle; kept
            from run to run.
        network: from `configure_model` on, the model; ``network.hf_model`` is Hugging Face's.
        adapters: from then on, its adapters; None if all weights are trained.
        weights: from then on, what saves and loads its weights.
        evaluator: from then on, what computes values of data sets.
        candidates: from then on, what scores several answers to one prompt.

    Raises:
        InputError: if there is no such model, or a setting is out of its range.
    """

    network: LogProbModel
    adapters: Adapters | None
    weights: ModelWeights
    evaluator: Evaluator
    candidates: CandidateScorer

    def __init__(
        self,
        base: str,
        lora: LoRA | None = LoRA(),  # noqa: B008  (never changed)
        quantization: Quantization | None = None,
        gradient_checkpointing: bool = False,
        save_merged: bool = False,
        attn_implementation: str = "sdpa",
        compile: bool = False,
        trust_remote_code: bool = False,
        adapters: dict[str, str] | None = None,
        stacked: bool = False,
    ) -> None:
        super().__init__()
        if lora is not None:
            lora.check()
        self.automatic_optimization = False
        settings = ModelSettings(
            base,
            lora,
            quantization,
            gradient_checkpointing,
            save_merged,
            attn_implementation,
            compile,
            trust_remote_code,
            adapters,
            stacked,
        )
        self.placement = Placement(self)
        self.pretrained = PretrainedModel(settings)
        self.settings = self.pretrained.settings
        self.checks = ModelChecks(self.settings, self.pretrained)
        self.loaded_keys = LoadedKeys(has_adapters=lora is not None)
        self.objective: Objective = supervised
        self.retain_term: RetainTerm | None = None
        self.remembered: dict[str, Any] = {}
        self._keeps_device = False
        self._start = StageStart()
        self.start_stage(self._start)
        self._must_enter_stage = False

    @property
    def is_open(self) -> bool:
        """Whether `configure_model` has loaded the base model."""
        return "network" in self._modules

    @property
    def trainable(self) -> str:
        """The adapter that the present stage trains: "learn" or "unlearn"."""
        return self._start.trainable

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self._start.seed

    def configure_model(self) -> None:
        """Load the base model and put the adapters on it, once; then enter the started stage."""
        if not self.is_open:
            parts = self.settings, self.pretrained, self.placement
            self.network, self.adapters = build_network(*parts)
            self.weights = ModelWeights(
                self.network, self.adapters, self.pretrained, self.placement
            )
            self.evaluator = Evaluator(self.network, self.adapters, self.placement)
            self.candidates = CandidateScorer(self.evaluator, self.settings.attn_implementation)
        if self._must_enter_stage:
            self._must_enter_stage = False
            self._enter_stage()

    def close(self) -> None:
        """Give up the model, whatever still refers to this module; `configure_model` loads it."""
        for name in ("network", "adapters", "weights", "evaluator", "candidates"):
            if hasattr(self, name):
                delattr(self, name)

    def start_stage(self, start: StageStart) -> None:
        """Start a stage; its weights are loaded as soon as the model is configured.

        Args:
            start: the stage and what it starts from.
        """
        self._start = start
        self._must_enter_stage = True
        self.stage, self.recipe, self.total_steps = start.stage, start.recipe, start.total_steps
        self.step = start.done
        self.objective, self.retain_term = supervised, None

    def _enter_stage(self) -> None:
        start, adapters = self._start, self.adapters
        if adapters is None or start.fresh:
            # Without adapters there is one set of weights.
            self.loaded_keys.forget([LEARN, UNLEARN])
        else:
            self.loaded_keys.forget([start.trainable, *start.load])
        if start.fresh:
            self.weights.reset(start.seed, start.after)
            if adapters is not None and start.after is None and LEARN not in start.load:
                self.loaded_keys.mark_start()
        if start.frozen and (adapters is not None or start.fresh):
            self.loaded_keys.forget([LEARN, UNLEARN])
            freeze_sum(self.weights, start.frozen, start.seed)
        for name, folder in start.load.items():
            self.weights.load(name, folder)
        if adapters is None:
            self.network.hf_model.requires_grad_(True)
        elif start.trainable == UNLEARN:
            if UNLEARN not in start.load:
                adapters.reset(UNLEARN, start.seed)
            adapters.set_active([LEARN, UNLEARN], UNLEARN)
        else:
            adapters.set_active([LEARN], LEARN)
        # A stage that failed may have left some.
        self.zero_grad(set_to_none=True)
        self.train()
        # For callbacks that draw random numbers when a stage starts.
        torch.manual_seed(derive_seed(start.seed, start.stage, "start"))

    @contextmanager
    def keep_on_device(self) -> Iterator[None]:
        """Keep the model on its device: Lightning moves it to the CPU after every fit.

        The next stage would move it back: 28 GB each way for 14 billion 16-bit weights.
        """
        self._keeps_device = True
        try:
            yield
        finally:
            self._keeps_device = False

    def cpu(self) -> Self:
        """Move to the CPU; a sharded model stays on its device."""
        return self if self._keeps_device or self.placement.is_sharded else super().cpu()

    def _training_row(self) -> Example:
        """The first row of the stage."""
        example: Example = self.trainer.train_dataloader.dataset.examples[0]  # type: ignore[union-attr]
        return example

    def on_fit_start(self) -> None:
        """Check the model before callbacks compute with it."""
        verify_log_probs(self.evaluator, self.settings.base)

    def on_train_start(self) -> None:
        """Check gradients on a row."""
        verify_model(self.evaluator, self.settings.base, self._training_row())

    def on_validation_model_eval(self) -> None:
        """Check the model that is going to be evaluated, before callbacks compute with it."""
        super().on_validation_model_eval()
        verify_log_probs(self.evaluator, self.settings.base)

    def on_train_end(self) -> None:
        """Refuse weights that have diverged in the last step; see `verify_result`."""
        place = f"stage {self.stage}, step {self.step} of {self.total_steps}"
        verify_result(self.evaluator, self._training_row(), place, self.recipe.lr)

    def training_step(self, batch: GlobalBatch, batch_idx: int) -> None:
        """Make one optimizer step on a global batch, micro-batch by micro-batch.

        Args:
            batch: this process's share.
            batch_idx: number of the step since the stage was started or resumed, from 0.

        Raises:
            DivergedError: if the loss of the global batch is not finite; weights are then still
                those of the step before.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert not isinstance(optimizer, list) and scheduler is not None
        self.weights.are_changed = True
        number = self._start.done + batch_idx
        # Dropout of each step: Lightning's loops draw random numbers too, in a trainer's later fits
        # more than in its first, and a resumed run must not see the difference.
        share, processes = self.placement.data_share
        torch.manual_seed(derive_seed(self.seed, self.stage, number, share))
        total = torch.zeros((), dtype=self.network.result_dtype, device=self.device)
        passes = shares(batch, self.objective, self.retain_term)
        for place, own in enumerate(passes):
            last = place == len(passes) - 1
            with nullcontext() if last else self._keep_gradients_local():
                # Nothing else holds the values, so they are freed before the optimizer step.
                loss = own.loss(self.network)
                # Strategies average gradients over processes; ours are shares of one sum.
                self.manual_backward(loss * processes)
            total += loss.detach()
        # The mean counts a share once, however many processes work on it.
        total = processes * self.trainer.strategy.reduce(total, reduce_op="mean")
        self._check_loss(total, number)
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

    def _check_loss(self, loss: Tensor, number: int) -> None:
        if not torch.isfinite(loss):
            raise DivergedError(
                f"stage {self.stage}, step {number + 1} of {self.total_steps}: the loss is "
                f"{loss.item()}. Results stored before this stage are kept. Lower the learning "
                f"rate (now {self.recipe.lr:g}) or clip gradients (gradient_clip)."
            )

    def _keep_gradients_local(self) -> AbstractContextManager[Any]:
        """Exchange gradients once per step, not after every micro-batch."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: monitors evaluate the model, in ``fit`` and in ``validate`` alike."""

    def configure_optimizers(self) -> Any:
        """Make optimizer and schedule of the started stage: fresh, or its checkpoint's."""
        optimizer = make_optimizer(self.parameters(), self.recipe)
        # Given up once it is used: it takes twice the memory of the trained weights.
        state, self._start.optimizer = self._start.optimizer, None
        scheduler = make_scheduler(
            optimizer, self.recipe, self.total_steps, self._start.done, state
        )
        return [optimizer], [scheduler]
