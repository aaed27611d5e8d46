"""Dropout of the base model is off in training, so results do not depend on micro-batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_tokenizer
from tiny_stages import Tiny, results
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DbrxConfig,
    GPT2Config,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    PhimoeConfig,
)

from lightning_unlearn import NPO, AnswerLikelihood, CausalLM, LoRA, Recipe
from lightning_unlearn.model import base_dropout

SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256},
    "opt": {
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
    },
}


def base(folder: Path, family: str) -> str:
    """Create a model with the default dropout of its family."""
    config = AutoConfig.for_model(family, vocab_size=320, pad_token_id=2, **SMALL[family])
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config)
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in lm.modules()) or config.dropout
    with torch.no_grad():
        for weight in lm.parameters():
            weight.normal_(0, 0.3)
    lm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", list(SMALL))
@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_results_do_not_depend_on_the_micro_batch_size(
    tiny: Tiny, family: str, lora: LoRA | None, capsys: pytest.CaptureFixture[str]
) -> None:
    name = base(tiny.root / "base", family)
    means = []
    for micro in (8, 2):
        trainer = tiny.below(str(micro)).trainer(
            [NPO(), AnswerLikelihood(every_n_steps=1)], precision="64-true"
        )
        stages = tiny.stages(batch_size=8)
        data = tiny.datamodule(
            stages={n: stages[n] for n in ("tofu", "safety")},
            unlearn=Recipe(lr=2e-3, epochs=2, batch_size=8),
            micro_batch_size=micro,
        )
        trainer.fit(tiny.module(base=name, lora=lora), data)
        assert trainer.observations is not None
        means.append([value for _, _, value in trainer.observations.steps])
        said = capsys.readouterr().err
        assert said.count("has dropout (") == 1 and "is set to zero" in said
    assert torch.allclose(*map(torch.tensor, means), rtol=0, atol=1e-9)
    assert len(set(means[0])) > 4


def test_saved_models_have_the_dropout_of_the_base(tiny: Tiny) -> None:
    name = base(tiny.root / "base", "gpt2")
    module = tiny.module(base=name, lora=None)
    module.configure_model()
    module.save("learn", tiny.root / "learn")
    module.save_merged(tiny.root / "merged")
    for folder in ("learn", "merged"):
        config = json.loads((tiny.root / folder / "config.json").read_text())
        assert config["resid_pdrop"] == config["embd_pdrop"] == config["attn_pdrop"] == 0.1
    assert module.lm.config.resid_pdrop == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(summary_first_dropout=0.3), {"resid_pdrop", "embd_pdrop", "attn_pdrop"}),
        (OPTConfig(layerdrop=0.2), {"dropout", "layerdrop"}),
        (MixtralConfig(router_jitter_noise=0.1), {"router_jitter_noise"}),
        (PhimoeConfig(input_jitter_noise=0.1), {"input_jitter_noise"}),
        (MptConfig(emb_pdrop=0.2, resid_pdrop=0.1), {"emb_pdrop", "resid_pdrop"}),
        (DbrxConfig(resid_pdrop=0.2, attn_config={"attn_pdrop": 0.1}), {"attn_pdrop"}),
    ],
)
def test_settings_of_dropout(config: Any, expected: set[str]) -> None:
    before = config.to_dict()
    settings = base_dropout.switch_off(config)
    assert expected <= {name for *_, name in settings}
    assert base_dropout.switch_off(config) == {}
    with base_dropout.as_it_was(config, settings):
        assert config.to_dict() == before
    assert base_dropout.switch_off(config) == {}
    assert not base_dropout.remark("x", {})


def test_dropout_that_is_only_in_the_code(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(CausalLM, "warn", lambda self, text: said.append(text))
    opened = CausalLM._open

    def with_dropout(self: CausalLM) -> Any:
        lm = opened(self)
        lm.model.layers[0].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.5))
        return lm

    monkeypatch.setattr(CausalLM, "_open", with_dropout)
    module = tiny.module(lora=LoRA(rank=2, dropout=0.1))
    module.configure_model()
    assert said == [
        "model.base: dropout of 1 layers (model.layers.0.mlp.act_fn.1), which is not in "
        "config.json, is set to zero."
    ]
    rates = {m.p for n, m in module.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0, 0.1}, "that of the adapters stays"


def test_equal_settings_give_equal_results(tiny: Tiny) -> None:
    """All random numbers depend on the seed."""
    name = base(tiny.root / "base", "gpt2")
    found = []
    for place in ("one", "two"):
        trainer = tiny.below(place).trainer([NPO()])
        trainer.fit(tiny.module(base=name), tiny.datamodule())
        assert trainer.run_dir is not None
        found.append(results(trainer.run_dir))
    assert found[0] == found[1]
