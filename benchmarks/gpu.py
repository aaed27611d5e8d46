"""Measure a training step on a GPU: tokens per second, fraction of the matmul rate, memory.

The shapes are Llama-3.2-1B and Qwen2.5-14B in bf16 with random weights and LoRA on all linear
layers. The sides are this package's learning step, its NPO step, and Hugging Face's Trainer with
PEFT on the same micro-batches, in alternating rounds. Peak memory is compared with the value of
`lightning-unlearn plan`. Weights are created on the GPU; nothing is downloaded. The shapes "tiny"
and "60m" test the script on a CPU, where processor time is measured.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from gpu_sides import (
    DTYPES,
    OutOfMemory,
    Run,
    Setting,
    empty_gpu,
    hugging_face,
    make_plan,
    now,
    ours,
)

from lightning_unlearn import NPO, LoRA, Recipe, StagedTrainer
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.pretrained import load_config, quiet_transformers
from lightning_unlearn.model.settings import ModelSettings
from lightning_unlearn.planning.model_shapes import CONFIGS, config_folder
from lightning_unlearn.planning.simulation import Simulation

SHAPES = {
    "llama3.2-1b": "meta-llama/Llama-3.2-1B",
    "qwen2.5-14b": "Qwen/Qwen2.5-14B",
    "60m": "60m",
    "tiny": "tiny",
}
TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
# Proportions of Llama 3.2.
MEDIUM = TINY | {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
OWN = {"60m": MEDIUM, "tiny": TINY}
LORA = LoRA(rank=16, alpha=32)


def size(count: float) -> str:
    """Return a number of bytes as text in MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.2f} MiB"


def matmul_rate(device: str, dtype: torch.dtype, size: int, repeats: int = 21) -> float:
    """Measure the median operations per second of a product of two square matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for number in range(repeats + 3):
        began = now(device)
        left @ right
        if number >= 3:
            seconds.append(now(device) - began)
    return 2 * size**3 / statistics.median(seconds)


def flops(config: Any, lora: LoRA, sequences: int, length: int, labels: int, again: bool) -> float:
    """Compute the floating-point operations of a training step with a frozen base, by formula.

    A product with a frozen weight costs 2 per parameter and token forward, and 2 backward for the
    gradient of its input; a frozen weight has no gradient itself. Adapter weights have a gradient,
    so they cost 6. The output projection counts for label tokens only, on both sides, because no
    other position is needed. Attention is counted as causal, half of all pairs: 2 products forward
    and 4 backward. Recomputed activations add a forward pass of the trunk.

    Args:
        config: configuration of the model.
        lora: adapters on all linear layers but the output projection.
        sequences: number of sequences of the step.
        length: number of tokens per sequence.
        labels: number of label tokens per sequence.
        again: whether activations are recomputed.
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    linear = [(width, queries), (width, keys), (width, keys), (queries, width)]
    linear += [(width, inner), (width, inner), (inner, width)]
    base = layers * sum(a * b for a, b in linear)
    adapters = layers * sum(lora.rank * (a + b) for a, b in linear)
    tokens = sequences * length
    pairs = sequences * length * length / 2
    # Two products over the visible pairs: queries with keys, and attention weights with values.
    attention = layers * 2 * 2 * pairs * queries
    trunk = 4 * base * tokens + 6 * adapters * tokens + 3 * attention
    if again:
        trunk += 2 * (base + adapters) * tokens + attention
    return trunk + 4 * config.vocab_size * width * sequences * labels


def planned(setting: Setting, unlearns: bool, micro: int, length: int, accumulates: bool) -> int:
    """Return the peak in bytes that `lightning-unlearn plan` simulates."""
    settings = ModelSettings(
        setting.folder,
        setting.lora,
        gradient_checkpointing=setting.checkpointing,
        attn_implementation=setting.attention,
    )
    trainer = StagedTrainer(
        accelerator="cpu", precision=setting.precision, logger=False, enable_progress_bar=False
    )
    plugin = trainer.strategy.precision_plugin
    simulation = Simulation(settings, setting.precision, plugin, 1, False)
    try:
        phase = "unlearning" if unlearns else "learning"
        method = NPO() if unlearns else None
        recipe = Recipe(lr=1e-5)
        return simulation.train(phase, recipe, method, micro, length, accumulates).peak  # type: ignore[arg-type]
    finally:
        simulation.close()


class Table:
    """Runs of several sides in alternating rounds, with printed results."""

    def __init__(self, sides: dict[str, Callable[[], Run]]) -> None:
        self.sides = sides
        self.runs: dict[str, list[Run]] = {name: [] for name in sides}
        self.failed: dict[str, str] = {}

    def fill(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, side in self.sides.items():
                if name in self.failed:
                    continue
                try:
                    self.runs[name].append(side())
                except OutOfMemory as error:
                    self.failed[name] = f"out of memory ({error})"
                empty_gpu()

    def speed(self, tokens: int, labels: int, work: float, rate: float) -> None:
        """Print tokens per second of each side and its fraction of the GPU's rate."""
        for name, runs in self.runs.items():
            if name in self.failed:
                print(f"  {name:<24}{self.failed[name]}")
                continue
            seconds = statistics.median(run.seconds for run in runs)
            peak = max(run.peak for run in runs)
            memory = f"peak {size(peak)}" if peak else "peak not measured"
            print(
                f"  {name:<24}{tokens / seconds:10.0f} tokens/s {labels / seconds:10.0f} labels/s "
                f"{work / seconds / 1e12:9.3f} TFLOPS {100 * work / seconds / rate:6.1f} % of "
                f"matmul, {memory}, first loss {runs[0].loss:.4f}"
            )

    def ratio(self, first: str, second: str) -> None:
        """Print the speed ratio of two sides over the rounds."""
        pairs = zip(self.runs[first], self.runs[second], strict=False)
        ratios = [b.seconds / a.seconds for a, b in pairs]
        if ratios and not {first, second} & set(self.failed):
            print(
                f"  {first} against {second}: {statistics.median(ratios):.2f} x as fast "
                f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)"
            )


