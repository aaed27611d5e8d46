"""The plan of a base in NF4, against closed forms and, with bitsandbytes, a real base."""

from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import Precision
from quantized import SMALL, needs_bitsandbytes, opened

from lightning_unlearn import CausalLM, InputError, Recipe
from lightning_unlearn.model import quantization
from lightning_unlearn.planning.model_shapes import CONFIGS, config_folder
from lightning_unlearn.planning.settings import sharing
from lightning_unlearn.planning.simulation import Simulation, _batch


def planned(base: str, precision: str = "bf16-true", **options: Any) -> Simulation:
    module = CausalLM(base, SMALL, quantization="nf4", **options)
    return Simulation(module.settings, precision, Precision(), 1, False)


def test_a_plan_counts_four_bits_and_the_scales() -> None:
    """Llama-3.2-3B: matrices of 28 layers are quantized; embeddings (tied) and norms are bf16."""
    name = "meta-llama/Llama-3.2-3B"
    with config_folder(name) as folder:
        count, size = planned(folder).base
    width, inner, keys = 3072, 8192, 8 * 128
    shapes = [width * width] * 2 + [width * keys] * 2 + [width * inner] * 3
    packed = 28 * sum(shapes)
    assert count == 3_212_749_824
    # One byte per 64 weights, and 4 bytes per 256 of these scales: 0.127 bits per weight, as QLoRA.
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    constants = 28 * 7 * 4 * (16 + 256 + 1)
    assert size == packed * bits / 8 + constants + 2 * (count - packed)
    assert CONFIGS[name]["tie_word_embeddings"]


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_plan_has_the_memory_of_the_real_model(precision: str) -> None:
    base = "demo:tiny-llama"
    found = planned(base, precision).train("learning", Recipe(), None, 4, 256, False)
    module = opened(base, precision)
    module.train()
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    for _, layer in quantization._packed_layers(module.network.hf_model):
        state = layer.weight.quant_state
        parts = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
        size += sum(part.numel() * part.element_size() for part in parts)
    assert found.memory["parameters"] == size
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module.network.log_probs(_batch(4, 256)).sum.sum()
    assert loss.requires_grad
    for tensor in (*module.parameters(), *module.buffers()):
        kept.pop(tensor.untyped_storage()._cdata, None)
    # At the peak the kept activations exist with the logits of a chunk or a dequantized layer.
    logits = 4 * 255 * module.pretrained.config.vocab_size * 4
    assert 0 <= found.memory["activations"] - sum(kept.values()) < 4 * logits


def test_a_plan_refuses_the_settings_that_a_run_refuses() -> None:
    content = {"model": {"quantization": "nf4"}, "trainer": {"strategy": "fsdp2"}}
    for gpus in (1, 4):
        with pytest.raises(InputError, match="found nf4 with the strategy fsdp2"):
            sharing(content, gpus)
    content["trainer"] = {}
    assert sharing(content, 4).name == "DDP" and sharing(content, 1).name == "one GPU"
