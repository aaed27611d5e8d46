"""The torchmetrics classes: order, repeated and missing rows, and two real processes."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from random_values import random_statistics
from tiny_stages import Start
from torch import Tensor

from lightning_unlearn import metrics
from lightning_unlearn.distributed.gather import PerExampleMetric, TwoSampleMetric
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.token_statistics import TokenStatistics
from lightning_unlearn.statistics.klom import klom, noise_floor

COUNT = 7
LENGTHS = [3, 1, 8, 5, 2, 6, 4]
STATISTICS = random_statistics(LENGTHS)
RANDOM = torch.Generator().manual_seed(5)
POLICY, ORACLE = torch.randn(2, COUNT, generator=RANDOM).unbind()
WRONG = -torch.rand(COUNT, 3, generator=RANDOM)
ANSWERS = [f"the town of Port {i}" for i in range(COUNT)]
WRITTEN = [f"town Port {i % 3}" + "\n\nand more" * (i % 2) for i in range(COUNT)]
MODELS = 10
MARGINS = torch.randn(2, MODELS, 4, generator=RANDOM)

# The data of one process, and the metrics that it updates.
Give = Callable[[Any, Tensor], None]


def of_statistics(metric: PerExampleMetric, index: Tensor) -> None:
    metric.update(index, STATISTICS.rows(index))


def of_two(metric: PerExampleMetric, index: Tensor) -> None:
    metric.update(index, POLICY[index], ORACLE[index])


def of_texts(metric: PerExampleMetric, index: Tensor) -> None:
    metric.update(index, [ANSWERS[i] for i in index], [WRITTEN[i] for i in index])


PER_EXAMPLE: dict[
    str, tuple[Callable[[int | None], PerExampleMetric], Give, Callable[[], Tensor]]
] = {
    "probability": (
        metrics.Probability,
        of_statistics,
        lambda: metrics.probability(STATISTICS),
    ),
    "exact memorization": (
        metrics.ExactMemorization,
        of_statistics,
        lambda: metrics.exact_memorization(STATISTICS),
    ),
    "extraction strength": (
        metrics.ExtractionStrength,
        of_statistics,
        lambda: metrics.extraction_strength(STATISTICS),
    ),
    "margin": (metrics.Margin, of_statistics, lambda: metrics.margin(STATISTICS)),
    "min-k": (
        lambda count: metrics.MinK(count, share=0.5),
        of_statistics,
        lambda: metrics.min_k(STATISTICS, 0.5),
    ),
    "min-k++": (
        metrics.MinKPlusPlus,
        of_statistics,
        lambda: metrics.min_k_plus_plus(STATISTICS),
    ),
    "KL": (metrics.KLToOracle, of_statistics, lambda: metrics.kl_to_oracle(STATISTICS)),
    "RE distance": (metrics.REDistance, of_two, lambda: metrics.re_distance(POLICY, ORACLE)),
    "overshoot": (metrics.Overshoot, of_two, lambda: metrics.overshoot(POLICY, ORACLE)),
    "truth ratio": (
        lambda count: metrics.TruthRatio(count, variant="geometric"),
        lambda metric, index: metric.update(index, WRONG[index], paraphrase=POLICY[index]),
        lambda: metrics.truth_ratio(WRONG, POLICY, variant="geometric"),
    ),
    "choice": (
        metrics.ChoiceProbability,
        lambda metric, index: metric.update(index, POLICY[index], WRONG[index]),
        lambda: metrics.choice_probability(POLICY, WRONG),
    ),
    "ROUGE": (
        lambda count: metrics.RougeL(count, score="f1"),
        of_texts,
        lambda: metrics.rouge_l(ANSWERS, WRITTEN).f1,
    ),
    "verbatim": (
        metrics.VerbatimMemorization,
        of_texts,
        lambda: metrics.verbatim_memorization(ANSWERS, WRITTEN),
    ),
    "knowledge": (
        metrics.KnowledgeMemorization,
        of_texts,
        lambda: metrics.knowledge_memorization(ANSWERS, WRITTEN),
    ),
}


def of_samples(metric: Any, index: Tensor) -> None:
    metric.update(index, POLICY[index], True)
    metric.update(index, ORACLE[index], torch.zeros(len(index), dtype=torch.bool))


def of_parts(metric: metrics.ModelUtility, index: Tensor) -> None:
    metric.update("probability", index, POLICY[index].abs())
    metric.update("ROUGE", index, ORACLE[index].abs())


def of_models(metric: metrics.KLoM, index: Tensor) -> None:
    """Give the first six models their own numbers, and the others the last number."""
    for i in range(MODELS):
        if i in index.tolist() or (i >= COUNT and COUNT - 1 in index.tolist()):
            metric.update(i, MARGINS[0, i], False)
            metric.update(i + 50, MARGINS[1, i], is_oracle=True)


SCALARS: dict[str, tuple[Callable[[], Any], Give, Callable[[], float]]] = {
    "AUC": (metrics.MembershipAUC, of_samples, lambda: metrics.auc(POLICY, ORACLE)),
    "forget quality": (
        lambda: metrics.ForgetQuality(counts=(COUNT, COUNT)),
        of_samples,
        lambda: metrics.forget_quality(POLICY, ORACLE),
    ),
    "utility": (
        lambda: metrics.ModelUtility(["probability", "ROUGE"]),
        of_parts,
        lambda: metrics.model_utility([POLICY.abs().mean().item(), ORACLE.abs().mean().item()]),
    ),
}


def all_of(shares: list[Tensor]) -> dict[str, Any]:
    """Return every metric, updated with some examples in these portions."""
    found: dict[str, Any] = {}
    given = {name: (make(COUNT), give) for name, (make, give, _) in PER_EXAMPLE.items()}
    given |= {name: (make(), give) for name, (make, give, _) in SCALARS.items()}
    given["KLoM"] = (metrics.KLoM(), of_models)
    for name, (metric, give) in given.items():
        for share in shares:
            give(metric, share)
        found[name] = metric.compute()
    return found


def assert_right(found: dict[str, Any]) -> None:
    for name, (_, _, expected) in PER_EXAMPLE.items():
        torch.testing.assert_close(found[name], expected(), msg=lambda m, n=name: f"{n}: {m}")
    for name, (_, _, value) in SCALARS.items():
        assert found[name].shape == () and found[name].item() == pytest.approx(value()), name
    expected_klom = klom(MARGINS[0].double(), MARGINS[1].double())
    told, floor = found["KLoM"], noise_floor(MODELS)
    np.testing.assert_array_equal(told["per_point"].numpy(), expected_klom)
    assert told["mean"] == pytest.approx(expected_klom.mean())
    assert told["percentile95"] == pytest.approx(np.percentile(expected_klom, 95))
    assert (told["unlearned"], told["oracles"]) == (MODELS, MODELS)
    assert (told["floor_mean"], told["floor_percentile95"]) == (floor.mean, floor.percentile95)


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[k], two[k]) for k in one)
    return torch.equal(one, two) if isinstance(one, Tensor) else one == two


ORDERS = {
    "at once": [[0, 1, 2, 3, 4, 5, 6]],
    "in portions": [[6, 2], [0], [5, 1, 3], [4]],
    "some twice": [[3, 1, 5, 0], [1, 2, 4, 6, 3]],
}


@pytest.mark.parametrize("order", ORDERS)
def test_results_do_not_depend_on_the_order(order: str) -> None:
    found = all_of([torch.tensor(share) for share in ORDERS[order]])
    assert_right(found)
    assert equal(found, all_of([torch.arange(COUNT)])), "to the last digit"


# Shares of a sampler that pads seven examples to equal shares: it repeats the first example.
SHARES = [[[0, 2], [4, 6]], [[5, 3], [1, 0]]]


def in_two(rank: int, root: Path) -> None:
    """Update all metrics in one of two processes, then with a process without examples."""
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=2)
    found = all_of([torch.tensor(share) for share in SHARES[rank]])
    everything = [torch.arange(COUNT)]
    found["second idle"] = all_of(everything if rank == 0 else [])["min-k"]
    errors = []
    table = PerExampleMetric(9)
    table.update(torch.tensor([rank]), torch.zeros(1))
    mixed = PerExampleMetric()
    mixed.update(torch.tensor([rank]), torch.zeros(1, 2 + rank))
    for metric in (table, PerExampleMetric(3), mixed):
        try:
            metric.compute()
        except InputError as error:
            errors.append(str(error))
    flags = PerExampleMetric()
    flags.update(torch.tensor([rank]), torch.tensor([[rank == 1, True]]))
    found["flags"] = flags.compute()
    torch.save([found, errors], root / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(start: Start, tmp_path: Path) -> None:
    children = [start(in_two, rank, tmp_path, output=f"out{rank}") for rank in (0, 1)]
    for rank, child in enumerate(children):
        child.join(300)
        assert child.exitcode == 0, (tmp_path / f"out{rank}").read_text()
    (found, errors), (other, errors_) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert equal(found, other) and errors == errors_
    assert torch.equal(found.pop("second idle"), metrics.min_k(STATISTICS, 0.5))
    assert found.pop("flags").tolist() == [[False, True], [True, True]]
    assert_right(found)
    assert equal(found, all_of([torch.arange(COUNT)])), "to the last digit"
    assert "found no values of examples 2, 3, 4, 5, 6 and 2 more" in errors[0]
    assert "PerExampleMetric: found no values" in errors[1]
    assert "found rows of [2] (torch.float32) and [3] (torch.float32)" in errors[2]


def test_per_example_metrics_count_each_example_once() -> None:
    table = PerExampleMetric()
    table.update(torch.tensor([2, 0]), torch.tensor([[20.0, 21.0], [0.0, 1.0]]))
    table.update(torch.tensor([1, 2]), torch.tensor([[10.0, 11.0], [-1.0, -1.0]]))
    assert table.compute().tolist() == [[0, 1], [10, 11], [20, 21]]
    assert table.compute() is table.compute(), "gathered once"
    table.reset()
    table.update(torch.tensor([0]), torch.tensor([4.0]))
    assert table.compute().tolist() == [4.0], "one example is a table of one"
    again = pickle.loads(pickle.dumps(table))
    assert again.compute().tolist() == [4.0]


def test_per_example_metrics_refuse_gaps() -> None:
    table = PerExampleMetric()
    table.update(torch.tensor([3, 0]), torch.zeros(2))
    with pytest.raises(
        InputError, match="no values of examples 1, 2, expected values of all 4 exam"
    ):
        table.compute()
    table = metrics.Probability(2)
    table.update(torch.tensor([0, 5]), random_statistics([2, 3]))
    with pytest.raises(
        InputError,
        match="Probability: found no values of example 1 and unexpected values of example 5",
    ):
        table.compute()
    with pytest.raises(InputError, match=r"found numbers \[2\] for values \[3\]"):
        PerExampleMetric().update(torch.tensor([0, 1]), torch.zeros(3))


def test_metrics_without_examples() -> None:
    table = PerExampleMetric(0)
    table.update(torch.empty(0, dtype=torch.long), torch.empty(0, 5))
    assert table.compute().shape == (0, 5)


def test_incomplete_samples() -> None:
    metric = metrics.MembershipAUC(counts=(2, 3))
    metric.update(torch.tensor([0, 1]), torch.ones(2), True)
    metric.update(torch.tensor([0, 1]), torch.zeros(2), False)
    with pytest.raises(InputError, match="found samples of 2 and 2, expected 2 and 3"):
        metric.compute()
    metric.update(torch.tensor([2]), torch.zeros(1), False)
    assert isinstance(metric, TwoSampleMetric) and metric.compute().item() == 1.0
    few = metrics.KLoM()
    for i in range(9):
        few.update(i, torch.zeros(3), is_oracle=True)
        few.update(i, torch.zeros(3), is_oracle=False)
    with pytest.raises(InputError, match="9 unlearned models and 9 oracles, expected at least 10"):
        few.compute()


def test_model_utility_needs_its_parts() -> None:
    metric = metrics.ModelUtility(["a", "b", "c"])
    metric.update("a", torch.tensor([0]), torch.ones(1))
    with pytest.raises(InputError, match="found no values of b, c"):
        metric.compute()
    with pytest.raises(InputError, match="found part 'd', expected one of a, b, c"):
        metric.update("d", torch.tensor([0]), torch.ones(1))
    with pytest.raises(InputError, match="found no parts"):
        metrics.ModelUtility([])


def test_rows_of_token_statistics_are_selected_by_number() -> None:
    """Select rows in any order, from tables of any width."""
    metric = metrics.MinK(3)
    wide: TokenStatistics = STATISTICS.rows(torch.tensor([2, 0, 1]))
    metric.update(torch.tensor([2, 0, 1]), wide)
    assert torch.equal(metric.compute(), metrics.min_k(STATISTICS)[:3])
