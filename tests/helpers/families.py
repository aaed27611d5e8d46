"""Tiny random models of many families, with every kind of layer that a family has."""

from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 320
# Names that families have for one shape; each takes those that it knows.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "lru_width": 32,
    "intermediate_size": 48,
    "n_inner": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "state_size": 8,
    "mamba_d_state": 8,
    "ssm_state_size": 8,
    "attention_window_size": 16,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
    # Far from what would not show.
    "resid_pdrop": 0.3,
    "attn_pdrop": 0.3,
    "attention_dropout": 0.3,
    "hidden_dropout": 0.3,
    "dropout": 0.3,
    "layerdrop": 0.3,
    "router_jitter_noise": 0.3,
    "logit_scale": 0.25,
    "logits_scaling": 3.0,
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0,
    "output_logit_soft_cap": 2.0,
    "lm_head_multiplier": 0.3,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1}
LATENT = {"head_dim": None, "num_key_value_heads": 4}
# What a family needs besides; None takes a name of `SHAPE` out.
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "bert": {"is_decoder": True},
    "biogpt": {},
    "bloom": {},
    "codegen": {},
    "cohere": {},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"]},
    "ctrl": {"dff": 48},
    "deepseek_v2": {"first_k_dense_replace": 1},
    "deepseek_v3": {**LATENT, "first_k_dense_replace": 1},
    "diffllama": {"attention_dropout": 0.0},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_layer_start_index": 1},
    "exaone4": {},
    "falcon": {"head_dim": None},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 32, "mamba_d_head": 8},
    "falcon_mamba": {},
    "gemma": {},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "glm": {},
    "glm4": {},
    "glm4_moe": {"first_k_dense_replace": 1},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gpt_neox": {},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
    "gptj": {},
    "granite": {},
    "granitemoe": {},
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 16,
    },
    "helium": {},
    "hunyuan_v1_dense": {},
    "hyperclovax": {},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "jetmoe": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {
        "layer_types": ["chunked_attention", "full_attention"],
        "moe_layers": [1],
        "attention_chunk_size": 16,
        "intermediate_size_mlp": 48,
    },
    "mamba": {},
    "mamba2": {"head_dim": 16, "n_groups": 1, "expand": 2},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "mistral": {},
    "mixtral": {},
    "modernbert-decoder": {"layer_types": ["sliding_attention", "full_attention"]},
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        "hybrid_override_pattern": "M*-",
        "num_hidden_layers": 3,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 1,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": {"layer_types": ["sliding_attention", "full_attention"]},
    "olmoe": {},
    "opt": {},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "qwen2": {},
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3": {},
    "qwen3_moe": {"mlp_only_layers": [0]},
    "qwen3_next": LINEAR,
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "xglm": {},
    "xlstm": {"v_head_dim": None, "num_heads": 2},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "mamba"]},
}
# Without PyTorch's own attention, or without any.
EAGER = [
    "bloom",
    "gemma2",
    "gpt_neo",
    "gpt_oss",
    "mpt",
    "xglm",
    "falcon_mamba",
    "mamba",
    "mamba2",
    "rwkv",
    "xlstm",
]
# Parts of which are computed in fp32 whatever the weights are in: positions, softmax, routers,
# state spaces.
FP32_INSIDE = {
    "bloom",
    "codegen",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "falcon_h1",
    "falcon_mamba",
    "gemma2",
    "glm4_moe",
    "gpt_neo",
    "gptj",
    "mamba",
    "mamba2",
    "mpt",
    "nemotron_h",
    "xlstm",
}
# Which can't be computed in fp64: the mask overflows.
FP32_WEIGHTS = {"xglm"}


def family_config(family: str) -> Any:
    """The configuration of a tiny model."""
    kind = CONFIG_MAPPING[family]
    usual, own = kind(), FAMILIES[family]
    shape = {name: value for name, value in SHAPE.items() if hasattr(usual, name)} | own
    return kind(**{name: value for name, value in shape.items() if value is not None})


def attention_of(family: str) -> str:
    """What the family's attention is computed with; older versions have "sdpa" of fewer."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]]
    return "sdpa" if family not in EAGER and kind._supports_sdpa else "eager"


def family_lm(family: str, seed: int = 0) -> Any:
    """A random model whose weights are large enough for every layer to matter."""
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(
        family_config(family), attn_implementation=attention_of(family)
    )
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m) for m in (lm.get_input_embeddings(), lm.get_output_embeddings())}
    with torch.no_grad():
        for module in lm.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                spread = 0.3 if id(module) in embeddings else 0.15
                module.weight.normal_(0, spread, generator=generator)
    return lm.float().eval()
