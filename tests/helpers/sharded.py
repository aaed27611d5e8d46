"""Models for tests of sharding."""

from tiny_models import tiny_lm
from tiny_stages import Tiny


def make_bases(tiny: Tiny) -> None:
    """An untied Llama and a tied Qwen2, over several files, and one that can be shared out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.base)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    for name, units in (("llama", 49), ("qwen2", 49), ("even", 48)):
        family = "llama" if name == "llama" else "qwen2"
        lm = tiny_lm(
            family,
            vocab_size=1025,
            intermediate_size=units,
            tie_word_embeddings=family == "qwen2",
            max_position_embeddings=128,
            initializer_range=0.1,
            **ids,
        )
        lm.save_pretrained(tiny.root / name, max_shard_size="60KB")
        tokenizer.save_pretrained(tiny.root / name)
