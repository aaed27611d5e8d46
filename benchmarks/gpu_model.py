"""Checks of `gpu_checks.py` on a model alone: attention and generated answers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_sides
import torch
from gpu import LORA, TINY
from gpu_checks import Bench
from gpu_table import Row, at_least, at_most
from torch import Tensor

from lightning_unlearn import CausalLM, LoRA, StagedTrainer
from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model.adapters import LEARN, UNLEARN
from lightning_unlearn.model.candidates import _apart, _tree_sums, grow
from lightning_unlearn.model.generation import generate_answers
from lightning_unlearn.planning.model_shapes import CONFIGS, config_folder

# Heads of 64 units, two of which share keys, as in Llama 3.2; flash attention supports them.
SHARED = TINY | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3}
# Tolerances for differences from fp32 on the CPU. For log-probabilities: root mean square, in nats.
# For gradients: norm of the difference relative to the norm. fp32 rounds by 1e-7 in three layers.
# bf16 has 8 bits, which give 0.05 and 0.07 after three layers on a CPU. A wrong mask or scale gives
# several nats, and unrelated gradients.
NEAR = {"32-true": 1e-4, "bf16-true": 0.15}
NEAR_GRADIENT = {"32-true": 1e-3, "bf16-true": 0.2}


@contextmanager
def model(
    folder: str, device: str, precision: str, attention: str, lora: LoRA = LORA
) -> Iterator[CausalLM]:
    """Create a module with random weights, equal on every device and in every precision."""
    trainer = StagedTrainer(
        accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False
    )
    module = gpu_sides.Random(folder, lora, attn_implementation=attention)
    module.trainer = trainer
    module.configure_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(module.network.hf_model.named_parameters()):
            spread = 0.05 if "lora_" in name else 0.1
            if parameter.dim() > 1 and f".{UNLEARN}." not in name:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(spread * drawn)
    yield module.to(device)  # type: ignore[misc]


def rows_of(vocabulary: int, count: int = 4) -> list[Example]:
    """Return random sequences of different lengths."""
    generator = torch.Generator().manual_seed(0)

    def tokens(most: int) -> tuple[int, ...]:
        size = int(torch.randint(most // 2, most, (), generator=generator))
        return tuple(torch.randint(10, vocabulary, (size,), generator=generator).tolist())

    return [Example(tokens(90), tokens(30)) for _ in range(count)]


def forward_and_backward(module: CausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of a batch, and the gradients of their mean, on the CPU."""
    module.train()
    with module.placement.autocast():
        values = module.network.log_probs(module.placement.to_device(batch)).per_token
        values.mean().backward()
    parts = module.adapters.parameters(LEARN).values()
    gradient = torch.cat([p.grad.float().flatten() for p in parts if p.grad is not None])
    return values.detach().float().cpu(), gradient.cpu()


def attention(bench: Bench) -> Iterator[Row]:
    """Compare all implementations with eager attention in fp32 on the CPU."""
    CONFIGS["shared"] = SHARED
    batch = collate(rows_of(TINY["vocab_size"]), range(4), pad_id=0)
    with config_folder("shared") as folder:
        with model(folder, "cpu", "32-true", "eager") as module:
            values, gradient = forward_and_backward(module, batch)
        for precision in NEAR:
            for name in ("eager", "sdpa", "flash_attention_2"):
                flash = name.startswith("flash")
                if flash and precision == "32-true":
                    continue
                about = f"{name} in {precision}"
                if flash and (bench.device == "cpu" or find_spec("flash_attn") is None):
                    why = "needs a GPU" if bench.device == "cpu" else "flash-attn is not installed"
                    yield Row(about, why, "", "skipped")
                    continue
                with model(folder, bench.device, precision, name) as module:
                    own, slope = forward_and_backward(module, batch)
                    gap = (own - values)[batch.mask].square().mean().sqrt().item()
                    yield at_most(f"{about}, log-probabilities", gap, NEAR[precision], "nats")
                    turn = ((slope - gradient).norm() / gradient.norm()).item()
                    yield at_most(f"{about}, gradients", turn, NEAR_GRADIENT[precision], "relative")
                    if not flash:
                        yield candidates(about, module, precision)
        yield fused(bench, folder)


