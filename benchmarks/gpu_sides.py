"""The two sides of `gpu.py`: this package's training step, and Hugging Face's Trainer with PEFT.

Both train LoRA adapters in fp32 on a frozen base (bf16 on a GPU) with AdamW at a constant learning
rate on the same micro-batches. Both are timed over the same optimizer steps inside their own loops.
"""

import gc
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from lightning_unlearn import NPO, CausalLM, LoRA, Recipe, StagedTrainer
from lightning_unlearn.data.batches import BatchPlan
from lightning_unlearn.data.examples import Example
from lightning_unlearn.distributed import sharding
from lightning_unlearn.model.compat import enable_gradient_checkpointing
from lightning_unlearn.model.pretrained import empty_causal_lm, load_config
from lightning_unlearn.model.stage import StageStart

# Standard deviation of random weights, as in the initialization of models.
SPREAD = 0.02
DTYPES = {"bf16-true": torch.bfloat16, "32-true": torch.float32}


@dataclass(frozen=True)
class Setting:
    """Settings of both sides.

    Attributes:
        folder: folder of the model's configuration.
        device: "cuda" or "cpu".
        precision: "bf16-true" or "32-true".
        attention: attention implementation of transformers.
        checkpointing: whether to recompute activations.
        lora: the adapters.
        plan: the batches, equal for both sides.
        warmup: number of optimizer steps before the timed ones.
    """

    folder: str
    device: str
    precision: str
    attention: str
    checkpointing: bool
    lora: LoRA
    plan: BatchPlan
    warmup: int


@dataclass(frozen=True)
class Run:
    """Measurement of a side.

    Attributes:
        seconds: duration of the timed steps; on a CPU, processor time.
        peak: peak bytes of tensors in the GPU's memory; 0 on a CPU.
        loss: loss of the first step.
    """

    seconds: float
    peak: int
    loss: float


class OutOfMemory(Exception):
    """Raised when a side needs more memory than the GPU has."""


def now(device: str) -> float:
    """Return the time in seconds after the GPU has finished its work; on a CPU, processor time."""
    if device == "cpu":
        # Processor time does not include other processes.
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Measures the time of the steps after the warmup; waits for the GPU only at both ends."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.began = self.seconds = 0.0
        self.loss: Any = None

    def before(self, step: int) -> None:
        if step == self.setting.warmup:
            self.began = now(self.setting.device)

    def after(self, step: int) -> None:
        if step == len(self.setting.plan) - 1:
            self.seconds = now(self.setting.device) - self.began


def make_plan(
    vocabulary: int, length: int, labels: int, micro: int, batch: int, steps: int
) -> BatchPlan:
    """Create batches of random sequences of equal length; the last tokens are the answer."""
    generator = torch.Generator().manual_seed(0)
    # Ids start at 10, so that none is an end or padding token of a model.
    rows = torch.randint(10, vocabulary, (batch * steps, length), generator=generator).tolist()
    split = length - labels
    examples = [Example(tuple(row[:split]), tuple(row[split:])) for row in rows]
    recipe = Recipe(lr=1e-5, steps=steps, batch_size=batch)
    return BatchPlan(examples, recipe, seed=0, stage="stage", pad_id=0, micro_batch_size=micro)


@torch.no_grad()
def fill_random(lm: Any, device: torch.device) -> None:
    """Create random weights of a model directly on its device, without a file."""
    sharding.materialize(lm, lm, device)
    torch.manual_seed(0)
    for name, parameter in lm.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=SPREAD)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


class Random(CausalLM):
    """The module with random weights that are created on its device."""

    device_made = "cpu"

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.pretrained.load = self._load  # type: ignore[method-assign]

    def _load(self, dtype: torch.dtype, name: str | None = None, **options: Any) -> Any:
        lm = self.pretrained.empty(dtype)
        fill_random(lm, torch.device(self.device_made))
        return lm.eval()


