"""The forward in chunks against a full log-softmax of the model's logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import naive_log_probs, random_examples, tiny_lm, tiny_module
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_unlearn.data.batches import Batch, collate
from lightning_unlearn.model import log_probs
from lightning_unlearn.model.log_probs import LogitTransform, LogProbs, token_log_probs
from lightning_unlearn.model.network import LogProbModel

# The smallest chunk there is, in rows: with it a few sequences make several chunks.
SMALLEST_CHUNK = 16
FAMILIES = ["llama", "qwen2", "gemma2", "granite", "cohere"]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "CHUNK_ELEMENTS", 1)


def a_batch(count: int = 10, seed: int = 0, pad_id: int = 2) -> Batch:
    """Return a batch whose label tokens fill several of the smallest chunks and part of another."""
    batch = collate(random_examples(count, seed), range(count), pad_id)
    tokens = len(batch.target)
    assert tokens > 2 * SMALLEST_CHUNK and tokens % SMALLEST_CHUNK
    return batch


def naive(lm: Any, count: int = 10, seed: int = 0) -> Tensor:
    parts = [naive_log_probs(lm, e.prompt, e.answer) for e in random_examples(count, seed)]
    return torch.cat(parts)


def trained(lm: nn.Module, head: bool) -> dict[str, nn.Parameter]:
    """Make all parameters trainable, or all but the output projection."""
    lm.requires_grad_(True)
    if not head:
        lm.get_output_embeddings().requires_grad_(False)  # type: ignore[operator]
    return {name: p for name, p in lm.named_parameters() if p.requires_grad}


def gradients(flat: Tensor, parameters: Sequence[Tensor], seed: int = 3) -> list[Tensor]:
    """Compute gradients of a random combination, which depends on the gradient of every token."""
    factors = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)) - 0.3
    return list(torch.autograd.grad((flat * factors).sum(), parameters))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Compare relative to the size of the full tensor: fp32 results depend on the processor."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}[ours.dtype]
    assert (ours - theirs).norm() <= tolerance * theirs.norm(), (ours - theirs).abs().max()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("head", [False, True], ids=["frozen-head", "trained-head"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("small_chunks")
def test_values_and_gradients_equal_a_full_log_softmax(family: str, head: bool, tied: bool) -> None:
    compare_with_a_full_log_softmax(family, head, tied, torch.float64)


@pytest.mark.usefixtures("small_chunks")
def test_values_and_gradients_in_fp32() -> None:
    compare_with_a_full_log_softmax("gemma2", True, True, torch.float32)


def compare_with_a_full_log_softmax(
    family: str, head: bool, tied: bool, dtype: torch.dtype
) -> None:
    lm = tiny_lm(family, tie_word_embeddings=tied, dtype=dtype)
    parameters = trained(lm, head)
    # Tied embeddings are one tensor: to freeze the head is to freeze both.
    assert any("embed" in name for name in parameters) is (head or not tied)
    ours = LogProbModel(lm)(*(getattr(a_batch(), n) for n in ("input_ids", "source", "target")))
    theirs = naive(lm)
    assert ours.dtype == dtype
    assert_close(ours.detach(), theirs.detach())
    pairs = zip(
        parameters,
        gradients(ours, list(parameters.values())),
        gradients(theirs, list(parameters.values())),
        strict=True,
    )
    for name, own, full in pairs:
        assert full.norm() > 0, name
        assert_close(own, full)


@pytest.mark.parametrize(
    ("family", "plain"),
    [
        ("gemma2", {"final_logit_softcapping": None}),
        ("granite", {"logits_scaling": 1.0}),
        ("cohere", {"logit_scale": 1.0}),
    ],
)
def test_the_transforms_of_the_tests_change_the_values(family: str, plain: dict[str, Any]) -> None:
    with torch.no_grad():
        assert (naive(tiny_lm(family)) - naive(tiny_lm(family, **plain))).abs().max() > 0.1


def test_transform_is_read_from_the_configuration() -> None:
    def of(family: str, **values: Any) -> LogitTransform:
        return LogitTransform.of(tiny_lm(family, **values).config)

    assert of("llama") == of("qwen2") == LogitTransform(1.0, None)
    assert of("gemma2", final_logit_softcapping=30.0) == LogitTransform(1.0, 30.0)
    assert of("granite", logits_scaling=8.0) == LogitTransform(1 / 8, None)
    assert of("cohere", logit_scale=0.0625) == LogitTransform(0.0625, None)


class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the largest tensor, except weights, with an axis as long as the vocabulary."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary, self.width, self.largest = vocabulary, width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(value, Tensor) and self.vocabulary in value.shape:
                other = value.numel() // self.vocabulary
                if self.width not in value.shape:
                    self.largest = max(self.largest, other)
        return result


@pytest.mark.parametrize("head", [False, True], ids=["frozen-head", "trained-head"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.usefixtures("small_chunks")
def test_at_most_one_chunk_of_logits_exists(family: str, head: bool) -> None:
    lm, batch = tiny_lm(family), a_batch()
    parameters = list(trained(lm, head).values())
    with Sizes(vocabulary=320, width=32) as sizes:
        flat = LogProbModel(lm)(batch.input_ids, batch.source, batch.target)
        gradients(flat, parameters)
    assert sizes.largest == SMALLEST_CHUNK
    with Sizes(vocabulary=320, width=32) as sizes:
        naive(lm)
    assert sizes.largest > 0, "the counter sees logits"


@contextmanager
def counted_projections(head: nn.Module) -> Iterator[list[int]]:
    rows: list[int] = []
    handle = head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[0]))
    yield rows
    handle.remove()


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 32, 33, 50])
@pytest.mark.parametrize("head", [False, True], ids=["frozen-head", "trained-head"])
@pytest.mark.usefixtures("small_chunks")
def test_chunk_boundaries(tokens: int, head: bool) -> None:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 8, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randint(0, 23, (tokens,), generator=generator)
    projection = nn.Linear(8, 23, bias=True).double().requires_grad_(head)
    with counted_projections(projection) as rows:
        ours = token_log_probs(hidden, target, projection, LogitTransform())
    assert not rows or rows == [*[16] * (tokens // 16), *[tokens % 16] * bool(tokens % 16)]
    table = torch.log_softmax(projection(hidden), dim=-1)
    theirs = table[torch.arange(tokens), target]
    assert_close(ours.detach(), theirs.detach())
    wanted = [hidden, *(p for p in projection.parameters() if p.requires_grad)]
    for own, full in zip(gradients(ours, wanted), gradients(theirs, wanted), strict=True):
        assert_close(own, full)


def test_chunks_are_as_large_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "CHUNK_ELEMENTS", 23 * 20 + 22)
    projection = nn.Linear(8, 23)
    with counted_projections(projection) as rows, torch.no_grad():
        token_log_probs(
            torch.randn(50, 8), torch.zeros(50, dtype=torch.long), projection, LogitTransform()
        )
    assert rows == [20, 20, 10]


@pytest.mark.parametrize(
    "transform",
    [
        LogitTransform(),
        LogitTransform(scale=0.3),
        LogitTransform(softcap=1.5),
        LogitTransform(scale=2.0, softcap=1.5),
    ],
    ids=["plain", "scaled", "truncated", "scaled-and-capped"],
)
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_frozen_head_gradient_agrees_with_finite_differences(
    transform: LogitTransform, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randint(0, 11, (5,), generator=generator)
    projection = nn.Linear(6, 11, bias=bias).double().requires_grad_(False)

    def function(states: Tensor) -> Tensor:
        return token_log_probs(states, target, projection, transform)

    assert torch.autograd.gradcheck(
        function, hidden, eps=1e-6, atol=1e-8, rtol=1e-6, nondet_tol=0.0
    )


@pytest.mark.parametrize("head", [False, True], ids=["frozen-head", "trained-head"])
def test_without_label_tokens_the_result_is_empty(head: bool) -> None:
    lm = tiny_lm()
    trained(lm, head)
    none = torch.zeros(0, dtype=torch.long)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            flat = LogProbModel(lm)(torch.zeros(2, 5, dtype=torch.long), none, none)
        assert flat.shape == (0,) and flat.dtype == torch.float32


def test_no_gradient_is_computed_without_need() -> None:
    lm, batch = tiny_lm(dtype=torch.float64), a_batch()
    trained(lm, head=False)
    with torch.no_grad():
        measured = LogProbModel(lm)(batch.input_ids, batch.source, batch.target)
    assert measured.grad_fn is None
    assert_close(measured, naive(lm).detach())


@pytest.mark.parametrize("head", [False, True], ids=["frozen-head", "trained-head"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bfloat16_runs_and_is_near_fp32(family: str, head: bool) -> None:
    batch, exact = a_batch(), tiny_lm(family, initializer_range=0.05)
    half = tiny_lm(family, initializer_range=0.05).to(torch.bfloat16)
    parameters = trained(half, head)
    flat = LogProbModel(half)(batch.input_ids, batch.source, batch.target)
    assert flat.dtype == torch.float32
    assert (flat - naive(exact)).abs().max() < 0.1
    for name, slope in zip(parameters, gradients(flat, list(parameters.values())), strict=True):
        assert slope.dtype == torch.bfloat16 and slope.isfinite().all(), name


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gradient_checkpointing_changes_nothing_with_frozen_embeddings(
    family: str, tmp_path: Path
) -> None:
    batch, found = a_batch(), []
    for checkpointing in (False, True):
        module = tiny_module(tmp_path, family, gradient_checkpointing=checkpointing).train()
        layers = module.lm.get_decoder().layers
        assert [layer.gradient_checkpointing for layer in layers] == [checkpointing] * 2
        module.lm.get_input_embeddings().requires_grad_(False)
        module.lm.get_output_embeddings().requires_grad_(False)
        parameters = [p for p in module.parameters() if p.requires_grad]
        flat = module.net(batch.input_ids, batch.source, batch.target)  # type: ignore[misc]
        found.append((flat, gradients(flat, parameters)))
    (plain, plain_slopes), (saved, saved_slopes) = found
    assert torch.equal(plain, saved)
    for own, full in zip(saved_slopes, plain_slopes, strict=True):
        assert full.norm() > 0
        assert torch.equal(own, full)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_padding_has_no_effect(family: str) -> None:
    lm = tiny_lm(family)
    with torch.no_grad():
        values = [
            LogProbModel(lm)(batch.input_ids, batch.source, batch.target)
            for batch in (a_batch(pad_id=2), a_batch(pad_id=99))
        ]
    assert torch.equal(*values)


def test_log_probs_sum_mean_and_length() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    table = torch.tensor([[-1.0, -2.0, -4.5], [-3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    values = LogProbs(table, mask)
    assert values.sum.tolist() == [-7.5, -3.0, 0.0]
    assert values.length.tolist() == [3, 1, 0]
    assert values.mean.tolist() == [-2.5, -3.0, 0.0]


def test_scatter_lays_rows_out_in_order_and_passes_gradients() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    flat = -torch.arange(1.0, 7.0).requires_grad_()
    table = LogProbs.scatter(flat, mask)
    assert table.per_token.tolist() == [[-1, -2, 0], [-3, 0, 0], [-4, -5, -6]]
    assert torch.equal(table.mask, mask)
    factors = torch.arange(9.0).reshape(3, 3)
    (slope,) = torch.autograd.grad((table.per_token * factors).sum(), flat)
    assert slope.tolist() == [0, 1, 3, 6, 7, 8]
