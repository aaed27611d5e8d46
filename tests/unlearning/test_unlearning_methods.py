"""Unlearning methods: the interface of a new one, the reference, warnings."""

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import random_examples, tiny_module
from torch import Tensor

from lightning_unlearn import GA, NPO, CausalLM, SimNPO, Unlearning
from lightning_unlearn.data.batches import Batch, BatchPlan, collate
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.causal_lm import supervised
from lightning_unlearn.model.log_probs import LogProbs
from lightning_unlearn.objectives import npo

EXAMPLES = random_examples(11, seed=1)


@pytest.fixture
def module(tmp_path: Path) -> CausalLM:
    module = tiny_module(tmp_path, dtype=torch.float64, initializer_range=0.1)
    module.stage = "unlearn"
    return module


def begin(method: Unlearning, module: CausalLM, **recipe: Any) -> BatchPlan:
    """Start the unlearning stage as Lightning does; return its steps."""
    plan = BatchPlan(EXAMPLES, Recipe(**recipe), 0, "unlearn", pad_id=2)
    trainer = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=plan))
    method.on_train_start(trainer, module)  # type: ignore[arg-type]
    return plan


def end(method: Unlearning, module: CausalLM) -> None:
    method.on_train_end(SimpleNamespace(), module)  # type: ignore[arg-type]


def unlearn(method: Unlearning, module: CausalLM, lr: float = 0.01, **recipe: Any) -> list[float]:
    """Run plain SGD on the method's objective; return the losses."""
    losses = []
    optimizer = torch.optim.SGD(module.parameters(), lr)
    for share in begin(method, module, **recipe).loader():
        total = 0.0
        for micro in share.micro:
            loss = module._share(module.objective(module, micro), micro, share)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def forget_likelihood(module: CausalLM) -> float:
    return module.score(EXAMPLES, 4).sum.mean().item()


def test_a_method_without_a_loss_is_refused_at_its_definition() -> None:
    with pytest.raises(
        TypeError,
        match=r"^Empty: found an unlearning method without a loss, expected loss\(self, policy, "
        r"reference\), or objective\(self, module, batch\)\.$",
    ):

        class Empty(Unlearning):
            """Method without a loss."""


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        (lambda self, policy: policy, "self, policy"),
        (lambda self, policy, reference, beta: policy, "self, policy, reference, beta"),
        (lambda: None, ""),
    ],
)
def test_a_loss_of_another_signature_is_refused_at_its_definition(
    loss: Any, parameters: str
) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^Odd\.loss: found the parameters \({parameters}\), expected \(self, policy, "
        r"reference\)\.$",
    ):
        type("Odd", (Unlearning,), {"loss": loss})


def test_a_subclass_of_a_method_inherits_its_loss() -> None:
    class Gentle(NPO):
        """NPO with another default."""

        def __init__(self) -> None:
            super().__init__(beta=0.1)

    assert Gentle().beta == 0.1 and Gentle().name == "Gentle"


def test_a_method_of_a_few_lines_works(module: CausalLM) -> None:
    class Halfway(Unlearning):
        def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
            return (policy.sum - 2 * reference.sum).abs()

    start = forget_likelihood(module)
    losses = unlearn(Halfway(), module, epochs=3, batch_size=11)
    assert losses[0] == pytest.approx(-start, rel=1e-12)
    assert losses[-1] < losses[0] and forget_likelihood(module) < start


def test_a_method_may_override_the_objective(module: CausalLM) -> None:
    class Flatten(Unlearning):
        """Method that needs logits: it trains the last position towards a uniform distribution."""

        uses_reference = False

        def objective(self, module: CausalLM, batch: Batch) -> Tensor:
            logits: Tensor = module.lm(input_ids=batch.input_ids, use_cache=False).logits
            return -logits[:, -1].log_softmax(-1).mean(-1)

    losses = unlearn(Flatten(), module, epochs=3, batch_size=11)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "method", [GA(), NPO(), SimNPO(beta=1, gamma=5)], ids=["GA", "NPO", "SimNPO"]
)
def test_every_method_lowers_the_likelihood_of_the_forget_set(
    module: CausalLM, method: Unlearning
) -> None:
    start = forget_likelihood(module)
    losses = unlearn(method, module, epochs=3, batch_size=4)
    assert len(losses) == 9 and forget_likelihood(module) < start - 0.1
    end(method, module)
    assert module.objective is supervised