def bench(name: str, folder: str, options: argparse.Namespace, rate: float) -> None:
    """Measure a shape and print the results."""
    config = load_config(folder, False)
    micro, batch = options.micro_batch, options.batch or 2 * options.micro_batch
    length = options.length
    labels = options.labels or max(1, length // 2)
    warmup = 2
    plan = make_plan(config.vocab_size, length, labels, micro, batch, warmup + options.steps)
    setting = Setting(
        folder,
        options.device,
        options.precision,
        options.attention,
        options.gradient_checkpointing,
        LORA,
        plan,
        warmup,
    )
    print(
        f"\n{name}: {options.precision}, {options.attention}, "
        f"micro-batches of {micro} x {length} tokens, "
        f"{labels} of them labels, {batch} sequences a step, LoRA rank {LORA.rank}, "
        f"{'with' if options.gradient_checkpointing else 'without'} gradient checkpointing"
    )
    sides: dict[str, Callable[[], Run]] = {"ours": lambda: ours(setting)}
    if options.compile:
        sides["ours, compiled"] = lambda: ours(setting, compiled=True)
    if "npo" in options.against:
        sides["ours, NPO"] = lambda: ours(setting, unlearns=True)
    if "hf" in options.against:
        sides["Hugging Face"] = lambda: hugging_face(setting)
    table = Table(sides)
    table.fill(options.rounds)
    work = flops(config, LORA, batch, length, labels, options.gradient_checkpointing)
    counted = options.steps * batch
    table.speed(counted * length, counted * labels, options.steps * work, rate)
    for other in ("Hugging Face", "ours, NPO"):
        if other in sides:
            table.ratio("ours", other)
    if options.compile:
        table.ratio("ours, compiled", "ours")
    for unlearns in (False, True):
        memory(setting, config, unlearns, micro, batch, length)


def memory(
    setting: Setting, config: Any, unlearns: bool, micro: int, batch: int, length: int
) -> None:
    """Print planned and real peak memory of a step in which all tokens but the first are labels."""
    full = make_plan(config.vocab_size, length, length - 1, micro, batch, 2)
    phase = "unlearning" if unlearns else "learning"
    said = planned(setting, unlearns, micro, length, batch > micro)
    text = f"  peak in {phase}, all tokens labels: planned {size(said)}"
    if setting.device == "cpu":
        print(f"{text}; not measured on a CPU")
        return
    try:
        real = ours(dataclasses.replace(setting, plan=full, warmup=1), unlearns).peak
        within = abs(said / real - 1) <= 0.1
        text += f", measured {size(real)}, ratio {said / real:.3f}"
        print(f"{text}: {'within' if within else 'NOT within'} 10 %")
    except OutOfMemory as error:
        print(f"{text}, measured: out of memory ({error})")
    empty_gpu()


def positive(text: str) -> int:
    """Parse an argument as a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--shapes", "--shape", nargs="+", choices=SHAPES, default=["llama3.2-1b", "qwen2.5-14b"])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=["cuda", "cpu"], default=default)
    add("--attention", default="sdpa", choices=["sdpa", "eager", "flash_attention_2"])
    add("--length", type=positive, default=512, help="tokens of a sequence")
    add("--labels", type=positive, help="label tokens of a sequence; default: half of its tokens")
    add("--micro-batch", type=positive, default=8, help="sequences per forward pass")
    add(
        "--batch",
        type=positive,
        help="sequences per optimizer step; default: two micro-batches",
    )
    add("--steps", type=positive, default=10, help="timed optimizer steps per round")
    add("--rounds", type=positive, default=3)
    add("--compile", action="store_true", help="also measure with model.compile")
    add("--gradient-checkpointing", action="store_true")
    add("--precision", choices=list(DTYPES), help="default: bf16-true on a GPU")
    add(
        "--against",
        nargs="*",
        choices=["npo", "hf"],
        default=["npo", "hf"],
        help="what learning is compared with: a step of NPO, Hugging Face's Trainer",
    )
    options = parser.parse_args(arguments)
    options.precision = options.precision or ("32-true" if options.device == "cpu" else "bf16-true")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU")
    if options.device == "cpu" and not set(options.shapes) <= set(OWN):
        shapes = " and ".join(options.shapes)
        parser.error(f"--shapes: found {shapes}, too slow on a CPU; set --shapes tiny")
    if options.length < 2:
        parser.error("--length: expected at least 2, one token of prompt and one of answer")
    if options.labels and options.labels >= options.length:
        parser.error("--labels: expected less than --length: a prompt has at least one token")
    quiet_transformers()
    if options.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        print(f"{gpu.name}, {size(gpu.total_memory)}, torch {torch.__version__}")
    else:
        print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    dtype = DTYPES[options.precision]
    rate = matmul_rate(options.device, dtype, 8192 if options.device == "cuda" else 512)
    print(f"matrix product, {dtype}: {rate / 1e12:.3f} TFLOPS, median of 21")
    CONFIGS.update(OWN)
    for name in options.shapes:
        base = SHAPES[name]
        with config_folder(base) as folder:
            try:
                bench(name, folder, options, rate)
            except InputError as error:
                raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
