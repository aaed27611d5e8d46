"""Candidates that share their prompt, against one plain forward for each."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import naive_log_probs
from tiny_models import tiny_module as in_fp32
from torch import Tensor

from lightning_unlearn import CausalLM, InputError, LoRA
from lightning_unlearn.model import candidate_tree, candidates
from lightning_unlearn.model.adapters import LEARN, UNLEARN, choose_adapters
from lightning_unlearn.model.candidates import CandidateScores, score_candidates
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES

Ids = tuple[int, ...]
# In fp32 the last digits of two ways differ from processor to processor.
tiny_module = partial(in_fp32, dtype=torch.float64)
Questions = tuple[list[Ids], list[list[Ids]]]


def random_ids(size: int, generator: torch.Generator) -> Ids:
    return tuple(torch.randint(6, 320, (size,), generator=generator).tolist())


def questions(seed: int = 0) -> Questions:
    """Return prompts of different lengths, each with another number of candidates.

    Short phrases and answers of 50 tokens; some begin alike, some are equal, one is the beginning
    of another.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = [random_ids(size, generator) for size in (1, 9, 2, 17, 5, 30, 9)]
    own = [[random_ids(1 + (n + p) % 6, generator) for n in range(1 + p)] for p in range(7)]
    stem = random_ids(20, generator)
    own[2] += [stem + random_ids(30, generator), stem + random_ids(12, generator), stem[:7]]
    own[4] += [own[4][0], own[4][1] + (7,)]
    return prompts, own


def naive(module: CausalLM, prompts: list[Ids], own: list[list[Ids]]) -> Tensor:
    """Compute sums, ``[rows, most candidates]``."""
    table = torch.zeros(len(prompts), max(map(len, own)), dtype=torch.float64)
    with torch.no_grad():
        for r, (prompt, row) in enumerate(zip(prompts, own, strict=True)):
            for c, candidate in enumerate(row):
                table[r, c] = naive_log_probs(module.lm, prompt, candidate).sum()
    return table


def assert_close(ours: Tensor, expected: Tensor) -> None:
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}[ours.dtype]
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)


def assert_naive(module: CausalLM, found: CandidateScores) -> None:
    prompts, own = questions()
    expected = naive(module, prompts, own)
    assert expected[expected != 0].std() > 0.1
    assert_close(found.sum, expected)
    lengths = [[len(c) for c in row] + [0] * (expected.shape[1] - len(row)) for row in own]
    assert found.length.tolist() == lengths
    assert torch.equal(found.mask, found.length > 0)
    assert_close(found.mean, expected / found.length.clamp(min=1))


def with_adapters(module: CausalLM) -> CausalLM:
    """Activate both adapters with weights that have an effect."""
    choose_adapters(module.peft, [LEARN, UNLEARN], None)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in module.lm.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    return module


