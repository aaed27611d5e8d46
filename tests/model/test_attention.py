"""Attention: refused implementations, a fused kernel in fp32, positions in full precision."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import Precision
from tiny_models import random_examples, tiny_checkpoint, tiny_lm, tiny_module
from tiny_stages import Tiny

from lightning_unlearn import CausalLM, InputError, LoRA
from lightning_unlearn.data.batches import collate
from lightning_unlearn.distributed import sharding
from lightning_unlearn.model.attention import _attend, check_attention, fuse_as_gpu, fuse_in_fp32
from lightning_unlearn.model.pretrained import empty_causal_lm, load_causal_lm, load_config
from lightning_unlearn.planning.simulation import Simulation

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("name", "precision", "device", "message"),
    [
        ("sdpaa", "32-true", CPU, "found sdpaa, expected one of eager, .*sdpa"),
        ("flash_attention_2", "bf16-true", CPU, "on a GPU only, expected sdpa or eager"),
        ("flex_attention", "32-true", CPU, "on a GPU only, expected sdpa or eager"),
        ("flash_attention_4", "bf16-true", GPU, "expected sdpa, flash_attention_2 or flash_at"),
        ("kernels-community/flash-attn2", "bf16-true", GPU, "code from the hub, expected sdpa"),
    ],
)
def test_attention_that_does_not_work_is_refused(
    name: str, precision: str, device: torch.device, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_attention(name, precision, device, trust_remote_code=False)


def test_flash_attention_needs_its_package_and_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(precision: str) -> None:
        check_attention("flash_attention_2", precision, GPU, trust_remote_code=False)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package flash_attn is not installed, expected sdpa"):
        check("bf16-true")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check("bf16-true")
    check("bf16-mixed")
    with pytest.raises(InputError, match=r"trainer.precision 32-true, but it computes in 16 bits"):
        check("32-true")


def test_a_run_is_refused_before_anything_is_written(tiny: Tiny) -> None:
    with pytest.raises(
        InputError, match=r"model.attn_implementation: found flash_attention_2, which runs on"
    ):
        tiny.trainer().fit(
            tiny.module(attn_implementation="flash_attention_2"), tiny.datamodule(forget=None)
        )
    assert not (tiny.root / "store").exists()


def test_flash_attention_is_planned_without_its_package() -> None:
    module = CausalLM("demo:tiny-llama", LoRA(2, 4), attn_implementation="flash_attention_2")
    simulation = Simulation(module, "bf16-true", Precision(), 1, False)
    simulation.close()
    assert simulation.module.lm.config._attn_implementation == "sdpa_fused_as_gpu"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_repeated_keys_give_the_same_numbers_and_gradients(tmp_path: Path, family: str) -> None:
    module = tiny_module(tmp_path, family)
    batch = collate(random_examples(5), range(5), pad_id=0)
    found = {}
    for name in ("sdpa", "sdpa_fused", "sdpa_fused_as_gpu"):
        module.lm.set_attn_implementation("sdpa")
        if name != "sdpa":
            (fuse_as_gpu if name.endswith("gpu") else fuse_in_fp32)(module.lm)
        assert module.lm.config._attn_implementation == name
        module.zero_grad()
        values = module.log_probs(batch).sum
        values.sum().backward()
        weight = module.lm.get_decoder().layers[0].self_attn.k_proj.weight
        found[name] = values.detach(), weight.grad.clone()
    for ours, theirs in zip(found["sdpa_fused"], found["sdpa"], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(found["sdpa_fused_as_gpu"], found["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_heads_that_share_no_keys_use_the_attention_of_transformers(tmp_path: Path) -> None:
    module = tiny_module(tmp_path, num_key_value_heads=4)
    assert module.lm.config._attn_implementation == "sdpa"


def test_a_merged_model_does_not_name_our_attention(tmp_path: Path) -> None:
    module = tiny_module(tmp_path / "base")
    assert module.lm.config._attn_implementation == "sdpa_fused"
    module.save_merged(tmp_path / "merged")
    assert "fused" not in (tmp_path / "merged" / "config.json").read_text()


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 10000.0}, SCALED])
def test_rotary_frequencies_are_fp32_on_a_base_in_16_bits(
    tmp_path: Path, rope: dict[str, Any]
) -> None:
    """Rounded to 8 bits, the angles of distant positions would be wrong by whole radians."""
    shape = {"rope_parameters": rope, "max_position_embeddings": 512}
    expected = dict(tiny_lm(**shape).named_buffers())
    assert "model.rotary_emb.inv_freq" in expected
    folder = tiny_checkpoint(tmp_path, **shape)
    whole = load_causal_lm(folder, torch.bfloat16, "sdpa", False)
    cut = empty_causal_lm(load_config(folder, False), torch.bfloat16, "sdpa", False)
    sharding.materialize(cut, cut, CPU)
    for lm in (whole, cut):
        assert lm.dtype == torch.bfloat16
        found = dict(lm.named_buffers())
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == torch.float32
            assert torch.equal(found[name], values)


def test_repeated_keys_are_compiled_as_one_graph(tmp_path: Path) -> None:
    attend = partial(_attend, as_gpu=True)
    layer = tiny_module(tmp_path).lm.get_decoder().layers[0].self_attn
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    found, _ = compiled(layer, query, key, key, None, scaling=0.5)
    torch._dynamo.reset()
    expected, _ = attend(layer, query, key, key, None, scaling=0.5)
    torch.testing.assert_close(found, expected)
