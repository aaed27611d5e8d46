"""Compare a training step with transformers' own loss on the same batch: memory and time.

Both train the same LoRA adapters on the same frozen Llama (trunk of about 60 million parameters,
vocabulary of 128,256) on 4 x 512 tokens, a quarter of them labels. Times are measured alternately
in one process. Memory is the peak of a separate process, with and without its memory before the
step.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.objectives import nll

SEQUENCES, LENGTH, LABELS, VOCABULARY = 4, 512, 128, 128_256


def make_model(device: str) -> torch.nn.Module:
    """Create the Llama with LoRA adapters on all linear layers of the trunk."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        # Proportions of Llama 3.2: MLP of four times the width, heads of 64 units, one key-value
        # head per four heads.
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=4,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    lm = LlamaForCausalLM(config)
    peft_model = get_peft_model(lm, LoraConfig(r=16, target_modules="all-linear"))
    return peft_model.base_model.model.to(device).train()


def make_batch(device: str) -> Batch:
    """Return a batch of random tokens; the last quarter of each sequence is the answer."""
    torch.manual_seed(1)
    ids = torch.randint(VOCABULARY, (SEQUENCES, LENGTH)).tolist()
    split = LENGTH - LABELS
    examples = [Example(tuple(row[:split]), tuple(row[split:])) for row in ids]
    batch = collate(examples, range(SEQUENCES), pad_id=0)
    return Batch(**{name: value.to(device) for name, value in vars(batch).items()})


def steps(lm: torch.nn.Module, batch: Batch) -> dict[str, Callable[[], torch.Tensor]]:
    """Return forward and backward passes of both sides; each returns its loss."""
    ours_model = LogProbModel(lm)
    labels = batch.input_ids.clone()
    labels[:, : LENGTH - LABELS] = -100

    def ours() -> torch.Tensor:
        flat = ours_model(batch.input_ids, batch.label_positions, batch.label_ids)
        loss = nll(LogProbs.scatter(flat, batch.mask).per_token).sum() / batch.mask.sum()
        loss.backward()
        return loss.detach()

    def theirs() -> torch.Tensor:
        loss: torch.Tensor = lm(input_ids=batch.input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        return loss.detach()

    return {"ours": ours, "theirs": theirs}


def peak_bytes(which: str, device: str) -> dict[str, int]:
    """Return the peak memory of one step in this process, and its memory before the step."""
    step = steps(make_model(device), make_batch(device))[which]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return {"before": before, "peak": torch.cuda.max_memory_allocated()}
    before = resident_bytes()
    step()
    return {"before": before, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux) in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_bytes(options.peak, options.device)))
        return

    memory = {}
    for which in ("ours", "theirs"):
        command = [sys.executable, __file__, "--peak", which, "--device", options.device]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory[which] = json.loads(output.splitlines()[-1])
    lm, batch = make_model(options.device), make_batch(options.device)
    pair = steps(lm, batch)
    losses = {which: step().item() for which, step in pair.items()}
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(options.repeats):
        for which, step in pair.items():
            began = time.perf_counter()
            step()
            if options.device == "cuda":
                torch.cuda.synchronize()
            times[which].append(time.perf_counter() - began)

    trunk = sum(p.numel() for n, p in lm.named_parameters() if "layers" in n and "lora_" not in n)
    print(
        f"trunk {trunk / 1e6:.0f} M parameters, {options.device}, {torch.get_num_threads()} threads"
    )
    print(f"loss: ours {losses['ours']:.6f}, theirs {losses['theirs']:.6f}")
    step_memory = {k: v["peak"] - v["before"] for k, v in memory.items()}
    for name, values in (
        ("memory of the step", step_memory),
        ("peak of the process", {k: v["peak"] for k, v in memory.items()}),
    ):
        ratio = values["ours"] / values["theirs"]
        print(
            f"{name}: ours {values['ours'] / 2**20:.0f} MiB, theirs "
            f"{values['theirs'] / 2**20:.0f} MiB, ratio {ratio:.2f}"
        )
    ratios = [a / b for a, b in zip(times["ours"], times["theirs"], strict=True)]
    print(
        f"time: ours {statistics.median(times['ours']):.2f} s, theirs "
        f"{statistics.median(times['theirs']):.2f} s, median of pairwise ratios "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
