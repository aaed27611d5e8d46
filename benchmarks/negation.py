"""Time and memory of StageNegation on the adapters of a 1B-shaped model.

    OMP_NUM_THREADS=1 python benchmarks/negation.py              # the exact sum, of rank 128
    OMP_NUM_THREADS=1 python benchmarks/negation.py --rank 64    # reduced by SVD

The adapters have the paper's shape (Llama-3.2-1B, rank 64 on seven projections) and random weights.
The base model has no memory: the sum does not read it. The time is that of reading two adapters,
adding them, giving the model the result, and writing it. The memory is the growth of the process's
peak, as a multiple of the size of one adapter.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lightning_unlearn import CausalLM, LoRA
from lightning_unlearn.model.adapters import LEARN, UNLEARN, WEIGHTS
from lightning_unlearn.model.combination import load_sum
from lightning_unlearn.model.network import LogProbModel
from lightning_unlearn.model.stage import Term
from lightning_unlearn.model.weights import ModelWeights
from lightning_unlearn.planning.model_shapes import config_folder

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted_model(shape: str, rank: int) -> ModelWeights:
    """Return the weights of a model whose adapters alone have memory."""
    with config_folder(shape) as folder:
        lora = LoRA(rank=rank, alpha=2 * rank, target_modules=PROJECTIONS)
        module = CausalLM(folder, lora)
        hf_model = module.pretrained.empty(torch.float32)
        adapters = module.pretrained.attach_adapters(hf_model, hf_model.name_or_path)
    for name in (LEARN, UNLEARN):
        for key, parameter in adapters.parameters(name).items():
            owner = hf_model.get_submodule(key.removeprefix("base_model.model.").rpartition(".")[0])
            weight = torch.zeros(parameter.shape).normal_() / parameter.shape[-1] ** 0.5
            owner.weight = torch.nn.Parameter(weight, requires_grad=False)
    network: Any = LogProbModel(hf_model)
    return ModelWeights(network, adapters, module.pretrained, module.placement)


def train(weights: ModelWeights) -> None:
    """Change the adapter a little, as a stage does."""
    assert weights.adapters is not None
    for parameter in weights.adapters.parameters(LEARN).values():
        parameter += 0.1 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5


def main() -> None:
    """Measure once and print both numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="meta-llama/Llama-3.2-1B")
    parser.add_argument("--lora-rank", type=int, default=64)
    parser.add_argument("--rank", type=int, help="rank of the result; by default the exact one")
    options = parser.parse_args()
    torch.manual_seed(0)
    weights = adapted_model(options.shape, options.lora_rank)
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("end", "after", "before", "result")]
        for folder in folders[:3]:
            train(weights)
            weights.save(LEARN, folder)
        size = (folders[0] / WEIGHTS).stat().st_size
        terms = [
            Term(1.0, folders[0], is_present=True),
            Term(-1.0, folders[1]),
            Term(1.0, folders[2]),
        ]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, used = time.perf_counter(), time.process_time()
        lost = load_sum(weights, terms, options.rank, seed=0)
        weights.save(UNLEARN, folders[3])
        seconds, used = time.perf_counter() - began, time.process_time() - used
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    error = "" if lost is None else f", relative error {lost:.2g}"
    print(
        f"{options.shape}: adapters of {size / 2**20:.0f} MiB, {seconds:.1f} s (at most 10), of "
        f"which {used:.1f} s on a processor; "
        f"{grown / size:.1f} x their size in memory (less than 6){error}"
    )


if __name__ == "__main__":
    main()