class _Timed(Callback):
    """Callback that runs the clock in Lightning's loop."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, number: int) -> None:
        self.clock.before(number)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int
    ) -> None:
        self.clock.after(number)
        if number == 0:
            self.clock.loss = trainer.callback_metrics["loss"]


def ours(setting: Setting, unlearns: bool = False, compiled: bool = False) -> Run:
    """Measure this package's training: `CausalLM.training_step` in Lightning's loop.

    Args:
        setting: settings of both sides.
        unlearns: whether to unlearn with NPO instead of learning.
        compiled: whether to use ``model.compile``.
    """
    clock = Clock(setting)
    module = Random(
        setting.folder,
        setting.lora,
        gradient_checkpointing=setting.checkpointing,
        attn_implementation=setting.attention,
        compile=compiled,
    )
    module.device_made = setting.device
    with tempfile.TemporaryDirectory() as folder:
        trainer = StagedTrainer(
            store=f"{folder}/store",
            default_root_dir=folder,
            accelerator="gpu" if setting.device == "cuda" else "cpu",
            devices=1,
            precision=setting.precision,
            logger=False,
            enable_progress_bar=False,
            callbacks=[*([NPO()] if unlearns else []), _Timed(clock)],
        )
        module.checks.device(str(trainer.precision), trainer.strategy.root_device)
        stage = "unlearn" if unlearns else "stage"
        recipe = Recipe(lr=1e-5, schedule="constant", batch_size=len(setting.plan.steps[0]))
        module.start_stage(StageStart(stage, recipe, len(setting.plan), seed=0, fresh=True))
        return _run(lambda: trainer.fit_once(module, setting.plan.loader()), clock)


def hugging_face(setting: Setting) -> Run:
    """Measure Hugging Face's Trainer on a PEFT model as in its documentation: adapters in fp32.

    Logging, saving, evaluation and clipping are off.

    Args:
        setting: settings of both sides.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback

    clock = Clock(setting)
    peft = _peft_model(setting)

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.before(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.after(state.global_step - 1)

    class Same(Trainer):  # type: ignore[misc]
        """Trainer with the micro-batches of the plan."""

        def get_train_dataloader(self) -> Any:
            return DataLoader(micro_batches(setting.plan), batch_size=None)

        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            if self.state.global_step == 0:
                clock.loss = loss + (0 if clock.loss is None else clock.loss)
            return loss

    with tempfile.TemporaryDirectory() as folder:
        options = _training_arguments(setting, folder)
        trainer = Same(model=peft, args=options, train_dataset=[{}], callbacks=[Ticks()])
        trainer.remove_callback(PrinterCallback)
        return _run(trainer.train, clock)


def _peft_model(setting: Setting) -> Any:
    """Create a model with random weights and PEFT's adapters."""
    from peft import LoraConfig, get_peft_model

    shape = load_config(setting.folder, False)
    lm = empty_causal_lm(shape, DTYPES[setting.precision], setting.attention, False)
    fill_random(lm, torch.device(setting.device))
    lm.config.use_cache = False
    if setting.checkpointing:
        enable_gradient_checkpointing(lm)
    lora = setting.lora
    targets = (
        lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    )
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM"
    )
    with quiet_peft():
        return get_peft_model(lm, config)


def _training_arguments(setting: Setting, folder: str) -> Any:
    """Return the arguments of Hugging Face's Trainer for one GPU or the CPU."""
    from transformers import TrainingArguments

    options = TrainingArguments(
        output_dir=folder,
        use_cpu=setting.device == "cpu",
        bf16=setting.precision == "bf16-true",
        max_steps=len(setting.plan),
        per_device_train_batch_size=len(setting.plan[0].micro_batches[0].index),
        gradient_accumulation_steps=len(setting.plan[0].micro_batches),
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=0,
    )
    if options.n_gpu > 1:
        # Use one GPU as the other side does; the Trainer would use all visible ones.
        options._n_gpu = 1
    return options


def micro_batches(plan: BatchPlan) -> list[dict[str, torch.Tensor]]:
    """Convert the micro-batches of a plan to the input format of transformers, in order."""
    found = []
    for number in range(len(plan)):
        for micro in plan[number].micro_batches:
            labels = torch.full_like(micro.input_ids, -100)
            # `label_positions` predict a label: they are one before the label itself.
            labels.view(-1)[micro.label_positions + 1] = micro.label_ids
            mask = torch.ones_like(micro.input_ids)
            found.append({"input_ids": micro.input_ids, "labels": labels, "attention_mask": mask})
    return found


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide PEFT's warning about a deprecated name of transformers 5."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        yield


def _run(train: Callable[[], Any], clock: Clock) -> Run:
    """Train and return the measurement."""
    on_gpu, lacking = clock.setting.device == "cuda", ""
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    try:
        with quiet_peft():
            train()
    except torch.OutOfMemoryError as error:
        lacking = str(error).splitlines()[0]
    if lacking:
        # Raise outside of the except block: the error's frames keep references to the tensors.
        raise OutOfMemory(lacking)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return Run(clock.seconds, peak, float(clock.loss))


def empty_gpu() -> None:
    """Free the memory of a side, and print a warning if some is still in use."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        if (left := torch.cuda.memory_allocated()) > 2**27:
            print(f"  {left / 2**20:.0f} MiB are still in use: the following peaks are too high")
