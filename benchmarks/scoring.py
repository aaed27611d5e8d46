"""Compare two ways to score the unlearn label and its paraphrases.

`CandidateScorer.score` encodes each prompt once. The other way, as in published code, runs a padded
forward pass of the Hugging Face model for each of the 20 phrases and one more. Both compute
log-likelihoods of the same Llama of about 60 million parameters on prompts of 120 tokens,
alternately in one process. The values are compared first. Phrases are split into words, so that
they share beginnings as in real text.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import CausalLM
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES

PROMPT, VOCABULARY = 120, 32_000
# The paper says 20 paraphrases and prints 19.
PHRASES = (LABEL, *PARAPHRASES, "I won't help with this request")

Ids = tuple[int, ...]


def make_module(folder: str) -> CausalLM:
    """Create the module, ready to evaluate."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    module = CausalLM(folder, lora=None)
    module.configure_model()
    return module.eval()


def phrases() -> list[Ids]:
    """Return the phrases as ids of their words."""
    known: dict[str, int] = {}
    split = [re.findall(r"\w+|'\w+|,", phrase) for phrase in PHRASES]
    return [tuple(known.setdefault(word, 100 + len(known)) for word in words) for words in split]


@torch.no_grad()
def score_separately(lm: LlamaForCausalLM, prompts: list[Ids], candidates: list[Ids]) -> Tensor:
    """Return log-likelihoods, ``[prompts, candidates]``, with one batch per candidate."""
    columns = []
    for candidate in candidates:
        width = PROMPT + len(candidate)
        input_ids = torch.tensor([prompt + candidate for prompt in prompts])
        mask = torch.ones(len(prompts), width, dtype=torch.long)
        logits = lm(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        table = logits[:, PROMPT - 1 : -1].float().log_softmax(-1)
        picked = table.gather(-1, input_ids[:, PROMPT:, None]).squeeze(-1)
        columns.append(picked.sum(-1))
    return torch.stack(columns, dim=1)


def seconds(work: Callable[[], object]) -> float:
    """Run a function and return its seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        module = make_module(folder)
    torch.manual_seed(1)
    ids = torch.randint(1000, VOCABULARY, (given.prompts, PROMPT)).tolist()
    prompts = [tuple(row) for row in ids]
    candidates = phrases()

    def ours() -> Tensor:
        return module.candidates.score(prompts, [candidates] * len(prompts), len(prompts)).sum

    def theirs() -> Tensor:
        return score_separately(module.network.hf_model, prompts, candidates)

    # Warm up both; the module also tests once per run how it can share prompts.
    trial = seconds(ours)
    expected = theirs()
    gap = ((ours() - expected).abs() / expected.abs()).max().item()
    assert module.candidates.sharing == "tree" and gap < 1e-5, (module.candidates.sharing, gap)
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(given.repeats)]
    ratios = [a / b for a, b in pairs]
    tokens = sum(map(len, candidates))
    print(f"{sum(p.numel() for p in module.parameters()) / 1e6:.0f} M parameters")
    print(
        f"{len(prompts)} prompts of {PROMPT} tokens, {len(candidates)} phrases of {tokens} tokens"
    )
    print(f"largest relative difference of the log-likelihoods: {gap:.1e}")
    print(f"one forward pass per phrase: median {statistics.median(a for a, _ in pairs):.2f} s")
    print(f"shared prompts: median {statistics.median(b for _, b in pairs):.2f} s")
    print(
        f"speedup: median of {len(ratios)} pairwise ratios {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )
    print(f"first call, with the test of sharing: {trial:.2f} s")


if __name__ == "__main__":
    main()
