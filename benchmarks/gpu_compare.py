"""Comparison of two runs of one path, number by number."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_unlearn.storage.records import EXAMPLES, STEPS, TRAINING, read_table

# Metrics of generated texts: with two nearly equal likelihoods, rounding may choose another token.
GENERATED = ("accuracy/", "truncated/", "verbatim/", "knowledge", "tofu_rouge/", "tofu_truncated/")
# Metrics that jump when one likelihood becomes larger than another.
COUNTS = ("auc/", "privleak/", "overshoot/", "exact_memorization/", "extraction_strength/", "tofu/")
# Metric of forgetting: the log-likelihood per token of the forget set's answers.
FORGET = "answers/safety"


@dataclass(frozen=True)
class Found:
    """Results of a run.

    Attributes:
        losses: losses by stage and step.
        means: means by step and metric.
        values: values by step, metric and example.
        adapters: hash of the bytes of the adapters.
    """

    losses: dict[tuple[str, int], float]
    means: dict[tuple[int, str], float]
    values: dict[tuple[int, str, int], float]
    adapters: str

    @property
    def finite(self) -> bool:
        """Return whether all numbers are finite."""
        every = (*self.losses.values(), *self.means.values(), *self.values.values())
        return all(map(math.isfinite, every))

    @property
    def start(self) -> float:
        """Return the log-likelihood of the forget set before unlearning, nats per token."""
        return self.means[0, FORGET]

    @property
    def end(self) -> float:
        """Return the log-likelihood of the forget set after unlearning, nats per token."""
        return self.means[max(step for step, _ in self.means), FORGET]


@dataclass(frozen=True)
class Gap:
    """Difference of two runs.

    Attributes:
        keys: "the same" with counts, or the number of values that only one run has.
        losses: largest difference of a loss, relative to 1 + its size.
        likelihoods: largest difference of a continuous value, relative to 1 + its size.
        worst: name of that value.
        generated: fraction of equal scores of generated texts; 1 without any.
        counts: fraction of equal values of metrics that jump; 1 without any.
        ranks: lowest rank correlation of the examples' log-likelihoods over the steps.
    """

    keys: str
    losses: float
    likelihoods: float
    worst: str
    generated: float
    counts: float
    ranks: float


def read_run(folder: Path) -> Found:
    """Read the results of a run.

    Args:
        folder: folder of a run of ``lightning-unlearn fit``.
    """

    def rows(file: str, *columns: str) -> list[tuple[Any, ...]]:
        table = read_table(folder / file)[list(columns)]
        return list(table.itertuples(index=False, name=None))

    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    losses = rows(TRAINING, "stage", "step", "loss")
    means = rows(STEPS, "step", "metric", "value")
    values = rows(EXAMPLES, "step", "metric", "example", "value")
    return Found(
        {(str(stage), int(step)): float(value) for stage, step, value in losses},
        {(int(step), str(metric)): float(value) for step, metric, value in means},
        {(int(s), str(metric), int(number)): float(v) for s, metric, number, v in values},
        digest.hexdigest(),
    )


def compare(own: Found, other: Found) -> Gap:
    """Compute the difference of two runs.

    Args:
        own: the run.
        other: the reference run.
    """
    mine = {**own.means, **own.values}
    theirs: dict[Any, float] = {**other.means, **other.values}
    both = sorted(set(mine) & set(theirs), key=str)
    smooth = [key for key in both if not key[1].startswith((*GENERATED, *COUNTS))]
    gaps = {key: abs(mine[key] - theirs[key]) / (1 + abs(theirs[key])) for key in smooth}
    worst = max(gaps, key=lambda key: _or_inf(gaps[key]), default=None)
    steps = sorted(set(own.losses) & set(other.losses))
    losses = [abs(own.losses[s] - other.losses[s]) / (1 + abs(other.losses[s])) for s in steps]
    return Gap(
        _keys(own, other),
        max(map(_or_inf, losses), default=math.inf),
        _or_inf(gaps[worst]) if worst is not None else math.inf,
        " ".join(map(str, (worst[1], "step", worst[0]))) if worst is not None else "none",
        _equal([key for key in both if key[1].startswith(GENERATED)], mine, theirs),
        _equal([key for key in both if key[1].startswith(COUNTS)], mine, theirs),
        _ranks(own, other),
    )


def _or_inf(value: float) -> float:
    """Return inf for nan, so that nan counts as a large difference."""
    return math.inf if math.isnan(value) else value


def _keys(own: Found, other: Found) -> str:
    only = sorted(
        {str(key) for name in ("losses", "means", "values") for key in _only(own, other, name)}
    )
    if only:
        return f"{len(only)} values in one run only, such as {only[0]}"
    return f"the same {len(own.losses)} steps, {len(own.means)} means, {len(own.values)} values"


def _only(own: Found, other: Found, name: str) -> set[Any]:
    return set(getattr(own, name)) ^ set(getattr(other, name))


def _equal(keys: list[Any], mine: Any, theirs: Any) -> float:
    same = sum(abs(mine[key] - theirs[key]) <= 1e-6 for key in keys)
    return same / len(keys) if keys else 1.0


def _ranks(own: Found, other: Found) -> float:
    found = []
    for step in sorted({step for step, metric, _ in own.values if metric == FORGET}):
        keys = [k for k in own.values if k[:2] == (step, FORGET) and k in other.values]
        found.append(
            spearman([own.values[key] for key in keys], [other.values[key] for key in keys])
        )
    return min(found, default=math.nan)


def spearman(one: list[float], two: list[float]) -> float:
    """Compute the rank correlation of two lists of equal length without ties.

    Args:
        one: values.
        two: values of the same examples.
    """

    def ranks(values: list[float]) -> list[int]:
        order = sorted(range(len(values)), key=values.__getitem__)
        places = [0] * len(values)
        for place, index in enumerate(order):
            places[index] = place
        return places

    count = len(one)
    squares = sum((a - b) ** 2 for a, b in zip(ranks(one), ranks(two), strict=True))
    return 1 - 6 * squares / (count * (count**2 - 1)) if count > 1 else math.nan
