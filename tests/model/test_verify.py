"""Messages about a model that cannot be trained or has diverged, with their remedies."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family_lm
from tiny_models import tiny_tokenizer
from tiny_stages import Tiny

from lightning_unlearn import GA, AnswerLikelihood, CausalLM, InputError, LoRA, Recipe
from lightning_unlearn.data.examples import Example
from lightning_unlearn.errors import DivergedError
from lightning_unlearn.model.verify import verify_log_probs, verify_model

ROW = Example((5, 7, 9), tuple(range(20, 60)))


def written(folder: Path, family: str) -> str:
    family_lm(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def refused(tiny: Tiny, **model: Any) -> str:
    """Return the message before any file is written."""
    before = sorted(tiny.root.rglob("*"))
    with pytest.raises(InputError) as raised:
        tiny.trainer([GA()]).fit(tiny.module(**model), tiny.datamodule())
    assert sorted(tiny.root.rglob("*")) == before
    return str(raised.value)


def test_a_model_without_sdpa_names_the_key(tiny: Tiny) -> None:
    base = written(tiny.root / "base", "bloom")
    assert refused(tiny, base=base) == (
        f"model.attn_implementation: found sdpa, which the model {base} (BloomForCausalLM) "
        "does not support, expected another. Set model.attn_implementation: eager."
    )
    # As advised.
    module = tiny.module(base=base, attn_implementation="eager")
    tiny.trainer([GA()]).check(module, tiny.datamodule())


def test_a_model_that_is_not_causal_is_refused(tiny: Tiny) -> None:
    lm = family_lm("bert")
    lm.config.is_decoder = False
    lm.save_pretrained(tiny.root / "base")
    module = tiny.module(base=str(tiny.root / "base"))
    module.configure_model()
    with pytest.raises(InputError, match=r"\(BertLMHeadModel\) is not causal: a token changes"):
        verify_log_probs(module.evaluator, module.settings.base)


def test_a_model_that_draws_random_numbers_is_refused(tiny: Tiny) -> None:
    module = tiny.module(lora=LoRA(rank=2, dropout=0.5))
    module.configure_model()
    verify_log_probs(module.evaluator, module.settings.base)
    layer = module.network.hf_model.model.layers[0].mlp
    forward = layer.forward

    def noisy(x: torch.Tensor) -> Any:
        return torch.nn.functional.dropout(forward(x), 0.2, layer.training)

    layer.forward = noisy
    module.network.is_verified = False
    with pytest.raises(InputError, match=r"computes differently in training and in evaluation"):
        verify_log_probs(module.evaluator, module.settings.base)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_base_whose_weights_are_all_equal_is_refused(tiny: Tiny, value: float) -> None:
    module = tiny.module()
    module.configure_model()
    with torch.no_grad():
        for weight in module.network.hf_model.parameters():
            weight.fill_(value)
    with pytest.raises(
        InputError, match=r"gives the next token the same probability after every text"
    ):
        verify_log_probs(module.evaluator, module.settings.base)


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_weights_that_diverged_in_a_step(tiny: Tiny, lora: LoRA | None, precision: str) -> None:
    """Finite weights that are so large that the output is the same for every input."""
    trainer = tiny.trainer([GA(), AnswerLikelihood(every_n_steps=1)], precision=precision)
    data = tiny.datamodule(unlearn=Recipe(lr=1e25, steps=3, batch_size=4))
    with pytest.raises(DivergedError) as raised:
        trainer.fit(tiny.module(lora=lora), data)
    assert re.search(
        r"stage unlearn, step \d of 3: (the loss is|after this step, (the next token has the "
        r"same probability after every text: the weights have diverged|the log-probabilities "
        r"are not finite)).*Lower the learning rate",
        str(raised.value),
    )


def test_a_constant_model_is_refused_and_one_that_has_forgotten_is_not(tiny: Tiny) -> None:
    """With zero hidden states, every token has the same probability."""
    from lightning_unlearn.model.verify import ignores_input, verify_result

    module = tiny.module()
    module.configure_model()
    module.eval()
    with torch.no_grad():
        assert not ignores_input(module.evaluator, ROW.prompt + ROW.answer)
        module.network.hf_model.model.norm.weight.zero_()
        assert ignores_input(module.evaluator, ROW.prompt + ROW.answer)
        # One token over and over tells nothing.
        assert not ignores_input(module.evaluator, (5, 5, 5))
    with pytest.raises(
        DivergedError, match=r"after this step, the next token has the same probability"
    ):
        verify_result(module.evaluator, ROW, "stage tofu, step 1 of 1", 0.1)


def test_untrained_routers_are_reported(tiny: Tiny) -> None:
    """The router of llama4_text returns two tensors, which an adapter does not support."""
    base = written(tiny.root / "base", "llama4_text")
    module = tiny.module(base=base)
    trainer = tiny.trainer([GA()])
    told: list[str] = []
    trainer.messages.handler = told.append
    trainer.check(module, tiny.datamodule())
    (line,) = [text for text in told if text.startswith("model.lora.target_modules")]
    assert line == (
        "model.lora.target_modules: all-linear trains down_proj, gate_proj, k_proj, o_proj, "
        "q_proj, up_proj, v_proj, and not feed_forward.experts.gate_up_proj, "
        "feed_forward.experts.down_proj, feed_forward.router.weight."
    )
    module.configure_model()
    verify_model(module.evaluator, module.settings.base, ROW)


def test_experts_with_adapters_are_reported(tiny: Tiny) -> None:
    module = tiny.module(base=written(tiny.root / "base", "mixtral"))
    trainer = tiny.trainer([GA()])
    told: list[str] = []
    trainer.messages.handler = told.append
    trainer.check(module, tiny.datamodule())
    module.configure_model()
    trained = {n for n, p in module.network.hf_model.named_parameters() if p.requires_grad}
    lines = [text for text in told if text.startswith("model.lora.target_modules")]
    # PEFT's versions differ in what they put adapters on.
    has_experts = any("experts" in name for name in trained)
    left_out = any("experts" in line.partition(", and not ")[2] for line in lines)
    assert has_experts is not left_out


def test_a_plain_model_has_no_such_note(tiny: Tiny) -> None:
    module = tiny.module()
    module.checks.adapters()
    assert module.checks.notes() == []


def test_the_message_about_missing_gradients_proposes_targets(tiny: Tiny) -> None:
    module = tiny.module(lora=LoRA(rank=2, target_modules=["q_proj", "up_proj"]))
    module.configure_model()
    # As if the first layer's were passed by.
    first = module.network.hf_model.model.layers[0].self_attn.q_proj
    other = torch.nn.Linear(32, 32, bias=False).requires_grad_(False)
    module.network.hf_model.model.layers[0].self_attn.q_proj = other
    module.network.hf_model.add_module("q_proj", first)
    advice = (
        r"2 of 8 trainable .* Set model\.lora\.target_modules: \[self_attn\.q_proj, up_proj\]\."
    )
    with pytest.raises(InputError, match=advice):
        verify_model(module.evaluator, module.settings.base, ROW)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoRA(rank=33), r"model\.lora\.rank: found 33, expected at most 32, the highest rank"),
        (LoRA(rank=10**6), r"model\.lora\.rank: found 1000000, .*set model\.lora: null"),
        (LoRA(rank=10**6, target_modules=["q_proj"]), r"found 1000000, expected at most 32"),
        (LoRA(target_modules="c_attn"), r"model\.lora\.target_modules: found 'c_attn'"),
    ],
)
def test_adapters_that_do_not_fit_the_model(tiny: Tiny, lora: LoRA, message: str) -> None:
    assert re.search(message, refused(tiny, lora=lora))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoRA(rank=0), r"found 0, expected at least 1\. To train all weights .*model\.lora: null"),
        (
            LoRA(target_modules=".*("),
            r"found '\.\*\(', which is no regular expression \(missing \)",
        ),
        (LoRA(target_modules="*"), r"found '\*', which is no regular expression"),
        (LoRA(alpha=float("nan")), r"model\.lora\.alpha: found nan, expected a positive number"),
        (LoRA(alpha=float("inf")), r"model\.lora\.alpha: found inf, expected a positive number"),
        (LoRA(dropout=float("nan")), r"model\.lora\.dropout: found nan"),
    ],
)
def test_adapters_that_fit_no_model(lora: LoRA, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CausalLM("demo:tiny-llama", lora)
