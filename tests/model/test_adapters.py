"""Adapters: zero at the start, merge-and-restart in function, PEFT's on disk."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_stages import Tiny
from torch import Tensor, nn

from lightning_unlearn import CausalLM, InputError, LoRA
from lightning_unlearn.model import adapters
from lightning_unlearn.model.adapters import LEARN, UNLEARN

IDS = torch.arange(3, 43).reshape(2, 20)
TARGETS = ["q_proj", "v_proj", "down_proj"]

# PEFT's own functions, called here as a user would, ask transformers 5 by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


def built(tiny: Tiny, dtype: torch.dtype = torch.float64, **changes: Any) -> CausalLM:
    module = tiny.module(**changes)
    module.configure_model()
    module.network.hf_model.eval()
    return module.to(dtype)


def shake(module: CausalLM, adapter: str, seed: int) -> None:
    """Give an adapter random weights with an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.adapters.parameters(adapter).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def logits(lm: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm(input_ids=IDS, use_cache=False).logits
    return found


def plain(tiny: Tiny) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(tiny.base)
    return model.double().eval()


def test_fresh_adapters_have_no_effect(tiny: Tiny) -> None:
    module = built(tiny)
    for active in ([LEARN], [LEARN, UNLEARN]):
        for adapter in active:
            module.adapters.reset(adapter, seed=3)
        module.adapters.set_active(active, active[-1])
        assert torch.equal(logits(module.network.hf_model), logits(plain(tiny)))


@pytest.mark.parametrize(
    ("base", "targets"),
    [
        (None, "all-linear"),
        (None, TARGETS),
        ("demo:tiny-llama", ["embed_tokens", "q_proj"]),
        ("demo:tiny-llama", ["lm_head", "q_proj"]),
    ],
)
def test_only_the_chosen_adapter_is_trained(
    tiny: Tiny, base: str | None, targets: str | list[str]
) -> None:
    module = built(tiny, base=base or str(tiny.base), lora=LoRA(rank=4, target_modules=targets))
    for adapter, other in ((LEARN, UNLEARN), (UNLEARN, LEARN)):
        module.adapters.reset(adapter, seed=0)
        module.adapters.set_active([LEARN, UNLEARN], adapter)
        trained = {n for n, p in module.adapters.peft_model.named_parameters() if p.requires_grad}
        assert trained == set(module.adapters.parameters(adapter)) != set()
        assert not trained & set(module.adapters.parameters(other))
        for name in targets if isinstance(targets, list) else []:
            assert any(f".{name}." in n for n in trained)


def test_weights_of_a_fresh_adapter_depend_on_seed_and_adapter_alone(tiny: Tiny) -> None:
    def fresh(module: CausalLM, adapter: str, seed: int) -> list[Tensor]:
        module.adapters.reset(adapter, seed)
        found = module.adapters.parameters(adapter)
        return [p.detach().clone() for _, p in sorted(found.items())]

    def equal(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    torch.manual_seed(1)
    module = built(tiny)
    first = fresh(module, LEARN, 0)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again = built(tiny)
    shake(again, LEARN, seed=5)
    assert equal(fresh(again, LEARN, 0), first)
    torch.random.set_rng_state(state)
    fresh(module, LEARN, 0)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is not used"
    assert not equal(fresh(module, LEARN, 1), first)
    assert not equal(fresh(module, UNLEARN, 0), first)


@pytest.mark.parametrize("targets", ["all-linear", TARGETS])
def test_unlearn_on_learn_is_merge_and_restart(tiny: Tiny, targets: str | list[str]) -> None:
    """One Adam step of the two ways, from the same start, ends in the same function."""
    from peft import LoraConfig, get_peft_model

    lora = LoRA(rank=4, alpha=8, target_modules=targets)
    module = built(tiny, lora=lora)
    shake(module, LEARN, seed=0)
    module.adapters.reset(UNLEARN, seed=0)

    donor = built(tiny, lora=lora)
    shake(donor, LEARN, seed=0)
    merged = donor.adapters.peft_model.merge_and_unload(adapter_names=[LEARN])
    assert not torch.allclose(logits(merged), logits(plain(tiny)), atol=1e-2)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    restarted = get_peft_model(merged, config)
    own = module.adapters.parameters(UNLEARN)
    with torch.no_grad():
        for name, parameter in restarted.named_parameters():
            if "lora_" in name:
                parameter.copy_(own[name.replace(".default.", f".{UNLEARN}.")])

    module.adapters.set_active([LEARN, UNLEARN], UNLEARN)
    before = logits(module.network.hf_model)
    assert torch.allclose(before, logits(restarted), atol=1e-9)
    for lm in (module.adapters.peft_model, restarted):
        optimizer = torch.optim.Adam([p for p in lm.parameters() if p.requires_grad], 1e-2)
        for _ in range(2):
            (-lm(input_ids=IDS, labels=IDS, use_cache=False).loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not torch.allclose(logits(module.network.hf_model), before, atol=1e-2)
    assert torch.allclose(logits(module.network.hf_model), logits(restarted), atol=1e-9)


def saved(tiny: Tiny, **changes: Any) -> CausalLM:
    """Both adapters with an effect, written below `tiny.root`."""
    module = built(tiny, **changes)
    for seed, adapter in enumerate((LEARN, UNLEARN)):
        shake(module, adapter, seed)
        module.weights.save(adapter, tiny.root / adapter)
    module.adapters.set_active([LEARN, UNLEARN], None)
    return module


def test_peft_opens_saved_adapters(tiny: Tiny) -> None:
    from peft import PeftModel

    module = saved(tiny)
    model = PeftModel.from_pretrained(plain(tiny), tiny.root / LEARN, adapter_name=LEARN)
    module.adapters.set_active([LEARN], None)
    assert torch.allclose(logits(model), logits(module.network.hf_model), atol=1e-11)
    model.load_adapter(tiny.root / UNLEARN, adapter_name=UNLEARN)
    model.base_model.set_adapter([LEARN, UNLEARN])
    module.adapters.set_active([LEARN, UNLEARN], None)
    assert torch.allclose(logits(model), logits(module.network.hf_model), atol=1e-11)
    assert not torch.allclose(logits(model), logits(plain(tiny)), atol=1e-2)
    config = json.loads((tiny.root / LEARN / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny.base)


@pytest.mark.parametrize("active", [[LEARN], [LEARN, UNLEARN]])
def test_transformers_opens_the_merged_model(tiny: Tiny, active: list[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = saved(tiny)
    module.adapters.set_active(active, None)
    before = logits(module.network.hf_model)
    module.weights.save_merged(tiny.root / "merged")
    assert torch.equal(logits(module.network.hf_model), before), "the model itself stays unmerged"
    merged = AutoModelForCausalLM.from_pretrained(tiny.root / "merged", dtype=torch.float64)
    assert torch.allclose(logits(merged.eval()), before, atol=1e-11)
    assert merged.config.use_cache
    assert not any("lora" in name for name in merged.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(tiny.root / "merged")
    assert tokenizer.chat_template == module.pretrained.tokenizer().chat_template


SAVE = """
import hashlib, sys, torch
from pathlib import Path
from lightning_unlearn import CausalLM, LoRA
from lightning_unlearn.model import adapters
folder = Path(sys.argv[2])
lora = LoRA(rank=4, alpha=8, target_modules=["v_proj", "q_proj", "down_proj"])
module = CausalLM(sys.argv[1], lora)
module.configure_model()
module.adapters.reset("learn", 7)
module.weights.save("learn", folder)
"""


def content(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.slow
def test_equal_weights_are_equal_bytes_in_any_process(tiny: Tiny) -> None:
    module = built(tiny, torch.float32, lora=LoRA(rank=4, alpha=8, target_modules=TARGETS))
    module.adapters.reset(LEARN, 7)
    module.weights.save(LEARN, tiny.root / "one")
    module.weights.save(LEARN, tiny.root / "two")
    assert sorted(content(tiny.root / "one")) == [adapters.CONFIG, adapters.WEIGHTS]
    assert content(tiny.root / "one") == content(tiny.root / "two")
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-c", SAVE, str(tiny.base), str(tiny.root / "three")]
    subprocess.run(script, check=True, timeout=300, env=environment)
    assert content(tiny.root / "one") == content(tiny.root / "three")


def test_loading_gives_back_the_weights(tiny: Tiny) -> None:
    module = saved(tiny)
    other = built(tiny)
    for adapter in (LEARN, UNLEARN):
        other.weights.load(adapter, tiny.root / adapter)
    other.adapters.set_active([LEARN, UNLEARN], None)
    assert torch.equal(logits(other.network.hf_model), logits(module.network.hf_model))


def test_adapters_of_embeddings_are_saved_and_loaded(tiny: Tiny) -> None:
    shape = {
        "base": "demo:tiny-llama",
        "lora": LoRA(rank=4, target_modules=["embed_tokens", "lm_head"]),
    }
    module = saved(tiny, **shape)
    other = built(tiny, **shape)
    for adapter in (LEARN, UNLEARN):
        other.weights.load(adapter, tiny.root / adapter)
        assert (tiny.root / adapter / adapters.WEIGHTS).stat().st_size < 100_000
    other.adapters.set_active([LEARN, UNLEARN], None)
    assert torch.equal(logits(other.network.hf_model), logits(module.network.hf_model))


def test_loading_what_does_not_fit(tiny: Tiny) -> None:
    saved(tiny)
    for lora in (LoRA(rank=2, alpha=8), LoRA(rank=4, alpha=8, target_modules=TARGETS)):
        other = built(tiny, lora=lora)
        with pytest.raises(InputError, match=r"an adapter of another shape: \S+ is .*, expected"):
            other.weights.load(LEARN, tiny.root / LEARN)
    with pytest.raises(InputError, match=r"found no adapter_model\.safetensors"):
        other.weights.load(LEARN, tiny.root)


def test_alpha_is_part_of_the_function(tiny: Tiny) -> None:
    """The scale of a saved adapter is in its configuration, so PEFT applies it too."""
    from peft import PeftModel

    module = saved(tiny, lora=LoRA(rank=4, alpha=20))
    module.adapters.set_active([LEARN], None)
    model = PeftModel.from_pretrained(plain(tiny), tiny.root / LEARN)
    assert torch.allclose(logits(model), logits(module.network.hf_model), atol=1e-11)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoRA(rank=0), r"model\.lora\.rank: found 0, expected at least 1"),
        (LoRA(alpha=0), r"model\.lora\.alpha: found 0, expected a positive number"),
        (LoRA(dropout=1.0), r"model\.lora\.dropout: found 1\.0, expected \[0, 1\)"),
        (LoRA(dropout=-0.1), r"model\.lora\.dropout: found -0\.1"),
        (LoRA(target_modules=[]), r"model\.lora\.target_modules: found an empty list"),
    ],
)
def test_bad_shapes_are_refused_before_the_model_is_opened(
    tiny: Tiny, lora: LoRA, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny.module(lora=lora)


@pytest.mark.parametrize("targets", [["q_proj", "c_attn"], "c_attn"])
def test_targets_that_match_nothing(tiny: Tiny, targets: str | list[str]) -> None:
    module = tiny.module(lora=LoRA(target_modules=targets))
    expected = (
        r"(?s)model\.lora\.target_modules: found .*c_attn.* linear layers are down_proj, gate_proj"
    )
    with pytest.raises(InputError, match=expected):
        module.configure_model()


def test_the_key_does_not_depend_on_the_order_of_targets() -> None:
    assert LoRA(target_modules=["b", "a"]).key() == LoRA(target_modules=["a", "b"]).key()
    keys = [LoRA().key(), LoRA(rank=8).key(), LoRA(alpha=1).key(), LoRA(dropout=0.1).key()]
    assert all(one != other for i, one in enumerate(keys) for other in keys[:i])