@pytest.fixture
def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of sequences of each forward."""
    seen: list[int] = []
    forward = candidates._forward

    def counting(module: CausalLM, *inputs: Tensor, **options: Any) -> Tensor:
        seen.append(len(inputs[0]))
        return forward(module, *inputs, **options)

    monkeypatch.setattr(candidates, "_forward", counting)
    return seen


@pytest.fixture
def told() -> list[str]:
    """Warnings; see `with_trainer`."""
    return []


def with_trainer(module: CausalLM, told: list[str]) -> CausalLM:
    """Give the module a stub of a Trainer that collects warnings."""
    trainer = SimpleNamespace(
        warn=told.append, global_rank=0, world_size=1, precision="32-true", strategy=None
    )
    trainer.precision_plugin = SimpleNamespace(forward_context=nullcontext)
    module._trainer = trainer  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_tree_gives_the_numbers_of_separate_forwards(
    tmp_path: Path, family: str, attention: str, batch_size: int
) -> None:
    module = tiny_module(tmp_path, family, attn_implementation=attention)
    found = score_candidates(module, *questions(), batch_size)
    assert module.prompt_sharing == "tree"
    assert_naive(module, found)


@pytest.mark.parametrize("sharing", ["tree", "cache", "apart"])
def test_all_ways_of_sharing_agree_in_fp32(tmp_path: Path, sharing: str) -> None:
    module = in_fp32(tmp_path)
    module.prompt_sharing, module.prompt_sharing_tried = sharing, 512
    found = score_candidates(module, *questions(), 4)
    assert found.sum.dtype == torch.float32
    assert_naive(module, found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sharing", ["tree", "cache", "apart"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_all_ways_of_sharing_agree_with_both_adapters(
    tmp_path: Path, family: str, sharing: str, attention: str
) -> None:
    module = tiny_module(
        tmp_path, family, lora=LoRA(rank=4, alpha=8), attn_implementation=attention
    )
    plain = score_candidates(module, *questions(), 4).sum
    with_adapters(module).prompt_sharing = sharing
    assert module.prompt_sharing_tried == 52
    found = score_candidates(module, *questions(), 4)
    assert (found.sum - plain).abs().max() > 0.1
    assert_naive(module, found)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
@pytest.mark.parametrize("sharing", [None, "cache", "apart"])
def test_other_families_agree_too(tmp_path: Path, family: str, sharing: str | None) -> None:
    attention = "eager" if family == "gemma2" else "sdpa"
    module = tiny_module(tmp_path, family, attn_implementation=attention)
    module.prompt_sharing = sharing
    assert_naive(module, score_candidates(module, *questions(), 4))
    assert module.prompt_sharing == (sharing or "tree")


def test_each_prompt_is_encoded_once(tmp_path: Path, count_forwards: list[int]) -> None:
    module = tiny_module(tmp_path)
    score_candidates(module, *questions(), 3)
    # One trial: the six candidates of the longest row apart, three at a time, and in a tree.
    assert count_forwards == [3, 3, 1, 3, 3, 1]
    count_forwards.clear()
    score_candidates(module, *questions(), 3)
    assert count_forwards == [3, 3, 1], "no row is longer than the one that was tried"


def test_common_prefixes_are_one_branch() -> None:
    (tree,) = candidate_tree.grow((1, 2), [(3, 4, 5), (3, 4, 6, 7), (3,), (8, 4), (3, 4, 5)])
    # Last tokens are only predicted.
    assert tree.tokens == [3, 4, 6, 8]
    assert tree.parents == [1, 2, 3, 1]
    assert tree.positions == [2, 3, 4, 2]
    assert tree.source == [[1, 2, 3], [1, 2, 3, 4], [1], [1, 5], [1, 2, 3]]


@pytest.mark.parametrize("elements", [1, 500, 2000, 6000])
def test_masks_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    module = tiny_module(tmp_path)
    module.prompt_sharing, module.prompt_sharing_tried = "tree", 512
    monkeypatch.setattr(candidate_tree, "MASK_ELEMENTS", elements)
    sizes: list[int] = []
    forward = candidates._forward

    def looking(module: CausalLM, *inputs: Tensor, **options: Any) -> Tensor:
        sizes.append(options["attention_mask"].numel())
        return forward(module, *inputs, **options)

    monkeypatch.setattr(candidates, "_forward", looking)
    assert_naive(module, score_candidates(module, *questions(), 32))
    longest = max(len(p) + max(map(len, own)) - 1 for p, own in zip(*questions(), strict=True))
    # A prompt with one candidate can't be cut.
    assert max(sizes) <= max(elements, longest**2)
    assert len(sizes) == sum(map(len, questions()[1])) if elements == 1 else len(sizes) > 1


def test_equal_candidates_of_one_prompt_have_equal_values(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    values = score_candidates(module, [(7, 8, 9)], [[(10, 11)] * 4], 8).sum
    assert torch.equal(values, values[:, :1].expand(1, 4))


def test_nothing_to_score(tmp_path: Path) -> None:
    assert score_candidates(tiny_module(tmp_path), [], [], 8).mean.shape == (0, 0)


@pytest.mark.parametrize(
    ("prompt", "own", "message"),
    [
        ((7,), [], "row 2 of the scored prompts: found 0 candidates, expected at least one"),
        ((7,), [(8,), ()], "row 2 of the scored prompts: candidate 2 has no tokens"),
        ((), [(8,)], "row 2 of the scored prompts: found no prompt tokens"),
    ],
)
def test_empty_rows_are_refused(tmp_path: Path, prompt: Ids, own: list[Ids], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_candidates(tiny_module(tmp_path), [(7,), prompt], [[(8,)], own], 8)


@pytest.mark.parametrize("error", ["shifted", "nan", "raised"])
def test_a_model_that_accepts_no_tree_repeats_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str], error: str
) -> None:
    module = with_trainer(tiny_module(tmp_path), told)
    tree = candidates._tree_sums

    def wrong(*arguments: Any) -> Tensor:
        if error == "raised":
            raise ValueError("no such mask")
        return tree(*arguments) + (0.1 if error == "shifted" else float("nan"))

    monkeypatch.setattr(candidates, "_tree_sums", wrong)
    for _ in range(2):
        assert_naive(module, score_candidates(module, *questions(), 3))
    assert module.prompt_sharing == "cache"
    assert told == [
        "Several continuations of one prompt are scored with repeated keys and values of the "
        "prompt, not in one sequence: attention sdpa with a custom mask gives other numbers. The "
        "numbers are the same, but it is slower."
    ]


def test_attention_that_accepts_no_mask_is_not_tested(
    tmp_path: Path, count_forwards: list[int], told: list[str]
) -> None:
    module = with_trainer(tiny_module(tmp_path), told)
    module.attn_implementation = "flash_attention_2"
    found = score_candidates(module, [(7, 8), (9,)], [[(1, 2, 3), (4, 5)], [(6,), (7,)]], 32)
    assert module.prompt_sharing == "cache"
    # The trial: two apart, then the prompt, and two with its cache. A candidate of one token is
    # predicted by its prompt.
    assert count_forwards == [2, 1, 2, 1, 1, 2]
    expected = naive(module, [(7, 8), (9,)], [[(1, 2, 3), (4, 5)], [(6,), (7,)]])
    assert_close(found.sum, expected)
    assert len(told) == 1 and "attention flash_attention_2 accepts no custom mask" in told[0]


def test_without_a_repeatable_cache_forwards_are_separate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    from transformers import DynamicCache

    def refuse(self: Any, beams: Tensor) -> None:
        raise NotImplementedError

    monkeypatch.setattr(DynamicCache, "reorder_cache", refuse)
    module = with_trainer(tiny_module(tmp_path), told)
    module.attn_implementation = "flash_attention_2"
    for _ in range(2):
        assert_naive(module, score_candidates(module, *questions(), 3))
    assert module.prompt_sharing == "apart"
    assert len(told) == 1 and "a full forward for each: attention flash_attention_2" in told[0]


def test_a_sliding_window_shorter_than_the_longest_prompt_is_detected(tmp_path: Path) -> None:
    # A 4-D mask replaces the window, which shorter rows are too short to show.
    module = tiny_module(tmp_path, "gemma2", attn_implementation="eager", sliding_window=12)
    score_candidates(module, [(7, 8, 9)], [[(10, 11)] * 4], 3)
    assert module.prompt_sharing == "tree"
    found = score_candidates(module, *questions(), 3)
    assert module.prompt_sharing == "cache"
    assert_naive(module, found)


def test_bfloat16_shares_prompts_within_its_own_rounding(tmp_path: Path) -> None:
    module = in_fp32(tmp_path, initializer_range=0.05)
    exact = naive(module, *questions())
    module.lm.to(torch.bfloat16)
    found = score_candidates(module, *questions(), 3)
    assert module.prompt_sharing == "tree" and found.sum.dtype == torch.float32
    assert (found.mean - exact / found.length.clamp(min=1)).abs().max() < 0.1


def test_mixed_precision_shares_prompts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = in_fp32(tmp_path, initializer_range=0.05)
    exact = naive(module, *questions())
    monkeypatch.setattr(module, "precision_context", lambda: torch.autocast("cpu", torch.bfloat16))
    found = score_candidates(module, *questions(), 3)
    assert module.prompt_sharing == "tree"
    assert (found.mean - exact / found.length.clamp(min=1)).abs().max() < 0.1


def test_diverged_weights_do_not_decide_the_way_of_sharing(tmp_path: Path, told: list[str]) -> None:
    module = with_trainer(tiny_module(tmp_path), told)
    weight = module.lm.get_output_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
        assert score_candidates(module, *questions(), 3).sum.isnan().any()
        assert module.prompt_sharing is None and not told
        weight.copy_(kept)
    assert_naive(module, score_candidates(module, *questions(), 3))
    assert module.prompt_sharing == "tree"


def test_processes_share_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is scored once; `test_generation` has two real processes."""
    module, seen = tiny_module(tmp_path), []
    module.prompt_sharing, module.prompt_sharing_tried = "tree", 512

    class Kept(candidates.PerExampleMetric):
        def update(self, index: Tensor, values: Tensor) -> None:
            seen.append((index, values))

        def compute(self) -> Tensor:
            return torch.zeros(7, 7)

    monkeypatch.setattr(candidates, "PerExampleMetric", Kept)
    for rank in range(9):
        monkeypatch.setattr(CausalLM, "data_share", (rank, 9))
        score_candidates(module, *questions(), 2)
    index, values = (torch.cat(part) for part in zip(*seen, strict=True))
    assert sorted(index.tolist()) == list(range(7))
    expected = naive(module, *questions())
    assert_close(values[index.argsort()], expected)


def test_evaluation_does_not_change_mode_and_random_numbers(tmp_path: Path) -> None:
    module = tiny_module(tmp_path).train()
    state = torch.get_rng_state()
    found = score_candidates(module, *questions(), 3)
    assert module.training and module.lm.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.sum.requires_grad


def test_the_phrases_are_those_of_the_paper() -> None:
    assert LABEL == "Sorry, I can not assist you"
    assert len(set(PARAPHRASES)) == len(PARAPHRASES) == 19
    assert LABEL not in PARAPHRASES
