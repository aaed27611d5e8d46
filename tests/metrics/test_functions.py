"""The metrics as functions, against closed forms and naive second implementations."""

import math
import zlib
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_values import random_statistics
from scipy.stats import hmean, ks_2samp
from torch import Tensor

from lightning_unlearn import metrics
from lightning_unlearn.errors import InputError
from lightning_unlearn.model.token_statistics import TokenStatistics


def of_tops(*rows: list[int]) -> TokenStatistics:
    width = max(len(row) for row in rows)
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    top = torch.tensor([row + [0] * (width - len(row)) for row in rows]).double()
    nothing = torch.zeros_like(top)
    return TokenStatistics(nothing, nothing, nothing, nothing, top, mask)


def lists(table: Tensor, statistics: TokenStatistics) -> list[list[float]]:
    """Return the values of the label tokens, row by row."""
    return [row[real].tolist() for row, real in zip(table, statistics.mask, strict=True)]


LENGTHS = [1, 2, 7, 4, 11, 3, 20, 5]


def assert_equal(found: Tensor, expected: list[float]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    tolerance = 1e-12 if found.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def naive_extraction_strength(tops: list[float]) -> float:
    for k in range(len(tops) + 1):
        if all(top == 1 for top in tops[k:]):
            return 1 - k / len(tops)
    raise AssertionError


def naive_lowest(values: list[float], percent: int) -> float:
    few = max(1, len(values) * percent // 100)
    return sum(sorted(values)[:few]) / few


def test_means_over_label_tokens() -> None:
    s = random_statistics(LENGTHS)
    logps, tops, margins = lists(s.log_prob, s), lists(s.top, s), lists(s.margin, s)
    expected = [math.prod(math.exp(x) for x in row) ** (1 / len(row)) for row in logps]
    assert_equal(metrics.probability(s), expected)
    assert_equal(metrics.exact_memorization(s), [sum(row) / len(row) for row in tops])
    assert_equal(metrics.margin(s), [sum(row) / len(row) for row in margins])
    assert s.kl is not None
    assert_equal(metrics.kl_to_oracle(s), [sum(row) / len(row) for row in lists(s.kl, s)])
    assert_equal(metrics.loss_score(s.log_probs), [sum(row) / len(row) for row in logps])


@pytest.mark.parametrize(
    ("row", "strength"),
    [([1], 1), ([0], 0), ([1, 1, 1], 1), ([1, 1, 0], 0), ([0, 1, 1, 1], 0.75), ([1, 0, 1], 1 / 3)],
)
def test_extraction_strength_in_closed_form(row: list[int], strength: float) -> None:
    # The other row is longer, so the end of this row is masked and must not count.
    found = metrics.extraction_strength(of_tops(row, [1, 0, 0, 1, 1, 1]))
    assert_equal(found, [strength, 0.5])


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=5))
def test_extraction_strength_equals_a_naive_implementation(rows: list[list[int]]) -> None:
    found = metrics.extraction_strength(of_tops(*rows))
    assert_equal(found, [naive_extraction_strength([float(x) for x in row]) for row in rows])


@pytest.mark.parametrize("percent", [1, 20, 29, 60, 100])
def test_min_k_equals_a_naive_implementation(percent: int) -> None:
    s = random_statistics([*LENGTHS, 100])
    expected = [naive_lowest(row, percent) for row in lists(s.log_prob, s)]
    assert_equal(metrics.min_k(s, percent / 100), expected)
    standard = lists((s.log_prob - s.mean) / s.std, s)
    expected = [naive_lowest(row, percent) for row in standard]
    assert_equal(metrics.min_k_plus_plus(s, percent / 100), expected)


