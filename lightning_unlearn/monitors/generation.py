"""Answers written by the model, and the numbers they end in."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import torch

from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.module import CausalLM

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def final_number(text: str) -> Decimal | None:
    """The number after the last ``####``, the way GSM8K ends an answer.

    Args:
        text: an answer.

    Returns:
        The number, thousands separators removed; None if there is no ``####`` or no number.
    """
    _, found, tail = text.rpartition("####")
    match = _NUMBER.search(tail) if found else None
    return Decimal(match.group().replace(",", "")) if match else None


@contextmanager
def _plain_settings(lm: Any) -> Iterator[None]:
    """Without the settings that come with a model, such as Qwen's repetition penalty.

    They would take the place of all that is not given here, and measure something else.
    """
    from transformers import GenerationConfig

    own, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own


def generate(
    module: CausalLM,
    tokenizer: Any,
    prompts: list[tuple[int, ...]],
    end_ids: tuple[int, ...],
    *,
    max_new_tokens: int,
    attempts: int = 1,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[int, list[str]]:
    """Let the model answer prompts; greedy for one attempt, sampled for several.

    Prompts are cut into batches independently of the number of processes, and each batch draws
    from its own seed, so the answers do not depend on how the work is spread.

    Args:
        module: the model.
        tokenizer: its tokenizer.
        prompts: token ids up to the assistant header.
        end_ids: tokens that end an answer.
        max_new_tokens: longest answer.
        attempts: answers per prompt.
        temperature: of sampling.
        batch_size: prompts of one batch.
        seed: of sampling.

    Returns:
        The answers' texts by prompt number, for this process's share of the prompts.
    """
    texts: dict[int, list[str]] = {}
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if attempts > 1 else {}
    with module.measuring(), _plain_settings(module.lm):
        for number in range(module.global_rank, len(batches), module.world_size):
            rows = batches[number]
            width = max(len(prompts[i]) for i in rows)
            input_ids = torch.full((len(rows), width), pad, dtype=torch.long)
            mask = torch.zeros(len(rows), width, dtype=torch.long)
            for r, i in enumerate(rows):
                input_ids[r, width - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[r, width - len(prompts[i]) :] = 1
            torch.manual_seed(derive_seed(seed, "generate", number))
            output = module.lm.generate(
                input_ids=input_ids.to(module.device),
                attention_mask=mask.to(module.device),
                max_new_tokens=max_new_tokens,
                do_sample=attempts > 1,
                num_return_sequences=attempts,
                eos_token_id=list(end_ids),
                pad_token_id=pad,
                use_cache=True,
                **sampling,
            )
            written = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            for r, i in enumerate(rows):
                texts[i] = written[r * attempts : (r + 1) * attempts]
    return texts
