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
from lightning_unlearn.model.evaluator import Evaluator
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


class CandidateScorer:
    """Computes log-likelihoods of several continuations of each of many prompts.

    There are three ways to share a prompt: all candidates in one sequence ("tree"), the prompt's
    keys and values repeated ("cache"), or no sharing ("apart"). The first of them that gives the
    numbers of separate forwards is used. It is tested on the longest row, and again if a longer row
    comes.

    Args:
        evaluator: evaluator of the model.
        attn_implementation: attention implementation of the model, as in transformers.

    Attributes:
        sharing: the way in which prompts are shared; None before the test.
        tried_length: tokens of the longest row on which it was tested.
    """

    def __init__(self, evaluator: Evaluator, attn_implementation: str) -> None:
        self.evaluator = evaluator
        self.sharing: Sharing | None = None
        self.tried_length = 0
        self.attn_implementation = attn_implementation

    def score(
        self, prompts: Sequence[Ids], candidates: Sequence[Sequence[Ids]], batch_size: int
    ) -> CandidateScores:
        """Compute the log-likelihood of each row's candidates after its prompt.

        The rows are distributed over the processes and evaluated in eval mode without gradient.
        Prints a warning if prompts are not shared in the fastest way.

        Args:
            prompts: token ids of each row's prompt.
            candidates: for each row the token ids of its candidates; rows may have different
                numbers.
            batch_size: sequences of one forward; fewer if they are long.

        Returns:
            The scores, the same on every process.

        Raises:
            InputError: if a row has no prompt or no candidates, or a candidate is empty.
        """
        _check(prompts, candidates)
        placement = self.evaluator.placement
        most = max(map(len, candidates), default=0)
        longest = [len(p) + max(map(len, own)) for p, own in zip(prompts, candidates, strict=True)]
        order = sorted(range(len(prompts)), key=lambda i: (longest[i], i))
        with self.evaluator.eval_mode():
            # Test on the longest row: a shorter one may be within a sliding window.
            hardest = order[-1] if order else None
            if hardest is not None and self._must_try(longest[hardest]):
                self.sharing = self._choose(prompts[hardest], candidates[hardest], batch_size)
                self.tried_length = longest[hardest]
            mine = placement.shard_of(order)
            if placement.is_sharded and self.sharing != "tree":
                # All processes must take part in every forward of a sharded model. Without trees,
                # the number of forwards depends on the rows, so all processes compute all rows.
                mine = order
            own_prompts = [prompts[i] for i in mine]
            own_candidates = [candidates[i] for i in mine]
            sums = self._sums(own_prompts, own_candidates, most, batch_size)
        gathered = PerExampleMetric(len(prompts)).to(placement.device)
        gathered.update(torch.tensor(mine, dtype=torch.long, device=placement.device), sums)
        lengths = torch.tensor(
            [[*map(len, own), *[0] * (most - len(own))] for own in candidates],
            dtype=torch.long,
            device=placement.device,
        ).reshape(len(prompts), most)
        return CandidateScores(gathered.compute(), lengths, lengths > 0)

    def _sums(
        self, prompts: list[Ids], candidates: list[Sequence[Ids]], most: int, batch_size: int
    ) -> Tensor:
        """Compute the log-likelihoods of this process's rows, ``[rows, most]``."""
        evaluator, device = self.evaluator, self.evaluator.placement.device
        dtype = evaluator.network.result_dtype
        sums = torch.zeros(len(prompts), most, dtype=dtype, device=device)
        rows = enumerate(zip(prompts, candidates, strict=True))
        if self.sharing == "tree":
            trees = [tree for row, (prompt, own) in rows for tree in grow(prompt, own, row)]
            batched = batches(trees, batch_size)
            for batch in batched:
                owners = [(tree.row, number) for tree in batch for number in tree.numbers]
                row_numbers, columns = torch.tensor(owners, device=device).unbind(1)
                sums[row_numbers, columns] = _tree_sums(evaluator, batch)
            count = len(batched)
            evaluator.extra_forwards(evaluator.placement.max_over_ranks(count) - count)
            return sums
        score = _cached if self.sharing == "cache" else _apart
        for row, (prompt, own) in rows:
            found = score(evaluator, prompt, own, batch_size)
            sums[row, : len(found)] = found
        return sums

    def _must_try(self, length: int) -> bool:
        """Return whether prompt sharing must be tested for this length.

        A longer sequence needs a new test only for "tree", whose mask may override a sliding
        window.
        """
        return self.sharing is None or (self.sharing == "tree" and length > self.tried_length)

    def _choose(self, prompt: Ids, candidates: Sequence[Ids], batch_size: int) -> Sharing | None:
        """Test which is the fastest way of sharing that gives the numbers of separate forwards.

        Returns:
            The way; None if the numbers are not finite, so that the test is not possible.
        """
        evaluator = self.evaluator
        apart = _apart(evaluator, prompt, candidates, batch_size)
        if not apart.isfinite().all():
            return None
        lengths = torch.tensor([*map(len, candidates)], device=apart.device)

        def agrees(score: Callable[[], Tensor]) -> bool:
            try:
                shared = score()
            except torch.OutOfMemoryError:
                raise
            except Exception:  # A model may raise anything for a mask or cache it does not accept.
                return False
            # Relative to their size, so that the result does not depend on the current weights.
            gap = (shared - apart).abs() / (lengths + apart.abs())
            return gap.max().item() <= AGREEMENT.get(evaluator.product_dtype, 1e-3)

        def tree() -> Tensor:
            return torch.cat([_tree_sums(evaluator, [tree]) for tree in grow(prompt, candidates)])

        takes_masks = self.attn_implementation in ("sdpa", "eager")
        if takes_masks and agrees(tree):
            return "tree"
        found = f"attention {self.attn_implementation}" + (
            " with a custom mask gives other numbers" if takes_masks else " accepts no custom mask"
        )
        if agrees(lambda: _cached(evaluator, prompt, candidates, batch_size)):
            evaluator.placement.warn(
                "Several continuations of one prompt are scored with repeated keys and values of "
                f"the prompt, not in one sequence: {found}. The numbers are the same, but it is "
                "slower."
            )
            return "cache"
        evaluator.placement.warn(
            "Several continuations of one prompt are scored with a full forward for each: "
            f"{found}, and repeated keys and values of the prompt give other numbers too. It is "
            "many times slower."
        )
        return "apart"


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


