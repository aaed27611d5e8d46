"""Log-likelihoods of given candidates as continuations of a prompt, with one pass over the prompt.

The paper scores 21 phrases on every forget prompt; truth ratios score a few answers. Here one
sequence contains the prompt and a tree of its candidates, in which a common prefix is one branch.
By a 4-D mask each token attends to the prompt and to its own branch only. Positions in each branch
continue after the prompt. The numbers equal those of separate forwards.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_unlearn.distributed.gather import PerExampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.candidate_tree import CandidateTree, Ids, batches, grow, lay_out
from lightning_unlearn.model.causal_lm import CausalLM
from lightning_unlearn.model.log_probs import LogProbs

Sharing = Literal["tree", "cache", "apart"]

# Largest difference per token between shared and separate forwards that counts as equal.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


@dataclass(frozen=True)
class CandidateScores:
    """Log-likelihoods of the candidates of each row, 0 where masked.

    Attributes:
        sum: log pi(candidate | prompt), nats, dtype as in `LogProbs`, ``[rows, most candidates]``.
        length: tokens of each candidate, same shape.
        mask: True where a row has a candidate, same shape.
    """

    sum: Tensor
    length: Tensor
    mask: Tensor

    @property
    def mean(self) -> Tensor:
        """Log-likelihood per token, nats, ``[rows, most candidates]``."""
        return self.sum / self.length.clamp(min=1)


def score_candidates(
    module: CausalLM, prompts: Sequence[Ids], candidates: Sequence[Sequence[Ids]], batch_size: int
) -> CandidateScores:
    """Compute the log-likelihood of each row's candidates after its prompt.

    The rows are distributed over the processes and evaluated in eval mode without gradient. There
    are three ways to share a prompt: all candidates in one sequence ("tree"), the prompt's keys and
    values repeated ("cache"), or no sharing ("apart"). The first of them that gives the numbers of
    separate forwards is used. It is tested on the longest row, and again if a longer row comes.

    Args:
        module: the model. It stores how it shares prompts. Its Trainer prints a warning if that is
            not the fastest way.
        prompts: token ids of each row's prompt.
        candidates: for each row the token ids of its candidates; rows may have different numbers.
        batch_size: sequences of one forward; fewer if they are long.

    Returns:
        The scores, the same on every process.

    Raises:
        InputError: if a row has no prompt or no candidates, or a candidate is empty.
    """
    _check(prompts, candidates)
    most = max(map(len, candidates), default=0)
    index = PerExampleMetric(len(prompts)).to(module.device)
    longest = [len(p) + max(map(len, own)) for p, own in zip(prompts, candidates, strict=True)]
    order = sorted(range(len(prompts)), key=lambda i: (longest[i], i))
    with module.measuring():
        # Test on the longest row: a shorter one may be within a sliding window.
        hardest = order[-1] if order else None
        if hardest is not None and _is_untested(module, longest[hardest]):
            module.prompt_sharing = _choose(
                module, prompts[hardest], candidates[hardest], batch_size
            )
            module.prompt_sharing_tried = longest[hardest]
        mine = module.own_share(order)
        if module.is_sharded and module.prompt_sharing != "tree":
            # All processes must take part in every forward of a sharded model. Without trees, the
            # number of forwards depends on the rows, so all processes compute all rows.
            mine = order
        own = ([prompts[i] for i in mine], [candidates[i] for i in mine])
        sums = _row_sums(module, *own, batch_size, most)
    index.update(torch.tensor(mine, dtype=torch.long, device=module.device), sums)
    lengths = torch.tensor(
        [[*map(len, own), *[0] * (most - len(own))] for own in candidates],
        dtype=torch.long,
        device=module.device,
    ).reshape(len(prompts), most)
    return CandidateScores(index.compute(), lengths, lengths > 0)


def _row_sums(
    module: CausalLM,
    prompts: Sequence[Ids],
    candidates: Sequence[Sequence[Ids]],
    batch_size: int,
    most: int,
) -> Tensor:
    """Compute the log-likelihoods of this process's rows, ``[rows, most candidates]``."""
    sums = torch.zeros(len(prompts), most, dtype=module.kept_dtype, device=module.device)
    pairs = enumerate(zip(prompts, candidates, strict=True))
    if module.prompt_sharing == "tree":
        trees = [tree for row, (prompt, own) in pairs for tree in grow(prompt, own, row)]
        batched = batches(trees, batch_size)
        for batch in batched:
            owners = [(tree.row, number) for tree in batch for number in tree.numbers]
            rows, columns = torch.tensor(owners, device=module.device).unbind(1)
            sums[rows, columns] = _tree_sums(module, batch)
        module.fill_up(module.most(len(batched)) - len(batched))
        return sums
    score = _cached if module.prompt_sharing == "cache" else _apart
    for row, (prompt, own) in pairs:
        values = score(module, prompt, own, batch_size)
        sums[row, : len(values)] = values
    return sums


