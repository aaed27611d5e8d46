"""How likely given candidates are as continuations of a prompt, each prompt encoded once.

The paper scores 21 phrases on every forget prompt; truth ratios score a handful of answers. Here
one sequence holds the prompt and a tree of its candidates, in which equal beginnings are one
branch; a 4-D mask lets each token see the prompt and its own branch, and positions go on after the
prompt in each. The numbers are those of separate forwards.
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

# Largest difference per token between shared and separate forwards that counts as agreement.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


@dataclass(frozen=True)
class CandidateScores:
    """How likely the candidates of each row are, 0 where masked.

    Attributes:
        sum: log pi(candidate | prompt), nats, as `LogProbs`, ``[rows, most candidates]``.
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
    """Log-likelihood of each row's candidates after its prompt.

    Spread over the processes, each row once, in eval mode without gradient. How a prompt is shared
    is tried on the longest row, and again when there is a longer one: all candidates in one
    sequence ("tree"), else the prompt's keys and values repeated ("cache"), else not at all
    ("apart"), whichever first gives the numbers of separate forwards.

    Args:
        module: the model; remembers how it shares prompts, and its Trainer tells if that is not
            the fastest way.
        prompts: token ids of each row's prompt.
        candidates: for each row the token ids of its candidates; rows may have different numbers.
        batch_size: sequences of one forward; fewer where they are long.

    Returns:
        The scores, the same on every process.

    Raises:
        InputError: naming a row without prompt or candidates, or with an empty candidate.
    """
    _check(prompts, candidates)
    most = max(map(len, candidates), default=0)
    index = PerExampleMetric(len(prompts)).to(module.device)
    longest = [len(p) + max(map(len, own)) for p, own in zip(prompts, candidates, strict=True)]
    order = sorted(range(len(prompts)), key=lambda i: (longest[i], i))
    with module.measuring():
        # The longest row, as a shorter one would not show a sliding window.
        hardest = order[-1] if order else None
        if hardest is not None and _untried(module, longest[hardest]):
            module.prompt_sharing = _choose(
                module, prompts[hardest], candidates[hardest], batch_size
            )
            module.prompt_sharing_tried = longest[hardest]
        sharing = module.prompt_sharing or "apart"
        mine = module.own_share(order)
        if module.is_sharded and sharing != "tree":
            # These ways take as many forwards as rows and candidates ask for, and all processes
            # take part in every forward of a model that is cut up: so all do the same.
            mine = order
        sums = torch.zeros(len(mine), most, dtype=module.kept_dtype, device=module.device)
        if sharing == "tree":
            trees = [
                tree
                for place, i in enumerate(mine)
                for tree in grow(prompts[i], candidates[i], place)
            ]
            together = batches(trees, batch_size)
            for batch in together:
                owners = [(tree.row, number) for tree in batch for number in tree.numbers]
                rows, columns = torch.tensor(owners, device=module.device).unbind(1)
                sums[rows, columns] = _tree_sums(module, batch)
            module.fill_up(module.most(len(together)) - len(together))
        else:
            score = _cached if sharing == "cache" else _apart
            for place, i in enumerate(mine):
                own = score(module, prompts[i], candidates[i], batch_size)
                sums[place, : len(own)] = own
    index.update(torch.tensor(mine, dtype=torch.long, device=module.device), sums)
    lengths = torch.tensor(
        [[*map(len, own), *[0] * (most - len(own))] for own in candidates],
        dtype=torch.long,
        device=module.device,
    ).reshape(len(prompts), most)
    return CandidateScores(index.compute(), lengths, lengths > 0)


def _check(prompts: Sequence[Ids], candidates: Sequence[Sequence[Ids]]) -> None:
    assert len(prompts) == len(candidates)
    for number, (prompt, own) in enumerate(zip(prompts, candidates, strict=True), start=1):
        if not prompt:
            raise InputError(
                f"row {number} of the scored prompts: found no prompt tokens, expected at least "
                "one, as the first token of a candidate is predicted by the prompt."
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


def _untried(module: CausalLM, length: int) -> bool:
    """Whether it is open how sequences of this length are shared: only a mask can hide a window."""
    longer = length > module.prompt_sharing_tried
    return module.prompt_sharing is None or (module.prompt_sharing == "tree" and longer)


def _choose(
    module: CausalLM, prompt: Ids, candidates: Sequence[Ids], batch_size: int
) -> Sharing | None:
    """The fastest way in which this model gives the numbers of separate forwards; tried.

    None where numbers that are not finite tell nothing about the model.
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
        except Exception:  # whatever a model's own code raises at a mask or cache it can't take
            return False
        # Relative to their size: the answer must be about the model, not its present weights.
        gap = (shared - apart).abs() / (lengths + apart.abs())
        return gap.max().item() <= AGREEMENT.get(module.product_dtype, 1e-3)

    def tree() -> Tensor:
        return torch.cat([_tree_sums(module, [tree]) for tree in grow(prompt, candidates)])

    takes_masks = module.attn_implementation in ("sdpa", "eager")
    if takes_masks and agrees(tree):
        return "tree"
    found = f"attention {module.attn_implementation}" + (
        " with a mask of its own gives other numbers" if takes_masks else " takes no such mask"
    )
    if agrees(lambda: _cached(module, prompt, candidates, batch_size)):
        _warn(
            module,
            "Several continuations of one prompt are scored by repeating the prompt's keys and "
            f"values, not in one sequence: {found}. The numbers are the same; it is slower.",
        )
        return "cache"
    _warn(
        module,
        "Several continuations of one prompt are scored with a whole forward for each: "
        f"{found}, and neither does repeating the prompt's keys and values give these numbers. It "
        "is many times slower.",
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
    """Sums of consecutive runs of the given lengths."""
    sizes = torch.tensor(lengths, device=flat.device)
    mask = torch.arange(max(lengths), device=flat.device)[None, :] < sizes[:, None]
    return LogProbs.scatter(flat, mask).sum


def _tree_sums(module: CausalLM, trees: list[CandidateTree]) -> Tensor:
    """One sequence per tree; sums of their candidates, one tree's after the other's."""
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
    """The prompt once; then its keys and values once per candidate, padded on the right."""
    from transformers import DynamicCache

    whole = DynamicCache(config=module.lm.config)
    last = torch.full((len(candidates),), len(prompt) - 1)
    first = torch.tensor([candidate[0] for candidate in candidates])
    sums = _forward(module, torch.tensor([prompt]), last, first, past=whole)
    for start in range(0, len(candidates), batch_size):
        chosen = candidates[start : start + batch_size]
        # The last token is only predicted, and the first one is known.
        width = max(map(len, chosen)) - 1
        if width == 0:
            continue
        past = copy.deepcopy(whole)
        # Beam search's own way, which recurrent layers know too: each candidate a beam of prompt 0.
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
    """One sequence per candidate."""
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