def _forward(evaluator: Evaluator, *inputs: Tensor, **options: Any) -> Tensor:
    device = evaluator.placement.device
    on_device = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    flat: Tensor = evaluator.network(*(value.to(device) for value in inputs), **on_device)
    return flat


def _sums(flat: Tensor, lengths: list[int]) -> Tensor:
    """Return the sums of consecutive groups of values with the given lengths."""
    sizes = torch.tensor(lengths, device=flat.device)
    mask = torch.arange(max(lengths), device=flat.device)[None, :] < sizes[:, None]
    return LogProbs.scatter(flat, mask).sum


def _tree_sums(evaluator: Evaluator, trees: list[CandidateTree]) -> Tensor:
    """Score one sequence per tree; return the sums of all candidates, tree after tree."""
    laid = lay_out(trees)
    hidden = laid.visible.to(evaluator.placement.device).logical_not_()[:, None]
    mask = torch.zeros(
        hidden.shape, dtype=evaluator.network.hf_model.dtype, device=evaluator.placement.device
    )
    flat = _forward(
        evaluator,
        laid.input_ids,
        laid.label_positions,
        laid.label_ids,
        attention_mask=mask.masked_fill_(hidden, torch.finfo(mask.dtype).min),
        position_ids=laid.positions,
    )
    return _sums(flat, [len(candidate) for tree in trees for candidate in tree.label_ids])


def _cached(
    evaluator: Evaluator, prompt: Ids, candidates: Sequence[Ids], batch_size: int
) -> Tensor:
    """Run the prompt once, then all candidates with copies of its keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache(config=evaluator.network.hf_model.config)
    last = torch.full((len(candidates),), len(prompt) - 1)
    first = torch.tensor([candidate[0] for candidate in candidates])
    sums = _forward(evaluator, torch.tensor([prompt]), last, first, past_key_values=cache)
    for start in range(0, len(candidates), batch_size):
        chosen = candidates[start : start + batch_size]
        # The last token is only predicted, and the first one is already scored.
        width = max(map(len, chosen)) - 1
        if width == 0:
            continue
        repeated = copy.deepcopy(cache)
        # As in beam search, which recurrent layers support too: each candidate is a beam of
        # prompt 0.
        repeated.reorder_cache(
            torch.zeros(len(chosen), dtype=torch.long, device=evaluator.placement.device)
        )
        input_ids = torch.zeros(len(chosen), width, dtype=torch.long)
        positions: list[int] = []
        for r, candidate in enumerate(chosen):
            input_ids[r, : len(candidate) - 1] = torch.tensor(candidate[:-1])
            positions += range(r * width, r * width + len(candidate) - 1)
        ids = [token for candidate in chosen for token in candidate[1:]]
        flat = _forward(
            evaluator,
            input_ids,
            torch.tensor(positions),
            torch.tensor(ids),
            past_key_values=repeated,
        )
        sums[start : start + batch_size] += _sums(flat, [len(c) - 1 for c in chosen])
    return sums


def _apart(evaluator: Evaluator, prompt: Ids, candidates: Sequence[Ids], batch_size: int) -> Tensor:
    """Score one sequence per candidate."""
    parts = []
    for start in range(0, len(candidates), batch_size):
        chosen = candidates[start : start + batch_size]
        width = len(prompt) + max(map(len, chosen))
        input_ids = torch.zeros(len(chosen), width, dtype=torch.long)
        positions: list[int] = []
        for r, candidate in enumerate(chosen):
            input_ids[r, : len(prompt) + len(candidate)] = torch.tensor(prompt + candidate)
            before = r * width + len(prompt) - 1
            positions += range(before, before + len(candidate))
        ids = [token for candidate in chosen for token in candidate]
        flat = _forward(evaluator, input_ids, torch.tensor(positions), torch.tensor(ids))
        parts.append(_sums(flat, [len(candidate) for candidate in chosen]))
    return torch.cat(parts)
