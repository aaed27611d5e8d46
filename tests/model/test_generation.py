"""Generated answers against a plain argmax loop, and the drawing of tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_module, tiny_tokenizer
from tiny_stages import Start
from transformers import PreTrainedModel

from lightning_unlearn import CausalLM
from lightning_unlearn.model import generation
from lightning_unlearn.model.candidates import score_candidates
from lightning_unlearn.model.generation import Written, generate_answers

Ids = tuple[int, ...]
END = 1


def prompts(count: int = 6) -> list[Ids]:
    """Return prompts of different lengths, not sorted by length."""
    generator = torch.Generator().manual_seed(1)
    sizes = [5, 1, 12, 7, 2, 7][:count]
    return [tuple(torch.randint(6, 320, (n,), generator=generator).tolist()) for n in sizes]


def manual(module: CausalLM, prompt: Ids, ends: Ids, tokens: int) -> list[int]:
    """Generate the most likely tokens without batch, padding or cache."""
    written: list[int] = []
    with torch.no_grad():
        while len(written) < tokens and not (written and written[-1] in ends):
            ids = torch.tensor([[*prompt, *written]])
            written.append(int(module.lm(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
    return written


def greedy(module: CausalLM, ends: Ids, batch_size: int = 4) -> dict[int, list[Written]]:
    return generate_answers(
        module,
        tiny_tokenizer(),
        prompts(),
        ends,
        max_new_tokens=12,
        greedy=True,
        batch_size=batch_size,
    )


def sampled(module: CausalLM, **options: Any) -> dict[int, list[Written]]:
    given = {"max_new_tokens": 6, "attempts": 3, "batch_size": 4, **options}
    return generate_answers(module, tiny_tokenizer(), prompts(), (END,), **given)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_greedy_answers_equal_a_plain_loop(tmp_path: Path, family: str, batch_size: int) -> None:
    module = tiny_module(tmp_path, family)
    # End at a token that some answers contain, so that rows of a batch end at different places.
    (first, *_) = (manual(module, prompt, (END,), 12) for prompt in prompts())
    ends = (END, first[4])
    expected = [manual(module, prompt, ends, 12) for prompt in prompts()]
    ended = [written[-1] in ends for written in expected]
    assert len(set(ended)) == 2
    # The second end has a text, which is no part of the answer.
    texts = [written[: len(written) - end] for written, end in zip(expected, ended, strict=True)]
    decoded = tiny_tokenizer().batch_decode(texts, skip_special_tokens=True)
    answers = [[Written(text, end)] for text, end in zip(decoded, ended, strict=True)]
    assert greedy(module, ends, batch_size) == dict(enumerate(answers))


def with_settings(folder: Path, **given: Any) -> CausalLM:
    """Create a model with its own generation settings."""
    base = tiny_checkpoint(folder, initializer_range=0.05)
    (folder / "generation_config.json").write_text(json.dumps(given), encoding="utf-8")
    module = CausalLM(base, lora=None)
    module.configure_model()
    return module


def test_generation_settings_of_the_model_have_no_effect(tmp_path: Path) -> None:
    plain = tiny_module(tmp_path / "plain", initializer_range=0.05)
    # Those of Qwen2.5-Instruct, with a stronger penalty.
    tuned = with_settings(
        tmp_path / "tuned",
        do_sample=True,
        repetition_penalty=5.0,
        temperature=0.7,
        top_p=0.1,
        top_k=2,
        min_p=0.9,
        eos_token_id=[3, 4],
        max_length=3,
    )
    assert greedy(tuned, (END,)) == greedy(plain, (END,))
    assert sampled(tuned) == sampled(plain)


def test_sampled_answers_depend_only_on_the_seed(tmp_path: Path) -> None:
    module = tiny_module(tmp_path, initializer_range=0.05)
    first = sampled(module)
    torch.rand(3)
    assert sampled(module) == first
    assert sampled(module, seed=1) != first
    assert sorted(first) == list(range(6)) and all(len(own) == 3 for own in first.values())
    assert any(len(set(own)) == 3 for own in first.values()), "attempts differ"
    more = sampled(module, attempts=5)
    assert {i: own[:3] for i, own in more.items()} == first, "an attempt is one of its own"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_sampled_answers_do_not_depend_on_batches(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_module(tmp_path, family, initializer_range=0.05)
    options = {"attempts": 5, "max_new_tokens": 20}
    first, *others = (sampled(module, batch_size=size, **options) for size in (1, 3, 32))
    assert all(other == first for other in others)
    assert len({a.text for own in first.values() for a in own}) == 30
    monkeypatch.setattr(generation, "CHUNK_ELEMENTS", 1000)
    assert sampled(module, batch_size=32, **options) == first


def test_near_temperature_0_the_most_likely_tokens_are_drawn(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    cold = sampled(module, temperature=1e-4, max_new_tokens=12)
    assert cold == {number: own * 3 for number, own in greedy(module, (END,)).items()}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_tokens_follow_the_model(tmp_path: Path, temperature: float) -> None:
    module = tiny_module(tmp_path, initializer_range=0.05)
    prompt = prompts()[0]
    answers = generate_answers(
        module,
        tiny_tokenizer(),
        [prompt],
        (END,),
        max_new_tokens=1,
        attempts=4000,
        temperature=temperature,
        seed=3,
    )[0]
    texts = [answer.text for answer in answers]
    with torch.no_grad():
        logits = module.lm(input_ids=torch.tensor([prompt])).logits[0, -1]
    probabilities = (logits / temperature).softmax(-1)
    # Tokens of half a character all read alike.
    words = {token: tiny_tokenizer().decode([token]) for token in range(6, 320)}
    readable = [token for token, word in words.items() if "\ufffd" not in word]
    assert len(readable) > 150
    for token in readable:
        expected = 4000 * probabilities[token].item()
        assert abs(texts.count(words[token]) - expected) < 4 + 5 * expected**0.5, token


@pytest.mark.parametrize("numbers", [[0.0], [0.25], [0.5 - 1e-12], [1 - 2**-53]])
def test_a_token_without_probability_is_never_drawn(numbers: list[float]) -> None:
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    draw = generation._Draw(torch.tensor([numbers], dtype=torch.float64), 3, 1.0)
    chosen = draw(torch.zeros(1, 3, dtype=torch.long), scores).argmax(-1).item()
    assert chosen == (1 if numbers[0] < 0.5 else 3)


@pytest.mark.parametrize("greedily", [True, False])
def test_diverged_weights_stop_at_the_longest_answer(tmp_path: Path, greedily: bool) -> None:
    module = tiny_module(tmp_path)
    with torch.no_grad():
        module.lm.get_output_embeddings().weight.fill_(float("nan"))
    answers = sampled(module, greedy=greedily)
    assert not any(answer.ended for own in answers.values() for answer in own)


def test_a_model_that_never_ends_is_cut(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    tokenizer = tiny_tokenizer(pad=None)
    tokens = manual(module, prompts()[0], (), 12)
    answers = generate_answers(
        module, tokenizer, prompts()[:1], (), max_new_tokens=12, greedy=True, attempts=5
    )
    assert answers == {0: [Written(tokenizer.decode(tokens, skip_special_tokens=True), False)]}


def test_answers_stop_at_the_end_of_the_context(tmp_path: Path) -> None:
    module = tiny_module(tmp_path)
    module.model_config.max_position_embeddings = 9
    for batch_size in (1, 32):
        answers = greedy(module, (), batch_size)
        for i, prompt in enumerate(prompts()):
            # The prompt of 12 tokens has no room left.
            tokens = manual(module, prompt, (), max(0, 9 - len(prompt)))
            text = tiny_tokenizer().decode(tokens, skip_special_tokens=True)
            assert answers[i] == [Written(text, ended=False)]


def test_generation_does_not_change_training(tmp_path: Path) -> None:
    module = tiny_module(tmp_path).train()
    state = torch.get_rng_state()
    sampled(module)
    assert module.training and torch.equal(torch.get_rng_state(), state)
    assert module.lm.config.use_cache is False


def test_parameters_may_be_on_another_device_than_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 with cpu_offload: transformers moves tokens to the device of the parameters."""
    module = tiny_module(tmp_path)
    expected = greedy(module, (END,))
    elsewhere = property(lambda _: torch.device("cuda"))
    monkeypatch.setattr(PreTrainedModel, "device", elsewhere)
    own = type(module.lm)
    assert greedy(module, (END,)) == expected
    assert type(module.lm) is own and module.lm.device.type == "cuda"


