"""Generate answers with the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.batches import derive_seed
from lightning_unlearn.model.causal_lm import CausalLM

Ids = tuple[int, ...]

# Elements of the float64 probabilities that are computed at a time: 128 MiB.
CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Written:
    """A generated answer.

    Attributes:
        text: text without end token and special tokens.
        ended: whether the model ended the answer; False if it reached the longest length.
    """

    text: str
    ended: bool


class _Draw:
    """Logits processor of transformers that draws the next token and excludes all others.

    The drawn token is the one at which the cumulative probability exceeds a uniform number. That
    number depends only on prompt, attempt and step. So the drawn tokens do not depend on the other
    sequences of the batch.

    Args:
        uniform: numbers in [0, 1), ``[sequences, steps]``, float64.
        prompt: length of the padded prompts in tokens.
        temperature: temperature of the distribution.
    """

    def __init__(self, uniform: Tensor, prompt: int, temperature: float) -> None:
        self.uniform = uniform
        self.prompt = prompt
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits that are 0 for the drawn token and -inf for all others."""
        drawn = self.uniform[:, input_ids.shape[1] - self.prompt, None]
        chosen = torch.empty_like(drawn, dtype=torch.long)
        chunk = max(1, CHUNK_ELEMENTS // scores.shape[-1])
        for start in range(0, len(scores), chunk):
            rows = slice(start, start + chunk)
            reached = _running_sums(torch.softmax(scores[rows].double() / self.temperature, dim=-1))
            # Because of rounding, the last sum may be below 1. Scale the number by it, so that it
            # always finds a token.
            chosen[rows] = torch.searchsorted(reached, drawn[rows] * reached[:, -1:], right=True)
        # Diverged weights give nan; then take any valid token.
        chosen.clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def _running_sums(values: Tensor) -> Tensor:
    """Compute cumulative sums over the last axis.

    PyTorch has no deterministic algorithm for them on a GPU (``trainer.deterministic``), so in that
    case they are computed on the CPU.

    Args:
        values: ``[rows, columns]``.
    """
    if values.is_cuda and torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(-1).to(values.device)
    return values.cumsum(-1)


@contextmanager
def _plain_settings(lm: Any) -> Iterator[None]:
    """Ignore a model's own generation settings, such as Qwen's repetition penalty.

    They would be used for every argument that is not given here, and change the results.
    """
    from transformers import GenerationConfig

    own, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own


@contextmanager
def _computing_on(lm: Any, device: torch.device) -> Iterator[None]:
    """Make ``lm.device`` the device on which the model computes.

    transformers takes the device of the first parameter as that of the model and moves tokens
    there. FSDP2 with ``cpu_offload`` keeps parameters on the CPU and computes on a GPU.
    """
    own = type(lm)
    own_device = property(lambda _: device, doc="Device on which the model computes.")
    lm.__class__ = type(own.__name__, (own,), {"__module__": own.__module__, "device": own_device})
    try:
        yield
    finally:
        lm.__class__ = own


def _uniform(seed: int, rows: list[int], attempts: int, steps: int) -> Tensor:
    """Return uniform numbers for prompts and attempts, ``[prompts x attempts, steps]``."""
    return torch.stack(
        [
            torch.rand(
                steps,
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(derive_seed(seed, "generate", i, attempt)),
            )
            for i in rows
            for attempt in range(attempts)
        ]
    )


def generate_answers(
    module: CausalLM,
    tokenizer: Any,
    prompts: list[Ids],
    ends: Ids,
    *,
    max_new_tokens: int,
    attempts: int = 1,
    greedy: bool = False,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[int, list[Written]]:
    """Generate answers to prompts.

    Each token is drawn with a random number that depends only on prompt, attempt and step. So the
    answers do not depend on the batch size or the number of processes, except through rounding of
    the logits.

    Args:
        module: the model.
        tokenizer: tokenizer of the model.
        prompts: token ids up to the assistant header.
        ends: tokens that end an answer.
        max_new_tokens: longest answer in tokens; shorter at the end of the model's context.
        attempts: sampled answers per prompt.
        greedy: generate one answer of the most likely tokens instead.
        temperature: temperature of sampling.
        batch_size: prompts of one batch.
        seed: seed of sampling.

    Returns:
        The answers by prompt number, for this process's share of the prompts.
    """
    answers: dict[int, list[Written]] = {}
    attempts = 1 if greedy else attempts
    batches = []
    for steps, rows in _batches(module, prompts, max_new_tokens, batch_size):
        if steps:
            batches.append((steps, rows))
        else:
            answers |= {i: [Written("", ended=False)] * attempts for i in rows}
    settings, device = _plain_settings(module.lm), _computing_on(module.lm, module.device)
    with module.measuring(), settings, device:
        for steps, rows in batches:
            draw = None if greedy else (_uniform(seed, rows, attempts, steps), temperature)
            batch = [prompts[i] for i in rows for _ in range(attempts)]
            written = [
                _read(tokenizer, ids, ends)
                for ids in _write(module, tokenizer, batch, ends, steps, draw)
            ]
            for r, i in enumerate(rows):
                answers[i] = written[r * attempts : (r + 1) * attempts]
        for _ in range(module.most(len(batches)) - len(batches)):
            # All processes must take part in every forward of a sharded model.
            _write(module, tokenizer, [(0,)], ends, 1, None)
    return answers


def _batches(
    module: CausalLM, prompts: list[Ids], max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield the longest answer in tokens, and prompt numbers, of each batch of this process.

    At the end of the context answers are shorter; a batch has prompts of one answer length only.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))

    def room(i: int) -> int:
        return max(0, min(max_new_tokens, module.context - len(prompts[i])))

    for steps, group in groupby(module.own_share(order), key=room):
        rows = list(group)
        for start in range(0, len(rows), batch_size):
            yield steps, rows[start : start + batch_size]


def _write(
    module: CausalLM,
    tokenizer: Any,
    prompts: list[Ids],
    ends: Ids,
    steps: int,
    draw: tuple[Tensor, float] | None,
) -> list[list[int]]:
    """Generate the tokens after each prompt; tokens after the first end token may be anything."""
    pad, vocabulary = tokenizer.pad_token_id, module.vocabulary
    if pad is None or (vocabulary is not None and pad >= vocabulary):
        # Any token of the model: it is masked before a prompt, and ignored after an end.
        pad = 0
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for r, prompt in enumerate(prompts):
        input_ids[r, width - len(prompt) :] = torch.tensor(prompt)
        mask[r, width - len(prompt) :] = 1
    assert module.net is not None
    output = module.net.generate(
        input_ids=input_ids.to(module.device),
        attention_mask=mask.to(module.device),
        max_new_tokens=steps,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
        use_cache=True,
        synced_gpus=module.is_sharded,
        logits_processor=[_Draw(draw[0].to(module.device), width, draw[1])] if draw else None,
    )
    ids: list[list[int]] = output[:, width:].tolist()
    return ids


def _read(tokenizer: Any, ids: list[int], ends: Ids) -> Written:
    stop = next((position for position, token in enumerate(ids) if token in ends), None)
    text = tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return Written(text, ended=stop is not None)
