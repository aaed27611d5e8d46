"""Compare an NPO step with a GA step: the cost of a constant reference.

Both run the module's own code (objective, weight in the global batch, backward pass, AdamW) on a
Llama of about 10 million parameters with LoRA adapters, alternately in one process. The pass over
the forget set that computes the reference is timed separately.
"""

import argparse
import statistics
import tempfile
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import GA, NPO, CausalLM, LogProbs, Recipe
from lightning_unlearn.data.batches import GlobalBatch, collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model.objective import share_of_mean
from lightning_unlearn.model.stage import StageStart

SEQUENCES, LENGTH, LABELS = 8, 128, 32


def make_module(folder: str) -> CausalLM:
    """Create the module, ready to unlearn."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    module = CausalLM(folder)
    module.start_stage(StageStart("unlearn", Recipe(lr=1e-5), 1, seed=0, fresh=True))
    module.configure_model()
    return module


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        module = make_module(folder)
    torch.manual_seed(1)
    rows = torch.randint(8192, (SEQUENCES, LENGTH)).tolist()
    split = LENGTH - LABELS
    examples = [Example(tuple(row[:split]), tuple(row[split:])) for row in rows]
    batch = collate(examples, range(SEQUENCES), pad_id=0)
    step = GlobalBatch([batch], SEQUENCES * LABELS, SEQUENCES)
    ga, npo = GA(), NPO()
    began = time.perf_counter()
    npo._reference = module.evaluator.score(examples, SEQUENCES)
    once = time.perf_counter() - began
    assert isinstance(npo._reference, LogProbs)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5)

    def run(method: GA | NPO) -> float:
        began = time.perf_counter()
        loss = share_of_mean(method.objective(module.network, batch), batch, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    run(ga), run(npo)
    pairs = [(run(npo), run(ga)) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    print(f"{sum(p.numel() for p in module.parameters()) / 1e6:.0f} M parameters")
    print(f"GA step: median {statistics.median(b for _, b in pairs) * 1e3:.0f} ms")
    print(f"NPO step: median {statistics.median(a for a, _ in pairs) * 1e3:.0f} ms")
    print(f"NPO / GA: median of {repeats} pairwise ratios {statistics.median(ratios):.3f}")
    print(f"reference, once per run: {once * 1e3:.0f} ms for these {SEQUENCES} sequences")


if __name__ == "__main__":
    main()
