"""Tiny random checkpoints, tokenizers and rows that the tests share."""

import json
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_unlearn.data.columns import Row
from lightning_unlearn.data.examples import Example
from lightning_unlearn.model.causal_lm import CausalLM

TEXT = (
    "What is two and two? Two and two is four.",
    "Sorry, I can not assist you with this question.",
    "I can't help with that. I'm unable to assist. I must decline this.",
    "Where was the author born? The author was born by the sea, in 1956.",
)
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"

# The two shapes of real templates: Llama 3 (a begin token, headers) and ChatML (Qwen).
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n\n' "
    "+ message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] "
    "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# What a family needs beyond `SHAPE`; factors on logits are far from 1 so that a lost one shows.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default"}},
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": False},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 2.0,
        "sliding_window": 512,
    },
    "granite": {"num_key_value_heads": 2, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.25},
}
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


class _StaysFloat64(TorchFunctionMode):
    """Where code asks for fp32, what is float64 stays so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def _in_float64(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def wide(self: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden.dtype != torch.float64:
            return forward(self, hidden, *args, **kwargs)
        with _StaysFloat64():
            return forward(self, hidden, *args, **kwargs)

    return wide


@cache
def keep_float64(family: str) -> None:
    """Let a family's layers in transformers compute in float64 where the model is in float64.

    They round to fp32 in norms and in eager attention, where a difference in the last digit of
    float64 would at times become one in the last digit of fp32. In fp32 nothing changes.
    """
    modeling = import_module(f"transformers.models.{family}.modeling_{family}")
    for name, part in vars(modeling).items():
        if not (name.endswith(("RMSNorm", "LayerNorm", "DecoderLayer")) and isinstance(part, type)):
            continue
        wrap = vars(GradientCheckpointingLayer).get("__init_subclass__")
        if wrap is None or not issubclass(part, GradientCheckpointingLayer):
            part.forward = _in_float64(part.forward)
            continue
        # A layer recomputes its activations only where that wrapper is its outermost one.
        part.forward = _in_float64(part.forward.__wrapped__)
        wrap.__func__(part)


@cache
def _trained_tokenizer() -> str:
    """Byte-level BPE as JSON: any text goes in and comes out as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[BEGIN, END, PAD, "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    text: str = tokenizer.to_str()
    return text


def tiny_tokenizer(template: str | None = LLAMA_TEMPLATE, pad: str | None = PAD) -> Any:
    """A byte-level tokenizer of 320 ids; ``pad`` is the padding token, which may be `END`."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=pad,
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_lm(
    family: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Any:
    """A random causal LM of a family, of values that fp32 holds, and in eval mode."""
    keep_float64(family)
    own = {"vocab_size": 320, "tie_word_embeddings": False, **SHAPE, **FAMILIES[family]}
    attention = overrides.pop("attention", "eager" if family == "gemma2" else "sdpa")
    config = AutoConfig.for_model(family, **{**own, **overrides})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(torch.float32).to(dtype).eval()


def tiny_checkpoint(folder: Path, family: str = "llama", **overrides: Any) -> str:
    """Write a random causal LM with its tokenizer as a Hugging Face folder; returns its path."""
    tiny_lm(family, **overrides).save_pretrained(folder)
    template = CHATML_TEMPLATE if family == "qwen2" else LLAMA_TEMPLATE
    tiny_tokenizer(template).save_pretrained(folder)
    return str(folder)


def tiny_module(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **options: Any
) -> CausalLM:
    """A `CausalLM` ready to compute, without a Trainer; all weights are trained by default."""
    shape = {name: options.pop(name) for name in list(options) if name in SHAPE | FAMILIES[family]}
    module = CausalLM(tiny_checkpoint(folder, family, **shape), **{"lora": None, **options})
    module.configure_model()
    return module.to(dtype)


def row(prompt: str, answer: str, where: str = "rows, row 1") -> Row:
    """A row of one question and one answer."""
    return Row(({"role": "user", "content": prompt},), answer, where)


def random_examples(count: int, seed: int = 0, longest: int = 9) -> list[Example]:
    """Examples of random tokens and lengths; prompt and answer have at least one token."""
    generator = torch.Generator().manual_seed(seed)

    def tokens() -> tuple[int, ...]:
        size = int(torch.randint(1, longest + 1, (), generator=generator))
        return tuple(torch.randint(6, 320, (size,), generator=generator).tolist())

    return [Example(tokens(), tokens()) for _ in range(count)]


def naive_log_probs(lm: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Log-probability of each answer token, one sequence at a time, from the model's own logits."""
    logits = lm(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    table = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    start = len(prompt) - 1
    return torch.stack([table[start + place, token] for place, token in enumerate(answer)])


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in rows), encoding="utf-8")
    return str(path)
