"""The batch plan; numbers do not depend on micro-batches and processes."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import naive_log_probs, random_examples, tiny_module
from torch import Tensor

from lightning_unlearn import GA, NPO, CausalLM, SimNPO, Unlearning
from lightning_unlearn.data.batches import (
    Batch,
    BatchPlan,
    GlobalBatch,
    collate,
    derive_seed,
    micro_batch,
)
from lightning_unlearn.data.examples import Example
from lightning_unlearn.data.recipes import Recipe
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.objective import share_of_mean, supervised
from lightning_unlearn.objectives import gradient_ascent, nll, npo, simnpo

law = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a number of rows, a global batch, a micro-batch size and a number of processes."""
    world, micro = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return {
        "count": draw(st.integers(1, 40)),
        "world": world,
        "micro": micro,
        "batch_size": world * micro * draw(st.integers(1, 3)),
        "epochs": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**31)),
    }


def plan(
    examples: list[Example], recipe: Recipe, seed: int = 0, stage: str = "tofu", **cut: Any
) -> BatchPlan:
    return BatchPlan(examples, recipe, seed, stage, pad_id=2, **cut)


def rows_of(batch: Batch) -> list[int]:
    return [int(i) for i, w in zip(batch.index, batch.weight, strict=True) if w]


def rows_of_step(shares: list[GlobalBatch]) -> list[int]:
    return [i for share in shares for micro in share.micro_batches for i in rows_of(micro)]