def _check(prompts: Sequence[Ids], candidates: Sequence[Sequence[Ids]]) -> None:
    assert len(prompts) == len(candidates)
    for number, (prompt, own) in enumerate(zip(prompts, candidates, strict=True), start=1):
        if not prompt:
            raise InputError(
                f"row {number} of the scored prompts: found no prompt tokens, expected at least "
                "one: the prompt predicts the first token of a candidate."
            )
        if not own:
            raise InputError(
                f"row {number} of the scored prompts: found 0 candidates, expected at least one."
            )
        if not all(own):
            empty = [bool(candidate) for candidate in own].index(False) + 1
            raise InputError(
                f"row {number} of the scored prompts: candidate {empty} has no tokens, expected "
                "at least one."
            )


def _is_untested(module: CausalLM, length: int) -> bool:
    """Return whether prompt sharing must be tested for this length.

    A longer sequence needs a new test only for "tree", whose mask may override a sliding window.
    """
    longer = length > module.prompt_sharing_tried
    return module.prompt_sharing is None or (module.prompt_sharing == "tree" and longer)


def _choose(
    module: CausalLM, prompt: Ids, candidates: Sequence[Ids], batch_size: int
) -> Sharing | None:
    """Test which is the fastest way of sharing that gives the numbers of separate forwards.

    Returns:
        The way; None if the numbers are not finite, so that the test is not possible.
    """
    apart = _apart(module, prompt, candidates, batch_size)
    if not apart.isfinite().all():
        return None
    lengths = torch.tensor([*map(len, candidates)], device=apart.device)

    def agrees(score: Callable[[], Tensor]) -> bool:
        try:
            shared = score()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # A model may raise anything for a mask or cache that it does not accept.
            return False
        # Relative to their size, so that the result does not depend on the current weights.
        gap = (shared - apart).abs() / (lengths + apart.abs())
        return gap.max().item() <= AGREEMENT.get(module.product_dtype, 1e-3)

    def tree() -> Tensor:
        return torch.cat([_tree_sums(module, [tree]) for tree in grow(prompt, candidates)])

    takes_masks = module.attn_implementation in ("sdpa", "eager")
    if takes_masks and agrees(tree):
        return "tree"
    found = f"attention {module.attn_implementation}" + (
        " with a custom mask gives other numbers" if takes_masks else " accepts no custom mask"
    )
    if agrees(lambda: _cached(module, prompt, candidates, batch_size)):
        _warn(
            module,
            "Several continuations of one prompt are scored with repeated keys and values of the "
            f"prompt, not in one sequence: {found}. The numbers are the same, but it is slower.",
        )
        return "cache"
    _warn(
        module,
        "Several continuations of one prompt are scored with a full forward for each: "
        f"{found}, and repeated keys and values of the prompt give other numbers too. It is many "
        "times slower.",
    )
    return "apart"