def candidates(about: str, module: CausalLM, precision: str) -> Row:
    """Compare candidates in one sequence with a custom mask with separate forward passes."""
    prompt = rows_of(TINY["vocab_size"], 1)[0].prompt
    own = [example.answer for example in rows_of(TINY["vocab_size"], 6)]
    with module.evaluator.eval_mode():
        apart = _apart(module.evaluator, prompt, own, 3)
        tree = torch.cat([_tree_sums(module.evaluator, [tree]) for tree in grow(prompt, own)])
    lengths = torch.tensor([*map(len, own)], device=apart.device)
    gap = ((tree - apart).abs() / lengths).max().item()
    return at_most(f"{about}, candidates in one sequence", gap, NEAR[precision], "nats per token")


def fused(bench: Bench, folder: str) -> Row:
    """Check that fp32 with shared keys uses a kernel that stores no attention scores."""
    name = "sdpa in 32-true, memory of 2 x 2048 tokens"
    if bench.device == "cpu":
        return Row(name, "the memory of a CPU is not measured", "", "skipped")
    length, peaks = 2048, {}
    batch = collate([Example((10,) * 2000, (11,) * (length - 2000))] * 2, range(2), pad_id=0)
    for kind in ("eager", "sdpa"):
        with model(folder, bench.device, "32-true", kind) as module:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            forward_and_backward(module, batch)
            peaks[kind] = torch.cuda.max_memory_allocated() - before
    share = peaks["sdpa"] / peaks["eager"]
    return at_most(name, share, 0.5, "of the memory of eager attention")


def generation(bench: Bench) -> Iterator[Row]:
    """Compare generated answers of the CPU's adapters on the device with those on the CPU."""
    (run,) = (bench.work / "cpu" / "runs" / "NPO").iterdir()
    prompts, ends, tokenizer = demo_prompts()
    texts: dict[str, list[str]] = {}
    for device in dict.fromkeys(("cpu", bench.device)):
        module = CausalLM("demo:tiny-llama", LoRA(rank=16, alpha=32))
        module.configure_model()
        module.weights.load(LEARN, Path(run) / "learn")
        module.to(device)

        def write(size: int, greedy: bool, module: CausalLM = module) -> list[str]:
            options: dict[str, Any] = {"max_new_tokens": 24, "batch_size": size, "seed": 1}
            answers = generate_answers(
                module.evaluator, tokenizer, prompts, ends, greedy=greedy, **options
            )
            return [answer.text for number in sorted(answers) for answer in answers[number]]

        for greedy in (True, False):
            kind = "greedy" if greedy else "sampled"
            texts[f"{device} {kind}"] = write(8, greedy)
            if device == bench.device:
                texts[f"{kind} alone"] = write(1, greedy)
    for kind in ("greedy", "sampled"):
        own = texts[f"{bench.device} {kind}"]
        for name, other in (("the CPU's", f"cpu {kind}"), ("one by one", f"{kind} alone")):
            share = sum(map(str.__eq__, own, texts[other])) / len(own)
            yield at_least(f"{kind} answers, {name}", share, 0.95, f"equal, of {len(own)}")


def demo_prompts() -> tuple[list[tuple[int, ...]], tuple[int, ...], Any]:
    """Return some prompts of the demo, the end tokens of an answer, and the tokenizer."""
    from lightning_unlearn.demo import resolve
    from lightning_unlearn.model.pretrained import load_tokenizer

    tokenizer = load_tokenizer("demo:tiny-llama", False)
    prompts = []
    for corpus in ("math", "tofu"):
        for line in Path(resolve(f"demo:{corpus}")).read_text().splitlines()[:12]:
            turns = [{"role": "user", "content": json.loads(line)["question"]}]
            ids = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False
            )
            prompts.append(tuple(ids))
    return prompts, (tokenizer.eos_token_id,), tokenizer