def test_more_processes_than_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_module(tmp_path)
    monkeypatch.setattr(CausalLM, "data_share", (98, 99))
    assert greedy(module, (END,)) == {}


def candidates() -> list[list[Ids]]:
    return [[prompts()[c] for c in range(1 + i % 4)] for i in range(6)]


def work(rank: int, folder: Path) -> None:
    """Run in each of two processes."""
    torch.set_num_threads(1)
    module = tiny_module(folder / str(rank), dtype=torch.float64, initializer_range=0.05)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    try:
        CausalLM.data_share = (rank, 2)  # type: ignore[method-assign, assignment]
        answers = sampled(module, attempts=5, max_new_tokens=20)
        scores = score_candidates(module, prompts(), candidates(), 2)
        torch.save((answers, scores), folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_generate_and_score_the_same(tmp_path: Path, start: Start) -> None:
    processes = [start(work, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(300)
    assert [p.exitcode for p in processes] == [0, 0], (tmp_path / "output").read_text()
    module = tiny_module(tmp_path / "alone", dtype=torch.float64, initializer_range=0.05)
    shares, scores = zip(
        *(torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)),
        strict=True,
    )
    assert not set(shares[0]) & set(shares[1])
    assert shares[0] | shares[1] == sampled(module, attempts=5, max_new_tokens=20)
    alone = score_candidates(module, prompts(), candidates(), 32)
    assert torch.equal(scores[0].sum, scores[1].sum)
    for found in scores:
        torch.testing.assert_close(found.sum, alone.sum, rtol=1e-9, atol=1e-9)
        assert torch.equal(found.length, alone.length) and torch.equal(found.mask, alone.mask)
