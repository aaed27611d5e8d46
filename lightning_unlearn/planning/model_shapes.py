"""Shapes of some models by hub name: a plan needs neither a download nor an account for them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Rotary positions of Llama 3, which was pretrained with 8192 positions.
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-5,
}
_LLAMA3 = _LLAMA | {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
}
# In every Qwen2, queries, keys and values have a bias; its configuration has no key for it.
_QWEN: dict[str, Any] = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
}

# Values of each model's config.json on the hub, compared with litgpt/config.py of
# Lightning-AI/litgpt, which names these files as its source. The resulting numbers of parameters
# equal those that the hub shows (tests/planning/test_planning.py).
CONFIGS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": _LLAMA3
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "meta-llama/Llama-3.2-3B": _LLAMA3
    | {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "meta-llama/Llama-3.1-8B": _LLAMA3
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 8.0},
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-2-13b-hf": _LLAMA
    | {
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "head_dim": 128,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-1.5B": _QWEN
    | {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-14B": _QWEN
    | {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
# Instruction-tuned versions: the same shapes; those of Qwen have fewer positions.
INSTRUCTED = {
    "meta-llama/Llama-3.2-1B-Instruct": "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B-Instruct": "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-2-13b-chat-hf": "meta-llama/Llama-2-13b-hf",
    "Qwen/Qwen2.5-1.5B-Instruct": "Qwen/Qwen2.5-1.5B",
    "Qwen/Qwen2.5-14B-Instruct": "Qwen/Qwen2.5-14B",
}
CONFIGS |= {
    name: CONFIGS[base] | ({"max_position_embeddings": 32768} if "Qwen" in name else {})
    for name, base in INSTRUCTED.items()
}


@contextmanager
def config_folder(base: str, **changes: Any) -> Iterator[str]:
    """Create a temporary folder with the configuration of a known model.

    Args:
        base: model folder, hub name, or demo:NAME.
        changes: changed keys of the configuration.

    Yields:
        A value for ``model.base``: the temporary folder, or ``base`` itself if it is a folder or
        not a known model.
    """
    if Path(base).expanduser().is_dir() or base not in CONFIGS:
        yield base
        return
    with TemporaryDirectory(prefix="lightning-unlearn-plan-") as folder:
        text = json.dumps(CONFIGS[base] | changes)
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        yield folder
