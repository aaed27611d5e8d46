"""A merged model is the function of the base with its adapters."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_models import tiny_lm, tiny_tokenizer
from tiny_stages import Tiny
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lightning_unlearn import GA, CausalLM, LoRA
from lightning_unlearn.distributed.placement import Placement
from lightning_unlearn.model.adapters import LEARN, UNLEARN

IDS = torch.arange(3, 43).reshape(2, 20)
TARGETS: list[str | list[str]] = [
    "all-linear",
    ["embed_tokens"],
    ["lm_head"],
    ["lm_head", "embed_tokens", "q_proj"],
]
pytestmark = pytest.mark.filterwarnings(
    # PEFT tells of tied weights what is done here.
    "ignore:Model (has|with) .tie_word_embeddings",
    "ignore:.*tie_word_embeddings=True. and the tied module",
)


def shaken(module: CausalLM) -> None:
    """Give both adapters, or all weights, values with an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if module.adapters is None:
            for weight in module.network.hf_model.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
            return
        for which in (LEARN, UNLEARN):
            for weight in module.adapters.parameters(which).values():
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    module.adapters.set_active([LEARN, UNLEARN], None)


def logits(lm: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.eval()(input_ids=IDS, use_cache=False).logits
    return found


def assert_same(module: CausalLM, folder: Path, tolerance: float = 1e-5) -> Any:
    """Compare with what transformers opens; gives its configuration."""
    merged, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=module.network.hf_model.dtype
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours, theirs = logits(module.network.hf_model), logits(merged)
    assert (ours - theirs).norm() <= tolerance * ours.norm()
    return merged.config


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_merged_is_what_the_adapters_do(tiny: Tiny, targets: str | list[str], tied: bool) -> None:
    tiny_lm("llama", tie_word_embeddings=tied).save_pretrained(tiny.root / "base")
    tiny_tokenizer().save_pretrained(tiny.root / "base")
    module = tiny.module(base=str(tiny.root / "base"), lora=LoRA(rank=4, target_modules=targets))
    module.configure_model()
    shaken(module)
    before = logits(module.network.hf_model)
    module.weights.save_merged(tiny.root / "merged")
    config = assert_same(module, tiny.root / "merged")
    assert torch.equal(logits(module.network.hf_model), before), "the model itself stays unmerged"
    unties = tied and targets != "all-linear"
    assert config.tie_word_embeddings is (tied and not unties)
    with safe_open(tiny.root / "merged" / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) is (unties or not tied)  # noqa: SIM118
    assert module.network.hf_model.config.tie_word_embeddings is tied


@pytest.mark.parametrize("lora", [LoRA(rank=4, target_modules=["lm_head"]), None])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_that_is_put_together_from_parts(
    tiny: Tiny, lora: LoRA | None, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sharded model, the base is loaded again, and the trained weights are copied into it."""
    tiny_lm("llama", tie_word_embeddings=tied).save_pretrained(tiny.root / "base")
    tiny_tokenizer().save_pretrained(tiny.root / "base")
    module = tiny.module(base=str(tiny.root / "base"), lora=lora)
    module.configure_model()
    shaken(module)
    monkeypatch.setattr(Placement, "is_sharded", True)
    module.weights.save_merged(tiny.root / "merged")
    config = assert_same(module, tiny.root / "merged")
    assert config.tie_word_embeddings is (tied and lora is None)


@pytest.mark.parametrize("tied", [True, False])
def test_full_fine_tuning_is_written_as_it_is(tiny: Tiny, tied: bool) -> None:
    tiny_lm("llama", tie_word_embeddings=tied).save_pretrained(tiny.root / "base")
    tiny_tokenizer().save_pretrained(tiny.root / "base")
    module = tiny.module(base=str(tiny.root / "base"), lora=None)
    module.configure_model()
    shaken(module)
    module.weights.save_merged(tiny.root / "merged")
    assert assert_same(module, tiny.root / "merged").tie_word_embeddings is tied


def test_an_embedding_of_another_name(tiny: Tiny) -> None:
    """GPT-2's matrices are transposed, and its embedding is tied."""
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=320)
    GPT2LMHeadModel(config).save_pretrained(tiny.root / "base")
    tiny_tokenizer().save_pretrained(tiny.root / "base")
    targets = ["wte", "c_attn", "c_fc"]
    module = tiny.module(base=str(tiny.root / "base"), lora=LoRA(rank=4, target_modules=targets))
    module.configure_model()
    shaken(module)
    module.weights.save_merged(tiny.root / "merged")
    assert not assert_same(module, tiny.root / "merged").tie_word_embeddings


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head", "embed_tokens"]], ids=str)
def test_a_quantized_base(tiny: Tiny, targets: list[str]) -> None:
    lm = tiny_lm("llama", tie_word_embeddings=True, hidden_size=64, intermediate_size=64)
    lm.save_pretrained(tiny.root / "base")
    tiny_tokenizer().save_pretrained(tiny.root / "base")
    module = tiny.module(
        base=str(tiny.root / "base"),
        lora=LoRA(rank=4, target_modules=targets),
        quantization="nf4",
    )
    module.configure_model()
    shaken(module)
    module.weights.save_merged(tiny.root / "merged")
    config = assert_same(module, tiny.root / "merged", 1e-4)
    assert config.tie_word_embeddings is (targets == ["q_proj"])


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>: {% endif %}"
)


@pytest.mark.parametrize("of_another", [True, False])
def test_the_template_it_was_trained_with_comes_along(tiny: Tiny, of_another: bool) -> None:
    """AutoTokenizer reads it; the base's own need not be it, or there may be none."""
    base = tiny.root / "base"
    other = tiny.root / "other"
    tokenizer = AutoTokenizer.from_pretrained(tiny.base)
    if of_another:
        shutil.copytree(tiny.base, other)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(other)
        tokenizer.chat_template = None
    AutoModelForCausalLM.from_pretrained(tiny.base).save_pretrained(base)
    tokenizer.save_pretrained(base)
    trainer = tiny.trainer([GA()])
    changes = {"chat_template_from": str(other)} if of_another else {}
    module = tiny.module(base=str(base), save_merged=True)
    trainer.fit(module, tiny.datamodule(**changes))
    assert trainer.run_dir is not None
    merged = AutoTokenizer.from_pretrained(trainer.run_dir / "merged")
    expected = TEMPLATE if of_another else AutoTokenizer.from_pretrained(tiny.base).chat_template
    assert merged.chat_template == expected
    assert_same(module, trainer.run_dir / "merged")
    # What was merged is a base model for further work.
    again = tiny.module(base=str(trainer.run_dir / "merged"))
    tiny.trainer([GA()]).check(again, tiny.datamodule())
    assert json.loads((trainer.run_dir / "merged" / "config.json").read_text())["use_cache"]
