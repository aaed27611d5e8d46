"""Objectives: closed forms, gradients, limits."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_unlearn.objectives import gradient_ascent, nll, npo, simnpo, simnpo_weights

FORMS = [  # beta, gamma, normalize
    pytest.param(4.5, 0.0, True, id="original"),
    pytest.param(2.5, 0.5, True, id="margin"),
    pytest.param(1.0, 0.0, False, id="unnormalized"),
    pytest.param(0.5, 3.0, False, id="unnormalized-margin"),
]


def log_one_plus_exp(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def of(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def grid(count: int, low: float, high: float, seed: int) -> Tensor:
    """Return random multiples of 1/64: their differences are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(int(64 * low), int(64 * high), (count,), generator=generator).double() / 64


def logps(count: int = 200, seed: int = 0, low: float = -60.0) -> Tensor:
    return grid(count, low, 0.0, seed)


def lengths(count: int = 200) -> Tensor:
    return torch.randint(1, 40, (count,), generator=torch.Generator().manual_seed(2))


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(at).sum(), at)
    return slope


def test_nll_and_gradient_ascent_are_the_log_probability_up_to_sign() -> None:
    values = logps().reshape(20, 10)
    torch.testing.assert_close(nll(values), -values, rtol=0, atol=0)
    torch.testing.assert_close(gradient_ascent(values), values, rtol=0, atol=0)
    assert torch.equal(gradient(nll, values), -torch.ones_like(values))
    assert torch.equal(gradient(gradient_ascent, values), torch.ones_like(values))


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 4.0])
def test_npo_equals_its_closed_form(beta: float) -> None:
    policy, reference = logps(seed=0), logps(seed=1)
    # (2 / beta) log(1 + (pi / pi_ref)^beta)
    naive = [
        2 / beta * log_one_plus_exp(beta * (p - r))
        for p, r in zip(policy.tolist(), reference.tolist(), strict=True)
    ]
    ours = npo(policy, reference, beta)
    assert ours.shape == policy.shape
    torch.testing.assert_close(ours, of(naive), rtol=1e-12, atol=1e-12)


def test_npo_defaults_to_the_beta_of_the_literature() -> None:
    policy, reference = logps(seed=0), logps(seed=1)
    assert torch.equal(npo(policy, reference), npo(policy, reference, 0.5))


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_npo_at_the_reference(beta: float) -> None:
    policy = logps()
    at_start = torch.full_like(policy, 2 / beta * math.log(2))
    torch.testing.assert_close(npo(policy, policy, beta), at_start, rtol=1e-12, atol=0)
    slope = gradient(lambda p: npo(p, policy, beta), policy)
    torch.testing.assert_close(slope, torch.ones_like(policy), rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_npo_gradient_is_the_documented_factor(beta: float) -> None:
    policy, reference = logps(seed=0, low=-20).double(), logps(seed=1, low=-20).double()
    pi, pi_ref = policy.exp() ** beta, reference.exp() ** beta
    slope = gradient(lambda p: npo(p, reference, beta), policy)
    torch.testing.assert_close(slope, 2 * pi / (pi + pi_ref), rtol=1e-10, atol=0)


def test_npo_becomes_gradient_ascent_as_beta_vanishes() -> None:
    policy, reference = logps(seed=0).double(), logps(seed=1).double()
    ascent = gradient(gradient_ascent, policy)
    gaps = [
        (gradient(partial(npo, reference_logps=reference, beta=beta), policy) - ascent).abs().max()
        for beta in (1e-2, 1e-4, 1e-6)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-4


@pytest.mark.parametrize(("beta", "gamma", "normalize"), FORMS)
def test_simnpo_equals_its_closed_form(beta: float, gamma: float, normalize: bool) -> None:
    policy, size = logps(low=-60 if normalize else -8), lengths()
    naive_values, naive_weights = [], []
    for logp, length in zip(policy.tolist(), size.tolist(), strict=True):
        answer_nll = -logp / length if normalize else -logp
        naive_values.append(2 / beta * log_one_plus_exp(-beta * (answer_nll - gamma)))
        naive_weights.append(2 * sigmoid(-beta * (answer_nll - gamma)))
    form = (beta, gamma, normalize)
    values, weights = simnpo(policy, size, *form), simnpo_weights(policy, size, *form)
    torch.testing.assert_close(values, of(naive_values), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights, of(naive_weights), rtol=1e-12, atol=1e-12)


def test_simnpo_defaults_to_the_original_form() -> None:
    policy, size = logps(), lengths()
    assert torch.equal(simnpo(policy, size), simnpo(policy, size, 4.5, 0.0, True))
    assert torch.equal(simnpo_weights(policy, size), simnpo_weights(policy, size, 4.5, 0.0, True))


@pytest.mark.parametrize(("beta", "gamma", "normalize"), FORMS)
def test_simnpo_weights_are_the_gradient_relative_to_gradient_ascent(
    beta: float, gamma: float, normalize: bool
) -> None:
    policy, size = logps(low=-20).double(), lengths()
    form = (beta, gamma, normalize)
    slope = gradient(lambda p: simnpo(p, size, *form), policy)
    ascent = gradient(lambda p: p / size if normalize else p, policy)
    torch.testing.assert_close(
        slope / ascent, simnpo_weights(policy, size, *form), rtol=1e-10, atol=0
    )


def test_unnormalized_simnpo_saturates_on_long_answers() -> None:
    weight = simnpo_weights(of([-50.0]), torch.tensor([10]), 1.0, 0.0, False).item()
    assert weight == pytest.approx(2 * math.exp(-50), rel=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(nll, id="nll"),
        pytest.param(gradient_ascent, id="gradient_ascent"),
        pytest.param(lambda p: npo(p, logps(12, 1, -8).double(), 0.5), id="npo"),
        *(
            pytest.param(
                lambda p, form=form.values: simnpo(p, lengths(12), *form), id=f"simnpo-{form.id}"
            )
            for form in FORMS
        ),
    ],
)
def test_gradients_agree_with_finite_differences(function: Callable[[Tensor], Tensor]) -> None:
    policy = logps(12, low=-8).double().requires_grad_()
    assert torch.autograd.gradcheck(function, policy, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_extreme_log_probabilities_stay_finite(dtype: torch.dtype, size: int) -> None:
    ends = torch.tensor([0.0, -1e-30, -1.0, -1e2, -1e4, -1e8], dtype=dtype)
    policy = ends.repeat_interleave(len(ends))
    reference, length = ends.repeat(len(ends)), torch.full((36,), size)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda p: npo(p, reference),
        *(lambda p, form=form.values: simnpo(p, length, *form) for form in FORMS),
    ]
    for function in functions:
        value, slope = function(policy), gradient(function, policy)
        assert value.dtype == dtype
        assert value.isfinite().all() and (value >= 0).all()
        assert slope.isfinite().all() and (slope >= 0).all()


def test_objectives_do_not_reduce() -> None:
    policy, reference = logps(7), logps(7, seed=1)
    assert npo(policy, reference).shape == (7,)
    assert simnpo(policy, lengths(7)).shape == (7,)
    assert simnpo_weights(policy, lengths(7)).shape == (7,)
    assert nll(policy[None]).shape == gradient_ascent(policy[None]).shape == (1, 7)
