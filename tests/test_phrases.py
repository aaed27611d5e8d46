"""Phrases scored with their prompt shared, against one plain forward per prompt and phrase."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import naive_log_probs, tiny_module
from torch import Tensor

from lightning_unlearn import CausalLM
from lightning_unlearn.monitors import phrases as phrases_module
from lightning_unlearn.monitors.phrases import LABEL, PARAPHRASES, phrase_log_likelihoods

Ids = tuple[int, ...]


def random_ids(size: int, generator: torch.Generator) -> Ids:
    return tuple(torch.randint(6, 320, (size,), generator=generator).tolist())


def questions(count: int = 7, seed: int = 0) -> tuple[list[Ids], list[list[Ids]]]:
    """Prompts of different lengths, and for each five phrases of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [1, 9, 2, 17, 5, 30, 9][:count]
    prompts = [random_ids(size, generator) for size in sizes]
    own = [[random_ids(1 + (n + p) % 6, generator) for n in range(5)] for p in range(count)]
    return prompts, own


def naive(module: CausalLM, prompts: list[Ids], own: list[list[Ids]]) -> Tensor:
    with torch.no_grad():
        return torch.tensor(
            [
                [naive_log_probs(module.lm, prompt, phrase).mean().item() for phrase in row]
                for prompt, row in zip(prompts, own, strict=True)
            ]
        )


@pytest.fixture
def count_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences of each forward made for phrases."""
    seen: list[int] = []
    forward = phrases_module._forward

    def counting(module: CausalLM, *inputs: Tensor, **options: Tensor) -> Tensor:
        seen.append(len(inputs[0]))
        return forward(module, *inputs, **options)

    monkeypatch.setattr(phrases_module, "_forward", counting)
    return seen


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_shared_prompts_give_the_numbers_of_separate_forwards(
    tmp_path: Path, family: str, attention: str, batch_size: int
) -> None:
    module = tiny_module(tmp_path, family, attention=attention)
    found = phrase_log_likelihoods(module, *questions(), batch_size)
    assert module.shares_prompts is True
    expected = naive(module, *questions())
    assert found.shape == (7, 5) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_other_families_agree_too(tmp_path: Path, family: str) -> None:
    attention = "eager" if family == "gemma2" else "sdpa"
    module = tiny_module(tmp_path, family, attention=attention)
    found = phrase_log_likelihoods(module, *questions(), 4)
    torch.testing.assert_close(found, naive(module, *questions()), rtol=1e-5, atol=1e-5)


def test_each_prompt_is_encoded_once(tmp_path: Path, count_forwards: list[int]) -> None:
    module = tiny_module(tmp_path)
    phrase_log_likelihoods(module, *questions(), 3)
    # One trial, shared and apart; then the prompts three at a time.
    assert count_forwards == [1, 5, 3, 3, 1]
    count_forwards.clear()
    phrase_log_likelihoods(module, *questions(), 3)
    assert count_forwards == [3, 3, 1], "the trial is made once"


def test_equal_phrases_of_one_prompt_have_equal_values(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    (prompt, *_), ((phrase, *_), *_) = questions()
    values = phrase_log_likelihoods(module, [prompt], [[phrase] * 4], 8)
    torch.testing.assert_close(values, values[:, :1].expand(1, 4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("error", ["shifted", "nan"])
def test_a_model_that_does_not_agree_is_scored_separately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    module = tiny_module(tmp_path)
    shared = phrases_module._shared

    def wrong(*arguments: Any) -> Tensor:
        return shared(*arguments) + (0.01 if error == "shifted" else float("nan"))

    monkeypatch.setattr(phrases_module, "_shared", wrong)
    found = phrase_log_likelihoods(module, *questions(), 3)
    assert module.shares_prompts is False
    torch.testing.assert_close(found, naive(module, *questions()), rtol=1e-5, atol=1e-5)


def test_attention_that_takes_no_such_mask_is_not_tried(
    tmp_path: Path, count_forwards: list[int]
) -> None:
    module = tiny_module(tmp_path)
    module.attention = "flash_attention_2"
    found = phrase_log_likelihoods(module, *questions(), 3)
    assert module.shares_prompts is False
    assert count_forwards == [5] * 7
    torch.testing.assert_close(found, naive(module, *questions()), rtol=1e-5, atol=1e-5)


def test_a_sliding_window_shorter_than_the_longest_prompt_is_noticed(tmp_path: Path) -> None:
    # A 4-D mask replaces the window, which the shortest prompt is too short to show.
    module = tiny_module(tmp_path, "gemma2", attention="eager", sliding_window=12)
    found = phrase_log_likelihoods(module, *questions(), 3)
    assert module.shares_prompts is False
    torch.testing.assert_close(found, naive(module, *questions()), rtol=1e-5, atol=1e-5)


def test_bfloat16_shares_prompts_within_its_own_rounding(tmp_path: Path) -> None:
    module = tiny_module(tmp_path, initializer_range=0.05)
    exact = naive(module, *questions())
    module.lm.to(torch.bfloat16)
    found = phrase_log_likelihoods(module, *questions(), 3)
    assert module.shares_prompts is True and found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.1


def test_measuring_leaves_mode_and_random_numbers_alone(tmp_path: Path) -> None:
    module = tiny_module(tmp_path).train()
    state = torch.get_rng_state()
    found = phrase_log_likelihoods(module, *questions(), 3)
    assert module.training and module.lm.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.requires_grad


def test_the_phrases_are_those_of_the_paper() -> None:
    assert LABEL == "Sorry, I can not assist you"
    assert len(set(PARAPHRASES)) == len(PARAPHRASES) == 19
    assert LABEL not in PARAPHRASES
