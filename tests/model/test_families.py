"""Log-likelihoods of many families equal those of plain transformers, before and after training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import EAGER, FAMILIES, FP32_INSIDE, FP32_WEIGHTS, attention_of, family_lm
from tiny_models import tiny_tokenizer
from tiny_stages import Tiny
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lightning_unlearn import NPO, CausalLM, LoRA, Recipe, Stage
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model.adapters import LEARN, UNLEARN, Adapters
from lightning_unlearn.model.compat import compute_experts_in_fp64

# One of each kind: heads, caps, dropout, experts, state spaces, hybrids, recurrent layers, logits
# of its own.
CORE = [
    "bert",
    "cohere2",
    "falcon_h1",
    "gemma2",
    "gpt2",
    "hyperclovax",
    "jamba",
    "llama4_text",
    "qwen3_next",
    "recurrent_gemma",
]
LR, STEPS, BETA = 3e-3, 3, 0.5


def names() -> list[Any]:
    return [
        pytest.param(
            name,
            marks=[
                *([] if name in CORE else [pytest.mark.slow]),
                pytest.mark.skipif(
                    name not in CONFIG_MAPPING, reason=f"this transformers has no {name}"
                ),
            ],
        )
        for name in FAMILIES
    ]


class Naive:
    """Full logits of one sequence at a time, and PEFT as in its documentation."""

    def __init__(self, folder: Path, family: str, dtype: torch.dtype) -> None:
        lm = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention_of(family)
        )
        if dtype == torch.float64:
            compute_experts_in_fp64(lm)
        self.dtype = dtype
        # Without dropout.
        self.lm: Any = lm.eval()

    def add_adapters(self, lora: LoRA, left: Any) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha),
            target_modules="all-linear",
            exclude_modules=left,
        )
        self.lm = get_peft_model(self.lm, config, adapter_name=LEARN, autocast_adapter_dtype=False)
        self.lm.add_adapter(UNLEARN, config, autocast_adapter_dtype=False)
        self.lm.to(self.dtype)
        for which in (LEARN, UNLEARN):
            Adapters(self.lm).reset(which, seed=0)
        self.lm.eval()

    def log_probs(self, example: Example) -> Tensor:
        """Return the log-probability of each label token."""
        ids = torch.tensor([[*example.prompt, *example.answer]])
        logits = self.lm(input_ids=ids, use_cache=False).logits[0, len(example.prompt) - 1 : -1]
        if logits.dtype == torch.bfloat16:
            logits = logits.float()
        return logits.log_softmax(-1).gather(-1, ids[0, len(example.prompt) :, None])[:, 0]

    def table(self, examples: list[Example]) -> list[list[float]]:
        with torch.no_grad():
            return [self.log_probs(example).tolist() for example in examples]

    def learn(self, examples: list[Example]) -> None:
        self._step(LEARN, [LEARN], STEPS, lambda: -torch.cat([self.log_probs(e) for e in examples]))

    def unlearn(self, examples: list[Example]) -> None:
        self.lm.base_model.set_adapter([LEARN, UNLEARN])
        with torch.no_grad():
            before = [self.log_probs(example).sum() for example in examples]

        def loss() -> Tensor:
            rows = zip(examples, before, strict=True)
            ratios = torch.stack([self.log_probs(example).sum() - old for example, old in rows])
            return -(2 / BETA) * torch.nn.functional.logsigmoid(-BETA * ratios)

        self._step(UNLEARN, [LEARN, UNLEARN], 1, loss)

    def _step(self, trained: str, active: list[str], steps: int, loss: Any) -> None:
        self.lm.base_model.set_adapter(active)
        for name, weight in self.lm.named_parameters():
            weight.requires_grad_("lora_" in name and f".{trained}." in f"{name}.")
        optimizer = torch.optim.AdamW(
            [w for w in self.lm.parameters() if w.requires_grad], LR, weight_decay=0.0
        )
        for _ in range(steps):
            optimizer.zero_grad()
            loss().mean().backward()
            optimizer.step()


def assert_near(ours: list[list[float]], theirs: list[list[float]], tolerance: float) -> None:
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


def table(module: CausalLM, examples: list[Example]) -> list[list[float]]:
    scored = module.evaluator.score(examples, 4)
    return [row[mask].tolist() for row, mask in zip(scored.per_token, scored.mask, strict=True)]


@pytest.mark.parametrize("family", names())
@pytest.mark.filterwarnings(
    # Of GPT-2's transposed matrices, and of experts in one tensor.
    "ignore:fan_in_fan_out is set to",
    "ignore:.*_pattern keys did not match any targeted",
)
def test_a_family_equals_transformers_and_peft(tiny: Tiny, family: str) -> None:
    base = tiny.root / "base"
    family_lm(family).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    single = family in FP32_WEIGHTS
    dtype = torch.float32 if single else torch.float64
    attention = attention_of(family)
    # "eager" of a family that has "sdpa" in later versions takes its softmax in fp32.
    inside = family in FP32_INSIDE or (attention == "eager" and family not in EAGER)
    tolerance = 1e-4 if single or inside else 1e-9
    lora = LoRA(rank=2, alpha=4)
    module = tiny.module(base=str(base), lora=lora, attn_implementation=attention)
    recipe = {"lr": LR, "batch_size": 4, "schedule": "constant"}
    stage = Stage(source=str(tiny.data / "safety.jsonl"), limit=4, steps=STEPS, **recipe)
    data = tiny.datamodule(
        stages={"safety": stage}, unlearn=Recipe(**recipe, steps=1), micro_batch_size=2
    )
    precision = "32-true" if single else "64-true"
    trainer = tiny.trainer([NPO(beta=BETA)], precision=precision)
    trainer.fit(module, data)

    naive = Naive(base, family, dtype)
    examples = data.training_examples("safety")
    with module.weights.swapped(None, module.seed):
        assert_near(table(module, examples), naive.table(examples), tolerance)
    naive.add_adapters(lora, module.adapters.peft_model.peft_config[LEARN].exclude_modules)
    naive.learn(examples)
    naive.unlearn(examples)
    after = naive.table(examples)
    assert_near(table(module, examples), after, tolerance)

    module.weights.save_merged(tiny.root / "merged")
    assert_near(Naive(tiny.root / "merged", family, dtype).table(examples), after, tolerance)
