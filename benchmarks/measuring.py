"""Compare one pass for all metrics of label tokens with plain forward passes.

For every label token the pass computes: log-probability; mean and standard deviation of the next
token's log-probability; margin; and whether the label is the most likely token. It is compared,
alternately in one process, with this package's forward pass for log-probabilities alone, and with
`model(input_ids, labels=...)` of transformers, which computes a mean loss. All run without gradient
on a Llama with a trunk of about 60 million parameters and a large vocabulary.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn.data.batches import collate
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.token_statistics import TokenStatistics


def seconds(work: Callable[[], object]) -> float:
    """Run a function and return its seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=160, help="tokens of a sequence")
    parser.add_argument("--labels", type=int, default=50, help="label tokens of a sequence")
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    """Measure and print the results."""
    given = read_options()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=10,
        tie_word_embeddings=True,
    )
    lm = LlamaForCausalLM(config).eval()
    net = LogProbModel(lm)
    rows = torch.randint(given.vocabulary, (given.sequences, given.length)).tolist()
    split = given.length - given.labels
    examples = [Example(tuple(row[:split]), tuple(row[split:])) for row in rows]
    batch = collate(examples, range(len(examples)), pad_id=0)
    labels = batch.input_ids.clone()
    labels[:, :split] = -100

    @torch.no_grad()
    def statistics_pass() -> Tensor:
        found: Tensor = net(
            batch.input_ids, batch.label_positions, batch.label_ids, output="statistics"
        )
        return found

    @torch.no_grad()
    def log_probs() -> Tensor:
        found: Tensor = net(batch.input_ids, batch.label_positions, batch.label_ids)
        return found

    @torch.no_grad()
    def plain() -> Tensor:
        found: Tensor = lm(input_ids=batch.input_ids, labels=labels, use_cache=False).loss
        return found

    table = TokenStatistics.scatter(statistics_pass(), batch.mask)
    ours, theirs = log_probs(), plain()
    torch.testing.assert_close(table.log_prob[batch.mask], ours, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(-ours.mean(), theirs, rtol=1e-5, atol=1e-4)
    times = [
        (seconds(statistics_pass), seconds(log_probs), seconds(plain)) for _ in range(given.repeats)
    ]
    trunk = sum(p.numel() for p in lm.parameters()) - lm.lm_head.weight.numel()
    print(f"trunk of {trunk / 1e6:.0f} M parameters, vocabulary {given.vocabulary}")
    print(f"{given.sequences} sequences of {given.length} tokens, {given.labels} of them labels")
    for name, column in (("statistics", 0), ("log-probabilities", 1), ("transformers", 2)):
        print(f"{name}: median {statistics.median(t[column] for t in times):.3f} s")
    for name, column in (("log-probabilities alone", 1), ("model(..., labels=...)", 2)):
        ratios = [t[0] / t[column] for t in times]
        print(
            f"statistics / {name}: median of {len(ratios)} pairwise ratios "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
