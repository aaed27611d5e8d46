"""How likely given phrases are as the start of an answer, each prompt encoded once.

The paper scores 21 phrases on every forget prompt. Here one sequence holds the prompt and all
phrases; a 4-D mask lets each phrase see the prompt and itself, and positions start again after the
prompt. The numbers are those of separate forwards.
"""

import torch
from torch import Tensor

from lightning_unlearn.gathering import ByExample
from lightning_unlearn.module import CausalLM

# The unlearn label of arXiv 2510.16629 and the paraphrases printed in its appendix F.
LABEL = "Sorry, I can not assist you"
PARAPHRASES = (
    "I can't help with that",
    "I'm unable to assist",
    "I can't provide help",
    "Sorry, I'm not able to do that",
    "I can't assist",
    "I'm afraid I can't",
    "I'm not able to comply",
    "That's not something I can assist",
    "I can't support",
    "Unfortunately, I can't help",
    "I'm unable to provide assistance",
    "Unfortunately, I can not assist",
    "I must decline this",
    "I can't fulfill that",
    "I'm sorry I'm unable to do that for you",
    "I can't proceed",
    "Regretfully, I can not",
    "I'm not permitted",
    "I need to decline",
)

Ids = tuple[int, ...]

# Largest difference per token between shared and separate forwards that counts as agreement.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


def phrase_log_likelihoods(
    module: CausalLM, prompts: list[Ids], phrases: list[list[Ids]], batch_size: int
) -> Tensor:
    """Mean log-likelihood per token of each phrase after each prompt.

    Spread over the processes, each prompt once, in eval mode without gradient.

    Args:
        module: the model.
        prompts: token ids of the prompts.
        phrases: for each prompt, token ids of the phrases; equally many for each.
        batch_size: prompts of one forward.

    Returns:
        ``[prompts, phrases]``, nats per token, the same on every process.
    """
    table = ByExample(len(prompts)).to(module.device)
    table.update(
        torch.empty(0, dtype=torch.long, device=module.device),
        torch.empty(0, len(phrases[0]), device=module.device),
    )
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    mine = order[module.global_rank :: module.world_size]
    with module.measuring():
        if module.shares_prompts is None:
            # The longest prompt, as a short one would not show a sliding window.
            longest = order[-1]
            module.shares_prompts = _agree(module, prompts[longest], phrases[longest])
        for start in range(0, len(mine), batch_size):
            rows = mine[start : start + batch_size]
            batch = [prompts[i] for i in rows], [phrases[i] for i in rows]
            values = _shared(module, *batch) if module.shares_prompts else _apart(module, *batch)
            table.update(torch.tensor(rows, device=module.device), values)
    return table.compute()


def _agree(module: CausalLM, prompt: Ids, phrases: list[Ids]) -> bool:
    """Whether this model takes 4-D masks and free positions as Llama does; tried, not guessed."""
    if module.attention not in ("sdpa", "eager"):
        return False
    shared, apart = (f(module, [prompt], [phrases]) for f in (_shared, _apart))
    # Relative to their size: the answer must be about the model, not about its present weights.
    gap = ((shared - apart).abs() / (1 + apart.abs())).max().item()
    return gap <= AGREEMENT.get(module.lm.dtype, 1e-3)


def _forward(module: CausalLM, *inputs: Tensor, **options: Tensor) -> Tensor:
    assert module.net is not None
    on_device = {name: value.to(module.device) for name, value in options.items()}
    flat: Tensor = module.net(*(value.to(module.device) for value in inputs), **on_device)
    return flat


def _means(flat: Tensor, lengths: list[int], shape: tuple[int, int]) -> Tensor:
    """Means of consecutive runs of the given lengths, laid out as a table."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    sums = flat.new_zeros(len(lengths)).index_add_(0, owner.to(flat.device), flat)
    return (sums / torch.tensor(lengths, device=flat.device)).reshape(shape)


def _shared(module: CausalLM, prompts: list[Ids], phrases: list[list[Ids]]) -> Tensor:
    """All phrases of a prompt in one sequence."""
    rows = [prompt + sum(own, ()) for prompt, own in zip(prompts, phrases, strict=True)]
    width = max(map(len, rows))
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    # 0 is the prompt, 1... the phrases, -1 the padding, which sees only padding.
    segment = torch.full((len(rows), width), -1)
    source: list[int] = []
    target: list[int] = []
    lengths: list[int] = []
    for r, (prompt, own) in enumerate(zip(prompts, phrases, strict=True)):
        size = len(prompt)
        input_ids[r, : len(rows[r])] = torch.tensor(rows[r])
        positions[r, :size] = torch.arange(size)
        segment[r, :size] = 0
        at = size
        for number, phrase in enumerate(own, start=1):
            end = at + len(phrase)
            positions[r, at:end] = torch.arange(size, size + len(phrase))
            segment[r, at:end] = number
            first = r * width
            source += [first + size - 1, *range(first + at, first + end - 1)]
            target += phrase
            lengths.append(len(phrase))
            at = end
    earlier = torch.ones(width, width, dtype=torch.bool).tril()
    same = segment[:, :, None] == segment[:, None, :]
    visible = earlier & (same | (segment[:, None, :] == 0))
    lowest = torch.finfo(module.lm.dtype).min
    mask = torch.zeros(visible.shape, dtype=module.lm.dtype).masked_fill(~visible, lowest)
    flat = _forward(
        module,
        input_ids,
        torch.tensor(source),
        torch.tensor(target),
        attention_mask=mask[:, None],
        position_ids=positions,
    )
    return _means(flat, lengths, (len(prompts), len(phrases[0])))


def _apart(module: CausalLM, prompts: list[Ids], phrases: list[list[Ids]]) -> Tensor:
    """One sequence per prompt and phrase."""
    parts = []
    for prompt, own in zip(prompts, phrases, strict=True):
        width = len(prompt) + max(map(len, own))
        input_ids = torch.zeros(len(own), width, dtype=torch.long)
        source: list[int] = []
        for r, phrase in enumerate(own):
            input_ids[r, : len(prompt) + len(phrase)] = torch.tensor(prompt + phrase)
            first = r * width + len(prompt) - 1
            source += range(first, first + len(phrase))
        flat = _forward(module, input_ids, torch.tensor(source), torch.tensor(sum(own, ())))
        parts.append(_means(flat, [len(phrase) for phrase in own], (1, len(own))))
    return torch.cat(parts)