class Recorder(Unlearning):
    """Gradient ascent that records its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[LogProbs, LogProbs]] = []

    def loss(self, policy: LogProbs, reference: LogProbs) -> Tensor:
        self.seen.append((policy, reference))
        return policy.per_token


def test_the_reference_is_the_model_at_step_0_in_all_steps(module: CausalLM) -> None:
    module.train()
    start = module.score(EXAMPLES, 3)
    method = Recorder()
    plan = begin(method, module)
    assert module.training, "taking the reference leaves the mode as it was"
    unlearn(method, module, lr=0.05, epochs=2, batch_size=4)
    by_example: dict[int, Tensor] = {}
    for share in BatchPlan(EXAMPLES, Recipe(epochs=2, batch_size=4), 0, "unlearn", 2).loader():
        for micro in share.micro:
            policy, reference = method.seen.pop(0)
            assert torch.equal(reference.mask, micro.mask) and torch.equal(policy.mask, micro.mask)
            assert not reference.per_token.requires_grad and policy.per_token.requires_grad
            for row, index in enumerate(micro.index.tolist()):
                values = reference.per_token[row][reference.mask[row]]
                expected = start.per_token[index][start.mask[index]]
                torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
                again = by_example.setdefault(index, values)
                assert torch.equal(values, again), "the same numbers in every epoch"
    assert not method.seen and len(by_example) == len(EXAMPLES) == len(plan.examples)
    assert (module.score(EXAMPLES, 3).sum - start.sum).abs().max() > 0.1
    end(method, module)
    assert method._reference is None


def test_npo_starts_at_two_over_beta_log_2(module: CausalLM) -> None:
    (loss,) = unlearn(NPO(beta=0.5), module, batch_size=11)
    assert loss == pytest.approx(4 * math.log(2), rel=1e-12)


def test_npo_sums_over_label_tokens_only(module: CausalLM) -> None:
    method = NPO(beta=0.3)
    begin(method, module)
    batch = collate(EXAMPLES, [3, 0, 7], pad_id=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
        before = method._reference
        assert before is not None
        found = method.objective(module, batch)
        policy = module.score(EXAMPLES, 1)
    expected = npo(policy.sum, before.sum, 0.3)[[3, 0, 7]]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_method_without_reference_costs_no_pass_over_the_forget_set(
    module: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(*_: object) -> LogProbs:
        raise AssertionError("not needed")

    monkeypatch.setattr(module, "score", score)
    for method in (GA(), SimNPO(beta=1, gamma=5)):
        losses = unlearn(method, module, batch_size=11)
        assert len(losses) == 1
    with pytest.raises(AssertionError, match="not needed"):
        begin(NPO(), module)


def test_training_stages_keep_the_supervised_objective(module: CausalLM) -> None:
    module.stage = "tofu"
    method = NPO()
    begin(method, module)
    assert module.objective is supervised and method._reference is None


def log_probs(*sums: float, tokens: int = 10) -> LogProbs:
    table = torch.tensor(sums)[:, None].expand(-1, tokens) / tokens
    return LogProbs(table, torch.ones_like(table, dtype=torch.bool))


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        (
            SimNPO(beta=1, normalize=False),
            "Answers are too long for the form without normalization: set",
        ),
        (SimNPO(), "To continue unlearning, lower beta or increase gamma"),
    ],
    ids=["unnormalized", "normalized"],
)
def test_a_vanished_gradient_is_reported_once(method: SimNPO, advice: str) -> None:
    values = log_probs(-50.0, -60.0) if not method.normalize else log_probs(-500.0, -600.0)
    with pytest.warns(UserWarning, match=rf"^SimNPO's gradient has vanished.*{advice}") as caught:
        method.loss(values, values)
        method.loss(values, values)
    assert len(caught) == 1
    assert "of gradient ascent's in a micro-batch" in str(caught[0].message)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (SimNPO(beta=1, normalize=False), log_probs(-50.0, -10.0)),
        (SimNPO(), log_probs(-20.0, -9.0)),
        (SimNPO(beta=1, gamma=50, normalize=False), log_probs(-50.0, -50.0)),
    ],
)
def test_no_warning_while_one_answer_has_a_gradient(method: SimNPO, values: LogProbs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.loss(values, values)


@pytest.mark.parametrize("beta", [0, -1.5])
def test_betas_must_be_positive(beta: float) -> None:
    for method in (NPO, SimNPO):
        name = method.__name__
        with pytest.raises(InputError, match=rf"^{name}\.beta: found {beta}, expected a positive"):
            method(beta=beta)


def test_defaults_are_those_of_the_papers() -> None:
    assert NPO().beta == 0.5
    simnpo = SimNPO()
    assert (simnpo.beta, simnpo.gamma, simnpo.normalize) == (4.5, 0.0, True)
    assert [m.uses_reference for m in (GA, NPO, SimNPO)] == [False, True, False]


def test_names() -> None:
    method = NPO()
    assert method.name == "NPO"
    method.name = "NPO-0.1"
    assert method.name == "NPO-0.1" and NPO().name == "NPO"