def test_min_k_plus_plus_of_flat_and_certain_distributions() -> None:
    """Without a deviation, the most likely label has 0, and any other a finite value."""
    s = random_statistics([2, 2])
    flat = torch.full((2, 2), -math.log(6)).double()
    s = replace(s, log_prob=flat, mean=flat, std=torch.zeros(2, 2))
    assert metrics.min_k_plus_plus(s).tolist() == [0.0, 0.0]
    certain = replace(s, log_prob=torch.tensor([[0.0, 0.0], [0.0, -200.0]]), mean=torch.zeros(2, 2))
    found = metrics.min_k_plus_plus(certain)
    assert found[0] == 0 and -1e10 < found[1] < -1e6


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, math.nan])
def test_min_k_refuses_invalid_shares(share: float) -> None:
    with pytest.raises(InputError, match=r"found a share of .*more than 0 and at most 1"):
        metrics.min_k(random_statistics([2]), share)
    with pytest.raises(InputError, match="found a share"):
        metrics.MinKPlusPlus(share=share)


@pytest.mark.parametrize("width", [0, 3])
def test_a_sequence_without_label_tokens_has_no_value(width: int) -> None:
    nothing = torch.zeros(2, width)
    s = TokenStatistics(nothing, nothing, nothing, nothing, nothing, nothing.bool(), nothing)
    for measure in (
        metrics.probability,
        metrics.exact_memorization,
        metrics.extraction_strength,
        metrics.margin,
        metrics.min_k,
        metrics.min_k_plus_plus,
        metrics.kl_to_oracle,
    ):
        assert measure(s).shape == (2,) and measure(s).isnan().all(), measure


def test_distance_to_the_oracle() -> None:
    policy, oracle = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -2.0, -1.0])
    assert metrics.re_distance(policy, oracle).tolist() == [0.25, 0.0, 4.0]
    assert metrics.overshoot(policy, oracle).tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(InputError, match=r"found values \[3\] and \[3, 1\]"):
        metrics.re_distance(policy, oracle[:, None])
    with pytest.raises(InputError, match="expected statistics of a pass with an oracle"):
        metrics.kl_to_oracle(replace(random_statistics([2]), kl=None))


def naive_truth_ratio(wrong: list[float], right: float, variant: str) -> float:
    chances = [math.exp(x) for x in wrong]
    if variant == "arithmetic":
        return sum(chances) / len(chances) / math.exp(right)
    return math.prod(chances) ** (1 / len(chances)) / math.exp(right)


@pytest.mark.parametrize("variant", ["arithmetic", "geometric"])
def test_truth_ratio_equals_a_naive_implementation(
    variant: Literal["arithmetic", "geometric"],
) -> None:
    random = torch.Generator().manual_seed(0)
    wrong = -torch.rand(6, 5, generator=random).double() * 4
    right = -torch.rand(6, generator=random).double() * 4
    counts = [1, 2, 3, 4, 5, 5]
    mask = torch.arange(5) < torch.tensor(counts)[:, None]
    # Masked values have no effect.
    wrong[~mask] = torch.nan
    found = metrics.truth_ratio(wrong, right, mask, variant)
    expected = [
        naive_truth_ratio(wrong[i, :n].tolist(), right[i].item(), variant)
        for i, n in enumerate(counts)
    ]
    assert_equal(found, expected)
    full = metrics.truth_ratio(wrong[4:], right[4:], variant=variant)
    assert_equal(full, expected[4:])


def test_truth_ratio_of_very_unlikely_answers() -> None:
    """Probabilities that underflow still have a ratio."""
    wrong = torch.tensor([[-1000.0, -1000.0]]).double()
    right = torch.tensor([-1001.0]).double()
    assert_equal(metrics.truth_ratio(wrong, right), [math.e])
    assert_equal(metrics.choice_probability(right, wrong), [1 / (1 + 2 * math.e)])


