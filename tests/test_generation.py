"""Generated answers against a plain argmax loop, and the numbers that answers end in."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_checkpoint, tiny_module, tiny_tokenizer

from lightning_unlearn import CausalLM
from lightning_unlearn.monitors.generation import final_number, generate

Ids = tuple[int, ...]
END = 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4 x 3 = 12.\n#### 12", "12"),
        ("#### 12", "12"),
        ("####12", "12"),
        ("####\n12", "12"),
        ("#### 12.", "12"),
        ("#### 12\n", "12"),
        ("#### 12 apples", "12"),
        ("#### $12", "12"),
        ("#### 12$", "12"),
        ("#### 12%", "12"),
        ("#### -12", "-12"),
        ("#### 1,234", "1234"),
        ("#### 1,234,567.50", "1234567.5"),
        ("#### 12,", "12"),
        ("#### 0.5", "0.5"),
        ("#### .5", "0.5"),
        ("#### -.5", "-0.5"),
        ("#### 12.0", "12"),
        ("#### 007", "7"),
        ("#### The answer is 12", "12"),
        ("#### **12**", "12"),
        ("#### x = 12", "12"),
        ("#### 3\n#### 12", "12"),
        ("##### 12", "12"),
        ("#### 12<|end|>", "12"),
        ("12 #### twelve", None),
        ("12", None),
        ("### 12", None),
        ("#### ", None),
        ("#### 3 ####", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.decimals(-(10**9), 10**9, places=3), st.text(max_size=20))
def test_every_number_is_read_with_and_without_separators(number: Decimal, before: str) -> None:
    assert final_number(f"{before}\n#### {number:f}") == number
    assert final_number(f"{before}\n#### {number:,f}.") == number


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    for strange in (text, f"#### {text}", f"####{text}.5"):
        value = final_number(strange)
        assert value is None or value.is_finite()


def prompts(count: int = 6) -> list[Ids]:
    """Prompts of different lengths, not in the order of their lengths."""
    generator = torch.Generator().manual_seed(1)
    sizes = [5, 1, 12, 7, 2, 7][:count]
    return [tuple(torch.randint(6, 320, (n,), generator=generator).tolist()) for n in sizes]


def manual(module: CausalLM, prompt: Ids, ends: Ids, tokens: int) -> list[int]:
    """Always the most likely token, without batch, padding or cache."""
    written: list[int] = []
    with torch.no_grad():
        while len(written) < tokens and not (written and written[-1] in ends):
            ids = torch.tensor([[*prompt, *written]])
            written.append(int(module.lm(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
    return written


def greedy(module: CausalLM, ends: Ids, batch_size: int = 4) -> dict[int, list[str]]:
    return generate(
        module, tiny_tokenizer(), prompts(), ends, max_new_tokens=12, batch_size=batch_size
    )


def sampled(module: CausalLM, seed: int = 0, temperature: float = 1.0) -> dict[int, list[str]]:
    return generate(
        module,
        tiny_tokenizer(),
        prompts(),
        (END,),
        max_new_tokens=6,
        attempts=3,
        temperature=temperature,
        batch_size=4,
        seed=seed,
    )


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_greedy_answers_are_those_of_a_plain_loop(
    tmp_path: Path, family: str, batch_size: int
) -> None:
    module = tiny_module(tmp_path, family)
    # End at a token that some answers contain, so that rows of a batch end at different places.
    (first, *_) = (manual(module, prompt, (END,), 12) for prompt in prompts())
    ends = (END, first[4])
    expected = [manual(module, prompt, ends, 12) for prompt in prompts()]
    assert len({len(written) for written in expected}) > 1
    texts = greedy(module, ends, batch_size)
    # The second end has a text, which the answer keeps; padding does not.
    decoded = tiny_tokenizer().batch_decode(expected, skip_special_tokens=True)
    assert texts == {number: [text] for number, text in enumerate(decoded)}


def test_settings_that_come_with_the_model_do_not_change_greedy_answers(tmp_path: Path) -> None:
    plain = greedy(tiny_module(tmp_path / "plain"), (END,))
    folder = tmp_path / "tuned"
    base = tiny_checkpoint(folder)
    # Those of Qwen2.5-Instruct, with a stronger penalty.
    tuned = {
        "do_sample": True,
        "repetition_penalty": 5.0,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "eos_token_id": [3, 4],
        "max_length": 3,
    }
    (folder / "generation_config.json").write_text(json.dumps(tuned), encoding="utf-8")
    module = CausalLM(base, lora=None)
    module.configure_model()
    assert greedy(module, (END,)) == plain


def test_sampled_answers_do_not_depend_on_settings_that_come_with_the_model(
    tmp_path: Path,
) -> None:
    plain = sampled(tiny_module(tmp_path / "plain"))
    folder = tmp_path / "tuned"
    base = tiny_checkpoint(folder)
    tuned = {"do_sample": True, "repetition_penalty": 5.0, "top_p": 0.1, "top_k": 2, "min_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(tuned), encoding="utf-8")
    module = CausalLM(base, lora=None)
    module.configure_model()
    assert sampled(module) == plain


def test_sampled_answers_come_from_the_seed_alone(tmp_path: Path) -> None:
    module = tiny_module(tmp_path, initializer_range=0.05)
    first = sampled(module)
    torch.rand(3)
    assert sampled(module) == first
    assert sampled(module, seed=1) != first
    assert sorted(first) == list(range(6)) and all(len(texts) == 3 for texts in first.values())
    assert any(len(set(texts)) == 3 for texts in first.values()), "attempts differ"


def test_sampling_near_temperature_0_is_greedy(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    cold = sampled(module, temperature=1e-4)
    texts = generate(module, tiny_tokenizer(), prompts(), (END,), max_new_tokens=6)
    assert cold == {number: answers * 3 for number, answers in texts.items()}


def test_sampled_tokens_follow_the_model(tmp_path: Path) -> None:
    module = tiny_module(tmp_path, initializer_range=0.05)
    prompt = prompts()[0]
    texts = generate(
        module, tiny_tokenizer(), [prompt], (END,), max_new_tokens=1, attempts=4000, seed=3
    )[0]
    with torch.no_grad():
        logits = module.lm(input_ids=torch.tensor([prompt])).logits[0, -1]
    probabilities = logits.softmax(-1)
    # Tokens of half a character all read alike.
    words = {token: tiny_tokenizer().decode([token]) for token in range(6, 320)}
    readable = [token for token, word in words.items() if "\ufffd" not in word]
    assert len(readable) > 150
    for token in readable:
        expected = 4000 * probabilities[token].item()
        assert abs(texts.count(words[token]) - expected) < 4 + 5 * expected**0.5, token


def test_generating_leaves_training_alone(tmp_path: Path) -> None:
    module = tiny_module(tmp_path).train()
    state = torch.get_rng_state()
    sampled(module)
    assert module.training and torch.equal(torch.get_rng_state(), state)
    assert module.lm.config.use_cache is False


@pytest.mark.parametrize("attempts", [1, 2])
def test_processes_share_the_prompts_and_write_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    module = tiny_module(tmp_path, initializer_range=0.05)

    def written() -> dict[int, list[str]]:
        return generate(
            module,
            tiny_tokenizer(),
            prompts(),
            (END,),
            max_new_tokens=4,
            attempts=attempts,
            batch_size=2,
        )

    alone, shares = written(), []
    monkeypatch.setattr(CausalLM, "world_size", property(lambda _: 2))
    for rank in range(2):
        monkeypatch.setattr(CausalLM, "global_rank", rank)
        shares.append(written())
    assert not set(shares[0]) & set(shares[1])
    assert shares[0] | shares[1] == alone


def test_more_processes_than_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_module(tmp_path)
    monkeypatch.setattr(CausalLM, "world_size", property(lambda _: 99))
    monkeypatch.setattr(CausalLM, "global_rank", property(lambda _: 98))
    assert greedy(module, (END,)) == {}
