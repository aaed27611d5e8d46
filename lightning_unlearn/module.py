"""CausalLM: a language model with adapters, an objective slot, and one optimizer step per batch."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from lightning_unlearn import adapters, objectives, sharding
from lightning_unlearn.adapters import LEARN, UNLEARN, LoRA
from lightning_unlearn.attention import check_attention
from lightning_unlearn.compiling import check_compiling, compile_layers, uncompiled
from lightning_unlearn.data.batches import Batch, StepBatch, collate, derive_seed
from lightning_unlearn.data.chat import Example
from lightning_unlearn.data.datamodule import ORACLE
from lightning_unlearn.data.recipe import Recipe
from lightning_unlearn.errors import DivergedError, InputError
from lightning_unlearn.forward import LogProbModel, Wanted
from lightning_unlearn.gathering import ByExample
from lightning_unlearn.loading import (
    base_identity,
    empty_causal_lm,
    load_causal_lm,
    load_config,
    load_tokenizer,
    locate,
)
from lightning_unlearn.logprobs import LogProbs
from lightning_unlearn.model_check import check_model
from lightning_unlearn.quantization import (
    Quantization,
    check_base,
    check_quantization,
    loading_options,
    settle,
    unpack_into,
)
from lightning_unlearn.quiet import quiet_transformers
from lightning_unlearn.schedules import schedule
from lightning_unlearn.states import restore_optimizer
from lightning_unlearn.strategy import data_share
from lightning_unlearn.tensor_parallel import check_cut, check_tensor_parallel

Objective = Callable[["CausalLM", Batch], Tensor]


def supervised(module: "CausalLM", batch: Batch) -> Tensor:
    """The objective of training stages: negative log-likelihood per label token."""
    return objectives.nll(module.log_probs(batch).per_token)


@dataclass
class StageEntry:
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


class CausalLM(LightningModule):
    """Any Hugging Face causal LM, with LoRA adapters or fully trained.

    Args:
        base: model folder, hub name, or demo:tiny-llama.
        lora: shape of the adapters; null trains all weights.
        quantization: nf4 keeps the base in 4 bits a weight, as QLoRA does; needs bitsandbytes.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        merge: also write the final model, adapters merged, as a plain Hugging Face folder.
        attention: attention implementation of transformers: sdpa, eager, flash_attention_2 (with
            the package flash-attn, on a GPU, in 16 bits).
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
        attention: str = "sdpa",
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
        self.attention = attention
        # Not by its own name, which is a method of modules.
        self.compiles = compile
        self.trust_remote_code = trust_remote_code
        self.automatic_optimization = False
        self.model_config = load_config(base, trust_remote_code)
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
        self._entry: StageEntry | None = None
        self._changed = False
        self._seed = 0
        self._held: dict[str, str] = {}
        self._done = 0
        self._remembered: dict[str, Any] | None = None
        self._tokenizer: Any = None
        self._identity: str | None = None
        self._fits = False

    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.base, self.trust_remote_code)
        return self._tokenizer

    @property
    def context(self) -> int:
        """Longest sequence the base model takes, in tokens."""
        text = self.model_config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or 2**20)

    def check_adapters(self) -> None:
        """Refuse adapters that do not fit the model, without loading its weights.

        Raises:
            InputError: if the targets match nothing.
        """
        if self.lora is None or self.lora.targets == "all-linear" or self._fits:
            return
        lm = self._empty_lm()
        with torch.device("meta"):
            adapters.add_adapters(lm, self.lora, lm.name_or_path)
        self._fits = True

    def check_device(self, precision: str, device: torch.device) -> None:
        """Refuse settings that can't be used on a device.

        Args:
            precision: of the Trainer.
            device: of this process.

        Raises:
            InputError: naming what is missing.
        """
        check_attention(self.attention, precision, device, self.trust_remote_code)
        if self.compiles:
            check_compiling(device)

    def check_layers(self, names: list[str] | None, tensor_parallel_size: int = 1) -> None:
        """Refuse to cut up a model whose layers can't be found or shared out; loads no weights.

        Args:
            names: of the classes of decoder layers, as of `FSDP2`.
            tensor_parallel_size: processes that share a layer.

        Raises:
            InputError: naming what there is.
        """
        lm = self._empty_lm()
        sharding.decoder_layers(lm, names)
        if tensor_parallel_size > 1:
            if self.compiles:
                raise InputError(
                    "model.compile: found true with tensor_parallel_size "
                    f"{tensor_parallel_size}, expected false, or 1."
                )
            check_tensor_parallel(lm.config, self.lora, tensor_parallel_size)
            assert self.lora is not None
            with torch.device("meta"):
                adapters.add_adapters(lm, self.lora, lm.name_or_path)
            check_cut(lm)

    def check_quantization(self, trainer: Any) -> None:
        """Refuse to quantise where it can't be done; loads no weights.

        Args:
            trainer: gives precision and strategy.

        Raises:
            InputError: naming what is in the way.
        """
        if self.quantization is not None:
            if self.compiles:
                raise InputError(
                    f"model.compile: found true with model.quantization {self.quantization}, "
                    "expected false."
                )
            check_quantization(self._empty_lm(), str(trainer.precision), trainer.strategy)

    def identity(self) -> str:
        """Hash of the base model's configuration and weights."""
        if self._identity is None:
            self._identity = base_identity(self.base, self.trust_remote_code)
            # Now, for it names a file that is missing.
            sharding.weight_files(self.base)
        return self._identity

    def configure_model(self) -> None:
        """Open the base model and put the adapters on it, once; then enter the stage begun."""
        if self.net is None:
            self._build()
        if self._entry is not None:
            entry, self._entry = self._entry, None
            self._enter_stage(entry)

    def _build(self) -> None:
        lm = self._empty_lm() if self.is_sharded else self._open()
        lm.config.use_cache = False
        if self.gradient_checkpointing:
            # The reentrant form gives adapters on a frozen embedding no gradient at all.
            # transformers renamed the method within its version 5 and warns about the older name.
            newer = getattr(lm, "activation_checkpointing_enable", None)
            (newer or lm.gradient_checkpointing_enable)({"use_reentrant": False})
        if self.lora is not None:
            name = locate(self.base, "model.base")
            peft_model = adapters.add_adapters(lm, self.lora, name)
            adapters.choose_adapters(peft_model, [LEARN], LEARN)
            # Kept out of the module tree: its layers are lm's own.
            object.__setattr__(self, "peft", peft_model)
        net = LogProbModel(lm, self.compiles)
        if self.is_sharded:
            assert self._device_mesh is not None
            sharding.shard(net, lm, self._device_mesh, self.trainer.strategy)
            self._fill(net, lm)
        if self.compiles:
            names = getattr(self._strategy, "layers", None)
            compile_layers(sharding.decoder_layers(lm, names))
        self.net = net

    def _fill(self, net: LogProbModel, lm: Any) -> None:
        """Give a model that is cut up its memory, and of the base weights this process's part."""
        away = getattr(self.trainer.strategy, "cpu_offload", False)
        device = torch.device("cpu") if away else self.trainer.strategy.root_device
        sharding.materialise(net, lm, device)
        self._load_parts(lm, self.base)

    def _open(self) -> Any:
        """The base model as it is computed with."""
        if self.quantization is None:
            return self._load(self.base)
        trainer = self._trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        lm = self._load(self.base, **loading_options(self._precision(), device))
        settle(lm)
        return lm

    def _empty_lm(self) -> Any:
        """The base model without memory for its weights."""
        return empty_causal_lm(
            self.model_config, self._weight_dtype(), self.attention, self.trust_remote_code
        )

    def _load_parts(self, lm: Any, name: str) -> None:
        """Fill a model that is cut up with the weights of one on disk."""
        warn = getattr(self.trainer, "warn", None) if self.global_rank == 0 else None
        sharding.load_base(
            lm, name, lambda: self._load(name).state_dict(), warn or (lambda text: None)
        )

    def _load(self, name: str, **options: Any) -> Any:
        """A causal LM as this one is, whole, and not quantised unless options say so."""
        return load_causal_lm(
            name, self._weight_dtype(), self.attention, self.trust_remote_code, **options
        )

    @property
    def _strategy(self) -> Any:
        return self._trainer.strategy if self._trainer is not None else None

    @property
    def is_sharded(self) -> bool:
        """Whether every process holds only a part of the model."""
        return self._device_mesh is not None

    def _weight_dtype(self) -> torch.dtype:
        """Weights in the Trainer's precision where it is a "true" one, else in fp32."""
        precision = self._precision()
        return {"bf16-true": torch.bfloat16, "16-true": torch.float16}.get(
            precision, torch.float64 if precision == "64-true" else torch.float32
        )

    def _precision(self) -> str:
        return str(self._trainer.precision) if self._trainer is not None else "32-true"

    @property
    def lm(self) -> Any:
        """The Hugging Face model with adapters injected."""
        assert self.net is not None, "configure_model() comes first"
        return self.net.lm

    def begin(self, entry: "StageEntry") -> None:
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

    def _enter_stage(self, entry: "StageEntry") -> None:
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

    def _take_up(self, name: str) -> None:
        """Give all weights those of a stored model."""
        if self.is_sharded:
            self._load_parts(self.lm, name)
        else:
            self.lm.load_state_dict(self._load(name).state_dict())

    def weights(self, which: str) -> dict[str, Tensor]:
        """What training changed, whole; every process must ask.

        Args:
            which: "learn" or "unlearn"; without adapters both are the whole model.

        Returns:
            Tensors on the CPU by name; on other processes than the first nothing, but for the
            asking.
        """
        if self.global_rank and not self.is_sharded:
            return {}
        if self.peft is not None:
            return adapters.adapter_weights(self.peft, which)
        # Tied weights by one of their names: apart they would be written twice.
        twice = set(dict(self.lm.named_parameters(remove_duplicate=False)))
        twice -= set(dict(self.lm.named_parameters()))
        state = {name: v for name, v in self.lm.state_dict().items() if name not in twice}
        parts = ((name, sharding.whole(value.detach())) for name, value in state.items())
        return {name: value.cpu() for name, value in parts if self.global_rank == 0}

    def save(self, which: str, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write what training changed.

        Args:
            which: "learn" or "unlearn"; without adapters both are the whole model.
            folder: made if missing. Holds a PEFT adapter, or a model where ``lora`` is null.
            weights: from `weights`; None asks for them, which on several processes all must do.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.weights(which) if weights is None else weights
        if self.peft is None:
            self.lm.save_pretrained(folder, state_dict=weights)
        else:
            adapters.save_adapter(self.peft, which, folder, weights)

    def load(self, which: str, folder: Path) -> None:
        """Take up what `save` wrote.

        Args:
            which: "learn" or "unlearn".
            folder: where `save` wrote.

        Raises:
            InputError: if it does not fit.
        """
        if self.peft is not None:
            adapters.load_adapter(self.peft, which, folder)
            return
        self._changed = True
        self._take_up(str(folder))

    def save_merged(self, folder: Path) -> None:
        """Write the present model as a plain Hugging Face folder with its tokenizer.

        Every process must ask; the first one writes, and puts the whole model into its memory. Of a
        quantised base the weights it computes with are written, adapters added, in the Trainer's
        precision: packed into 4 bits again they would be another model.

        Args:
            folder: made if missing; ``AutoModelForCausalLM.from_pretrained`` opens it.
        """
        parts = (LEARN, UNLEARN) if self.peft is not None else (LEARN,)
        anew = self.is_sharded or self.quantization is not None
        own = {which: self.weights(which) for which in parts} if anew else {}
        if self.global_rank:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if anew:
            merged = self._load(self.base)
            if self.quantization is not None:
                unpack_into(merged, self.lm)
            if self.peft is None:
                # Without the second name of tied weights.
                merged.load_state_dict(own[LEARN], strict=False)
            else:
                assert self.lora is not None
                peft = adapters.add_adapters(merged, self.lora, self.base)
                for which, weights in own.items():
                    adapters.fill_adapter(peft, which, weights)
                active = list(self.peft.base_model.active_adapters)
                merged = peft.merge_and_unload(adapter_names=active)
        elif self.peft is None:
            merged = self.lm
        else:
            active = list(self.peft.base_model.active_adapters)
            merged = copy.deepcopy(self.peft).merge_and_unload(adapter_names=active)
        use_cache, merged.config.use_cache = merged.config.use_cache, True
        merged.save_pretrained(folder)
        merged.config.use_cache = use_cache
        self.tokenizer().save_pretrained(folder)

    def log_probs(self, batch: Batch) -> LogProbs:
        """Log-probabilities of a batch's label tokens, with gradient where it is enabled."""
        assert self.net is not None, "configure_model() comes first"
        flat = self.net(batch.input_ids, batch.source, batch.target)
        return LogProbs.scatter(flat, batch.mask)

    def score(self, examples: Sequence[Example], batch_size: int) -> LogProbs:
        """Log-probabilities of the answers of a whole data set.

        Spread over the processes, each example once, in eval mode without gradient.

        Args:
            examples: the data set.
            batch_size: sequences of one forward.

        Returns:
            ``[examples, longest answer]``, on this process's device, the same on every process.
        """
        longest = max(len(example.answer) for example in examples)
        values = ByExample(len(examples)).to(self.device)
        values.update(
            torch.empty(0, dtype=torch.long, device=self.device),
            torch.empty(0, longest, dtype=torch.float32, device=self.device),
        )
        for batch, flat in self.passes(examples, batch_size):
            per_token = LogProbs.scatter(flat, batch.mask).per_token
            wide = per_token.new_zeros(len(per_token), longest)
            wide[:, : per_token.shape[1]] = per_token
            values.update(batch.index, wide)
        lengths = torch.tensor([len(example.answer) for example in examples])
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        return LogProbs(values.compute(), mask.to(self.device))

    def passes(
        self,
        examples: Sequence[Example],
        batch_size: int,
        wanted: Wanted = "log_probs",
        oracle: Sequence[Tensor] | None = None,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """This process's share of one pass over a data set, batch by batch.

        In eval mode without gradient. The cut is the same in every pass.

        Args:
            examples: the data set.
            batch_size: sequences of one forward.
            wanted: what is computed of the label tokens, as of `LogProbModel.forward`.
            oracle: hidden states of the oracle, batch by batch, as another pass gave them.

        Yields:
            A batch on this process's device, and a value or a row of values per label token.
        """
        assert self.net is not None, "configure_model() comes first"
        order = sorted(range(len(examples)), key=lambda i: (len(examples[i]), i))
        mine = self.own_share(order)
        with self.measuring():
            for number, start in enumerate(range(0, len(mine), batch_size)):
                rows = mine[start : start + batch_size]
                batch: Batch = self.to_device(collate(examples, rows, pad_id=0))
                aim = None if oracle is None else oracle[number]
                flat = self.net(
                    batch.input_ids, batch.source, batch.target, wanted=wanted, oracle=aim
                )
                yield batch, flat
            most = -(-len(order) // self.data_share[1])
            self.fill_up(-(-most // batch_size) - -(-len(mine) // batch_size))

    def most(self, count: int) -> int:
        """The highest of a model's processes' counts, where it is cut up; else this count."""
        if not self.is_sharded:
            return count
        counts = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
        return int(counts.item())

    def fill_up(self, count: int) -> None:
        """Forwards that only keep this process in step with the others.

        A model that is cut up is put together anew in every forward, in which all take part.

        Args:
            count: so many are missing here.
        """
        assert self.net is not None, "configure_model() comes first"
        if self.is_sharded:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            for _ in range(count):
                self.net(token, token[0], token[0])

    def gradient_norms(self, examples: Sequence[Example]) -> dict[int, float]:
        """Norm of the gradient of each example's loss, its negative log-likelihood per token.

        With respect to the adapter that goes through all stages, or to all weights where there are
        no adapters. One backward pass per example; gradients of training are left alone.

        Args:
            examples: the data set.

        Returns:
            Norms by example number, for this process's share.
        """
        if self.peft is None:
            parameters = list(self.lm.parameters())
        else:
            parameters = list(adapters.adapter_parameters(self.peft, LEARN).values())
        wanted = [parameter.requires_grad for parameter in parameters]
        numbers = range(len(examples))
        mine = self.own_share(numbers)
        norms = {}
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with self.measuring(), torch.enable_grad():
                # Of a model that is cut up every process computes all.
                for number in numbers if self.is_sharded else mine:
                    batch = self.to_device(collate(examples, [number], pad_id=0))
                    loss = -self.log_probs(batch).mean.sum()
                    squares = self._squared_gradients(loss, parameters)
                    if number in mine:
                        norms[number] = squares**0.5
        finally:
            for parameter, value in zip(parameters, wanted, strict=True):
                parameter.requires_grad_(value)
        return norms

    def _squared_gradients(self, loss: Tensor, parameters: list[Tensor]) -> float:
        """Sum of the squares of a loss's gradient, the same example on all processes if sharded."""
        if self.is_sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            found = [p.grad for p in parameters if p.grad is not None]
            total = sum(sharding.whole(part.float().square().sum()).item() for part in found)
            for parameter in parameters:
                parameter.grad = None
            return float(total)
        # Not by backward(): that would reach the gradients of training, and their exchange between
        # processes.
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        squares = [part.float().square().sum() for part in grads if part is not None]
        return torch.stack(squares).sum().item()

    @property
    def shares_head(self) -> bool:
        """Whether all weights that `borrowed` gives have the same output projection."""
        if self.peft is None:
            return False
        names = (name for name, _ in self.lm.get_output_embeddings().named_parameters())
        return not any("lora_" in name for name in names)

    @contextmanager
    def borrowed(self, folder: Path | None) -> Iterator[None]:
        """The weights of another stored model for a while, then its own again, bit by bit.

        Args:
            folder: what `save` wrote of "learn"; None for the base model untouched.
        """
        if self.peft is None:
            state = self.lm.state_dict()
            own = {name: value.clone() for name, value in state.items()}
            try:
                self._take_up(str(folder or self.base))
                yield
            finally:
                with torch.no_grad():
                    for name, value in own.items():
                        state[name].copy_(value)
            return
        parameters = [
            parameter
            for which in (LEARN, UNLEARN)
            for parameter in adapters.adapter_parameters(self.peft, which).values()
        ]
        kept = [parameter.detach().clone() for parameter in parameters]
        try:
            # Without effect, and not 0 all over: gradients tell of the base model too.
            for which in (LEARN, UNLEARN):
                adapters.start_adapter(self.peft, which, self._seed)
            if folder is not None:
                adapters.load_adapter(self.peft, LEARN, folder)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Eval mode, no gradient, the Trainer's precision; afterwards all is as it was.

        Random numbers drawn inside (sampled answers) do not move those of training.
        """
        modes = {module: module.training for module in self.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        self.eval()
        try:
            with torch.random.fork_rng(devices=devices), self.precision_context(), torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            if self.is_sharded and self.net is not None:
                # What a forward without a backward put together would stay so; whoever lists
                # parameters wants the parts.
                self.net.reshard()  # type: ignore[operator]  # a method that FSDP2 adds

    def precision_context(self) -> AbstractContextManager[Any]:
        """The Trainer's precision, for a forward outside its steps."""
        return self._trainer.precision_plugin.forward_context() if self._trainer else nullcontext()

    def to_device(self, batch: Any) -> Any:
        """A batch on this module's device."""
        return self.transfer_batch_to_device(batch, self.device, 0)

    @property
    def data_share(self) -> tuple[int, int]:
        """Number of this process's share of the data, from 0, and how many shares there are."""
        return data_share(self._trainer) if self._trainer is not None else (0, 1)

    def own_share(self, numbers: Sequence[int]) -> Sequence[int]:
        """Those of some numbers that are this process's to work on."""
        share, shares = self.data_share
        return numbers[share::shares]

    def on_train_start(self) -> None:
        """Check the model on a row."""
        examples = self.trainer.train_dataloader.dataset.examples  # type: ignore[union-attr]
        # One row is a shape of its own, for which nothing else may be compiled.
        with uncompiled(self.compiles):
            check_model(self, examples[0])

    def on_train_end(self) -> None:
        """Refuse weights that the last step spoiled: a loss is looked at before its step.

        Raises:
            DivergedError: if log-probabilities of a row are not finite.
        """
        example = self.trainer.train_dataloader.dataset.examples[0]  # type: ignore[union-attr]
        with self.measuring(), uncompiled(self.compiles):
            batch = self.to_device(collate([example], [0], pad_id=0))
            finite = torch.isfinite(self.log_probs(batch).per_token).all()
        if not finite:
            raise DivergedError(
                f"stage {self.stage}, step {self.step} of {self.total_steps}: after it the "
                "log-probabilities are not finite. Everything stored before this stage is kept. "
                f"Lower the learning rate (now {self.recipe.lr:g}) or clip gradients "
                "(gradient_clip)."
            )

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
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
        total = torch.zeros((), dtype=torch.float32, device=self.device)
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
            self.clip_gradients(
                optimizer,  # type: ignore[arg-type]  # Lightning's own wrapper
                gradient_clip_val=self.recipe.gradient_clip,
                gradient_clip_algorithm="norm",
            )
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()  # type: ignore[union-attr]  # one scheduler, of LambdaLR
        self.step = number + 1
        self.log("loss", total, prog_bar=True, logger=False)
        self.log("lr", rate, logger=False)

    def _share(self, values: Tensor, micro: Batch, batch: StepBatch) -> Tensor:
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