@law
@given(cuts())
def test_the_rows_of_a_step_do_not_depend_on_micro_batches_and_processes(
    cut: dict[str, Any],
) -> None:
    examples = random_examples(cut["count"], seed=cut["seed"])
    recipe = Recipe(batch_size=cut["batch_size"], epochs=cut["epochs"])
    whole = plan(examples, recipe, cut["seed"])
    ranks = [
        plan(
            examples,
            recipe,
            cut["seed"],
            micro_batch_size=cut["micro"],
            rank=rank,
            world_size=cut["world"],
        )
        for rank in range(cut["world"])
    ]
    per_epoch = -(-cut["count"] // cut["batch_size"])
    assert len(whole) == cut["epochs"] * per_epoch
    for rank in ranks:
        assert rank.steps == whole.steps
    for epoch in range(cut["epochs"]):
        seen = [i for step in whole.steps[epoch * per_epoch :][:per_epoch] for i in step]
        assert sorted(seen) == list(range(cut["count"])), "each example once per epoch"
    for step, rows in enumerate(whole.steps):
        last = step % per_epoch == per_epoch - 1
        left_over = cut["count"] - (per_epoch - 1) * cut["batch_size"]
        assert len(rows) == (left_over if last else cut["batch_size"])
        shares = [rank[step] for rank in ranks]
        assert sorted(rows_of_step(shares)) == sorted(rows), "the ranks together are the batch"
        assert len({len(share.micro_batches) for share in shares}) == 1, (
            "all ranks exchange equally often"
        )
        for share in shares:
            assert share.sequences == len(rows)
            assert share.tokens == sum(len(examples[i].answer) for i in rows)
            for micro in share.micro_batches:
                assert 1 <= len(micro.index) <= cut["micro"]
                assert set(micro.weight.tolist()) in ({0.0}, {1.0})
        real = sum(int(micro.weight.sum()) for share in shares for micro in share.micro_batches)
        assert real == len(rows), "fillers weigh nothing"


@law
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
def test_steps_may_end_inside_an_epoch(count: int, size: int, steps: int, seed: int) -> None:
    examples = random_examples(count)
    per_epoch = -(-count // size)
    stepped = plan(examples, Recipe(batch_size=size, steps=steps, epochs=99), seed)
    epochs = plan(examples, Recipe(batch_size=size, epochs=-(-steps // per_epoch)), seed)
    assert len(stepped) == steps
    assert stepped.steps == epochs.steps[:steps]


@law
@given(st.integers(2, 50), st.integers(0, 2**40), st.text("abz_", min_size=1, max_size=6))
def test_the_order_is_a_function_of_seed_stage_and_epoch(count: int, seed: int, stage: str) -> None:
    torch.manual_seed(count)
    examples = random_examples(count)
    steps = plan(examples, Recipe(batch_size=1, epochs=3), seed, stage).steps
    expected = []
    for epoch in range(3):
        generator = torch.Generator().manual_seed(derive_seed(seed, stage, epoch))
        expected += [[i] for i in torch.randperm(count, generator=generator).tolist()]
    torch.manual_seed(count + 1)
    # The global generator, the content of the rows and the batch size have no effect.
    others = random_examples(count, seed=1)
    again = plan(others, Recipe(batch_size=count, epochs=3), seed, stage).steps
    assert steps == expected
    assert [i for step in again for i in step] == [i for (i,) in expected]


def test_seed_stage_and_epoch_each_change_the_order() -> None:
    examples = random_examples(30)
    recipe = Recipe(batch_size=30, epochs=2)
    orders = [
        tuple(order)
        for seed, stage in ((0, "tofu"), (1, "tofu"), (0, "math"))
        for order in plan(examples, recipe, seed, stage).steps
    ]
    assert len(set(orders)) == 6


def test_derived_seeds_are_pinned_and_differ() -> None:
    assert derive_seed(0, "tofu", 0) == 454_339_465_667_052_311
    seeds = {derive_seed(s, n, e) for s in range(5) for n in ("a", "b") for e in range(5)}
    assert len(seeds) == 50 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_rows_of_a_step_are_grouped_by_length() -> None:
    examples = random_examples(64)
    step = plan(examples, Recipe(batch_size=64), micro_batch_size=8)[0]
    lengths = [len(examples[i]) for micro in step.micro_batches for i in rows_of(micro)]
    assert lengths == sorted(lengths)


def test_collate_places_tokens_labels_and_padding() -> None:
    examples = [Example((10, 11, 12), (13,)), Example((20,), (21, 22)), Example((9,), (9,))]
    batch = collate(examples, [1, 0], pad_id=7)
    assert batch.input_ids.tolist() == [[20, 21, 22, 7], [10, 11, 12, 13]]
    assert batch.label_positions.tolist() == [0, 1, 6]
    assert batch.label_ids.tolist() == [21, 22, 13]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.index.tolist() == [1, 0]
    assert batch.weight.tolist() == [1, 1]
    assert collate(examples, [2], pad_id=7, filler=True).weight.tolist() == [0]


def test_the_loader_yields_every_step_in_order() -> None:
    steps = plan(random_examples(10), Recipe(batch_size=4, epochs=2))
    loaded = [sorted(rows_of_step([batch])) for batch in steps.loader()]
    assert loaded == [sorted(rows) for rows in steps.steps]
    assert len(loaded) == 6


@pytest.mark.parametrize(
    ("batch_size", "world", "expected"),
    [
        (128, 1, 8),
        (128, 4, 8),
        (12, 1, 6),
        (12, 2, 6),
        (12, 4, 3),
        (7, 1, 7),
        (11, 1, 1),
        (1, 1, 1),
    ],
)
def test_the_micro_batch_is_the_largest_divisor_up_to_8(
    batch_size: int, world: int, expected: int
) -> None:
    assert micro_batch(batch_size, None, world, "data.unlearn") == expected


@pytest.mark.parametrize(
    ("batch_size", "asked", "world", "message"),
    [
        (
            10,
            4,
            1,
            "data.unlearn.batch_size: found 10, which is not divisible by 1 process(es) x "
            "data.micro_batch_size 4 = 4. Choose a multiple of 4, such as 8 or 12, or another "
            "micro-batch size.",
        ),
        (
            10,
            None,
            4,
            "data.unlearn.batch_size: found 10, which is not divisible by 4 process(es) = 4. "
            "Choose a multiple of 4, such as 8 or 12, or another micro-batch size.",
        ),
        (
            4,
            2,
            3,
            "data.unlearn.batch_size: found 4, which is not divisible by 3 process(es) x "
            "data.micro_batch_size 2 = 6. Choose a multiple of 6, such as 6, or another "
            "micro-batch size.",
        ),
        (8, 0, 1, "data.micro_batch_size: found 0, expected at least 1, or null."),
        (8, -2, 1, "data.micro_batch_size: found -2, expected at least 1, or null."),
    ],
)
def test_global_batches_that_are_not_divisible(
    batch_size: int, asked: int | None, world: int, message: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        micro_batch(batch_size, asked, world, "data.unlearn")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        plan(
            random_examples(3),
            Recipe(batch_size=batch_size),
            micro_batch_size=asked,
            world_size=world,
            key="data.unlearn",
        )


# A full global batch of 24, and 5 remaining rows: fewer than processes.
EXAMPLES = random_examples(29, seed=5)
RECIPE = Recipe(batch_size=24)
METHODS: dict[str, Unlearning | None] = {
    "nll": None,
    "GA": GA(),
    "NPO": NPO(),
    "SimNPO": SimNPO(beta=1, gamma=5),
    "SimNPO-unnormalized": SimNPO(beta=0.05, normalize=False),
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    # In fp32, sums in another order differ, depending on the processor.
    folder = tmp_path_factory.mktemp("tiny")
    return tiny_module(folder, dtype=torch.float64, initializer_range=0.1)


@pytest.fixture
def references(module: CausalLM) -> Tensor:
    """Log-probabilities of another model than the current one, so that NPO is not at its start."""
    score = module.evaluator.score(EXAMPLES, 8).per_token
    return score * torch.linspace(0.7, 1.3, len(EXAMPLES))[:, None]


def swap_objective(module: CausalLM, name: str, references: Tensor) -> None:
    method = METHODS[name]
    module.objective, module.stage = supervised, "unlearn"
    if method is not None:
        data = plan(EXAMPLES, RECIPE, micro_batch_size=8)
        trainer = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=data))
        method.on_train_start(trainer, module)  # type: ignore[arg-type]
        if method._reference is not None:
            method._reference.per_token.copy_(references)


def optimizer_step(module: CausalLM, step: int, micro: int, world: int) -> tuple[Tensor, Tensor]:
    """Compute loss and gradient of one step, simulating its processes one after the other."""
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for rank in range(world):
        share = plan(EXAMPLES, RECIPE, micro_batch_size=micro, rank=rank, world_size=world)[step]
        for batch in share.micro_batches:
            loss = share_of_mean(module.objective(module.network, batch), batch, share)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
    return total, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", [0, 1], ids=["full-batch", "left-overs"])
def test_loss_and_gradient_do_not_depend_on_micro_batches_and_processes(
    module: CausalLM, references: Tensor, name: str, step: int
) -> None:
    swap_objective(module, name, references)
    loss, gradient = optimizer_step(module, step, micro=24, world=1)
    assert gradient.norm() > 0
    for micro, world in [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 3), (8, 3), (1, 3)]:
        other_loss, other_gradient = optimizer_step(module, step, micro, world)
        assert other_loss.item() == pytest.approx(loss.item(), rel=1e-12), (micro, world)
        assert (other_gradient - gradient).norm() <= 1e-12 * gradient.norm(), (micro, world)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("step", [0, 1], ids=["full-batch", "left-overs"])
def test_the_loss_of_a_step_is_the_mean_over_its_own_counts(
    module: CausalLM, references: Tensor, name: str, step: int
) -> None:
    swap_objective(module, name, references)
    loss, gradient = optimizer_step(module, step, micro=8, world=1)
    rows = plan(EXAMPLES, RECIPE).steps[step]
    policy = [
        naive_log_probs(module.network.hf_model, EXAMPLES[i].prompt, EXAMPLES[i].answer)
        for i in rows
    ]
    sums = torch.stack([values.sum() for values in policy])
    sizes = torch.tensor([len(values) for values in policy])
    naive = {
        "nll": lambda: nll(torch.cat(policy)).mean(),
        "GA": lambda: gradient_ascent(torch.cat(policy)).mean(),
        "NPO": lambda: npo(sums, references.sum(-1)[rows], 0.5).mean(),
        "SimNPO": lambda: simnpo(sums, sizes, 1.0, 5.0).mean(),
        "SimNPO-unnormalized": lambda: simnpo(sums, sizes, 0.05, 0.0, False).mean(),
    }[name]()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-12)
    module.zero_grad()
    naive.backward()  # type: ignore[no-untyped-call]
    twin = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert (gradient - twin).norm() <= 1e-12 * twin.norm()


def test_an_objective_that_reduces_is_refused(module: CausalLM) -> None:
    share = plan(EXAMPLES, RECIPE, micro_batch_size=4)[0]
    micro = share.micro_batches[0]
    shape = tuple(micro.mask.shape)
    with pytest.raises(
        InputError,
        match=re.escape(
            "the objective returned a tensor of shape (), expected one value per label token "
            f"{shape} or per sequence (4,), not reduced"
        ),
    ):
        share_of_mean(torch.zeros(()), micro, share)