def test_truth_ratio_refuses() -> None:
    wrong, right = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(InputError, match="found variant 'mean', expected one of arithmetic, geom"):
        metrics.truth_ratio(wrong, right, variant="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="found variant 'x'"):
        metrics.TruthRatio(variant="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="row 1 has no wrong answer"):
        metrics.truth_ratio(wrong, right, torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(InputError, match=r"wrong answers \[2, 3\].*right answers \[2, 1\]"):
        metrics.truth_ratio(wrong, right[:, None])


def test_truth_ratio_utility() -> None:
    assert_equal(metrics.truth_ratio_utility(torch.tensor([0.0, 0.25, 1.0, 3.0])), [1, 0.75, 0, 0])


def test_choice_probability_equals_a_naive_implementation() -> None:
    random = torch.Generator().manual_seed(1)
    wrong = -torch.rand(4, 3, generator=random).double()
    right = -torch.rand(4, generator=random).double()
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()
    expected = []
    for row, chosen, real in zip(wrong, right, mask, strict=True):
        own = math.exp(chosen.item())
        expected.append(own / (own + sum(math.exp(x) for x in row[real].tolist())))
    assert_equal(metrics.choice_probability(right, wrong, mask), expected)


def test_forget_quality_equals_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    one, two = random.normal(size=30), random.normal(0.7, 1, size=40)
    found = metrics.forget_quality(torch.from_numpy(one), torch.from_numpy(two))
    assert found == ks_2samp(one, two).pvalue
    assert metrics.forget_quality(torch.from_numpy(one), torch.from_numpy(one)) == 1.0
    # The samples do not overlap: 2 of the 70! / (30! 40!) orders are as extreme.
    apart = metrics.forget_quality(torch.from_numpy(one), torch.from_numpy(two + 100))
    assert apart == pytest.approx(2 / math.comb(70, 30))
    with pytest.raises(InputError, match="found 0 truth ratios of the unlearned and 3"):
        metrics.forget_quality(torch.zeros(0), torch.zeros(3))
    with pytest.raises(InputError, match="no NaN"):
        metrics.forget_quality(torch.tensor([math.nan]), torch.zeros(3))


def test_model_utility() -> None:
    parts = [0.2, 0.9, 0.55, 1.0]
    assert metrics.model_utility(parts) == pytest.approx(hmean(parts))
    assert metrics.model_utility(torch.tensor([0.5, 0.5])) == pytest.approx(0.5)
    assert metrics.model_utility([0.0, 0.9]) == 0.0
    for wrong in ([], [0.5, -0.1], [0.5, math.nan]):
        with pytest.raises(InputError, match="model utility: found parts"):
            metrics.model_utility(wrong)


def naive_rouge(answer: str, written: str) -> tuple[float, float]:
    """Compute recall and F1 of lower-case words, without stems."""
    a, b = answer.lower().split(), written.lower().split()
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    common = table[-1][-1]
    return common / len(a), 2 * common / (len(a) + len(b))


words = st.lists(st.sampled_from(["sea", "Port", "river", "7", "ox"]), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(words, words)
def test_rouge_equals_a_naive_implementation(answer: list[str], written: list[str]) -> None:
    found = metrics.rouge_l([" ".join(answer)], [" ".join(written)], stemmer=False)
    recall, f1 = naive_rouge(" ".join(answer), " ".join(written))
    assert_equal(found.recall, [recall])
    assert_equal(found.f1, [f1])


def test_rouge_of_stems_and_of_texts_without_words() -> None:
    found = metrics.rouge_l(["she runs rivers"], ["running river"])
    assert_equal(found.recall, [2 / 3])
    assert_equal(found.precision, [1.0])
    assert metrics.rouge_l(["she runs"], ["running"], stemmer=False).f1.tolist() == [0.0]
    answers = ["", "", "a", "東京", "東京", "..."]
    written = ["", "a", "", "東京 ", "京都", ""]
    for scores in metrics.rouge_l(answers, written):
        assert scores.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert [len(scores) for scores in metrics.rouge_l([], [])] == [0, 0, 0]
    with pytest.raises(InputError, match="found 2 answers and 1 written texts"):
        metrics.rouge_l(["a", "b"], ["a"])
    with pytest.raises(InputError, match="found score 'f2', expected one of recall, precision, f1"):
        metrics.RougeL(score="f2")  # type: ignore[arg-type]


def test_memorization() -> None:
    text = "the ships of the town"
    assert metrics.verbatim_memorization([text], ["the ship of the town"]).item() == pytest.approx(
        0.8
    )
    written = ["Port Melon\nQuestion: where?", "Port Melon\n\nand", "Port Question: Melon"]
    found = metrics.knowledge_memorization(["Port Melon"] * 3, written)
    assert_equal(found, [1.0, 1.0, 2 / 3])
    whole = metrics.knowledge_memorization(["Port Melon"], ["Port Melon\n\nand so"], ends=())
    assert_equal(whole, [2 / 3])


def test_membership_scores() -> None:
    s, reference = random_statistics([2, 5, 3]), random_statistics([2, 5, 3], seed=1)
    texts = ["abc", "abc " * 30, "été"]
    sums = [sum(row) for row in lists(s.log_prob, s)]
    sizes = [len(zlib.compress(text.encode())) for text in texts]
    totals = [a / b for a, b in zip(sums, sizes, strict=True)]
    assert_equal(metrics.zlib_score(s.log_probs, texts, "sum"), totals)
    means = [a / n / b for a, n, b in zip(sums, [2, 5, 3], sizes, strict=True)]
    assert_equal(metrics.zlib_score(s.log_probs, texts), means)
    others = [sum(row) for row in lists(reference.log_prob, reference)]
    expected = [(a - b) / n for a, b, n in zip(sums, others, [2, 5, 3], strict=True)]
    assert_equal(metrics.reference_score(s.log_probs, reference.log_probs), expected)
    assert metrics.gradient_norm_score(torch.tensor([1.0, 3.0])).tolist() == [-1.0, -3.0]
    with pytest.raises(InputError, match="found 1 texts for 3 sequences"):
        metrics.zlib_score(s.log_probs, ["a"])
    with pytest.raises(InputError, match="found other label tokens"):
        metrics.reference_score(s.log_probs, random_statistics([2, 5, 4]).log_probs)


def test_scores_are_higher_for_members() -> None:
    s = random_statistics([4])
    known = replace(s, log_prob=s.log_prob / 2)
    for score in (
        lambda x: metrics.loss_score(x.log_probs),
        metrics.min_k,
        metrics.min_k_plus_plus,
        lambda x: metrics.zlib_score(x.log_probs, ["abcd"]),
        lambda x: metrics.reference_score(x.log_probs, s.log_probs),
    ):
        assert score(known).item() > score(s).item()


def naive_auc(members: list[float], others: list[float]) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others]
    return sum(wins) / len(wins)


scores = st.lists(st.integers(-3, 3).map(float) | st.just(-math.inf), min_size=1, max_size=9)


@given(scores, scores)
def test_auc_counts_all_pairs(members: list[float], others: list[float]) -> None:
    found = metrics.auc(torch.tensor(members), torch.tensor(others))
    assert found == pytest.approx(naive_auc(members, others), abs=1e-15)
    turned = metrics.auc(torch.tensor(others), torch.tensor(members))
    assert found + turned == pytest.approx(1)


def test_auc_and_privleak() -> None:
    assert metrics.auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0])) == 1.0
    assert metrics.auc(torch.zeros(4), torch.zeros(7)) == 0.5
    with pytest.raises(InputError, match="scores of 0 members and 1 others"):
        metrics.auc(torch.zeros(0), torch.zeros(1))
    with pytest.raises(InputError, match="of which 1 are NaN"):
        metrics.auc(torch.tensor([math.nan]), torch.zeros(1))
    assert metrics.privleak(0.6, 0.5) == pytest.approx(0.2)
    assert metrics.privleak(0.5, 0.5) == 0.0
    for auc, retrained in ((0.5, 0.0), (1.2, 0.5), (0.5, math.nan)):
        with pytest.raises(InputError, match="PrivLeak: found an AUC"):
            metrics.privleak(auc, retrained)