def _warn(module: CausalLM, text: str) -> None:
    warn = getattr(module._trainer, "warn", None)
    if warn is not None and module.global_rank == 0:
        warn(text)


def _forward(module: CausalLM, *inputs: Tensor, **options: Any) -> Tensor:
    assert module.net is not None
    on_device = {
        name: value.to(module.device) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    flat: Tensor = module.net(*(value.to(module.device) for value in inputs), **on_device)
    return flat


def _sums(flat: Tensor, lengths: list[int]) -> Tensor:
    """Return the sums of consecutive groups of values with the given lengths."""
    sizes = torch.tensor(lengths, device=flat.device)
    mask = torch.arange(max(lengths), device=flat.device)[None, :] < sizes[:, None]
    return LogProbs.scatter(flat, mask).sum


def _tree_sums(module: CausalLM, trees: list[CandidateTree]) -> Tensor:
    """Score one sequence per tree; return the sums of all candidates, tree after tree."""
    laid = lay_out(trees)
    hidden = laid.visible.to(module.device).logical_not_()[:, None]
    mask = torch.zeros(hidden.shape, dtype=module.lm.dtype, device=module.device)
    flat = _forward(
        module,
        laid.input_ids,
        laid.source,
        laid.target,
        attention_mask=mask.masked_fill_(hidden, torch.finfo(mask.dtype).min),
        position_ids=laid.positions,
    )
    return _sums(flat, [len(candidate) for tree in trees for candidate in tree.target])


def _cached(module: CausalLM, prompt: Ids, candidates: Sequence[Ids], batch_size: int) -> Tensor:
    """Run the prompt once, then all candidates with copies of its keys and values."""
    from transformers import DynamicCache

    prompt_cache = DynamicCache(config=module.lm.config)
    last = torch.full((len(candidates),), len(prompt) - 1)
    first = torch.tensor([candidate[0] for candidate in candidates])
    sums = _forward(module, torch.tensor([prompt]), last, first, past=prompt_cache)
    for start in range(0, len(candidates), batch_size):
        chosen = candidates[start : start + batch_size]
        # The last token is only predicted, and the first one is already scored.
        width = max(map(len, chosen)) - 1
        if width == 0:
            continue
        past = copy.deepcopy(prompt_cache)
        # As in beam search, which recurrent layers support too: each candidate is a beam of
        # prompt 0.
        past.reorder_cache(torch.zeros(len(chosen), dtype=torch.long, device=module.device))
        input_ids = torch.zeros(len(chosen), width, dtype=torch.long)
        source: list[int] = []
        for r, candidate in enumerate(chosen):
            input_ids[r, : len(candidate) - 1] = torch.tensor(candidate[:-1])
            source += range(r * width, r * width + len(candidate) - 1)
        target = [token for candidate in chosen for token in candidate[1:]]
        flat = _forward(module, input_ids, torch.tensor(source), torch.tensor(target), past=past)
        sums[start : start + batch_size] += _sums(flat, [len(c) - 1 for c in chosen])
    return sums


def _apart(module: CausalLM, prompt: Ids, candidates: Sequence[Ids], batch_size: int) -> Tensor:
    """Score one sequence per candidate."""
    parts = []
    for start in range(0, len(candidates), batch_size):
        chosen = candidates[start : start + batch_size]
        width = len(prompt) + max(map(len, chosen))
        input_ids = torch.zeros(len(chosen), width, dtype=torch.long)
        source: list[int] = []
        for r, candidate in enumerate(chosen):
            input_ids[r, : len(prompt) + len(candidate)] = torch.tensor(prompt + candidate)
            before = r * width + len(prompt) - 1
            source += range(before, before + len(candidate))
        target = [token for candidate in chosen for token in candidate]
        flat = _forward(module, input_ids, torch.tensor(source), torch.tensor(target))
        parts.append(_sums(flat, [len(candidate) for candidate in chosen]))
    return torch.cat(parts)
