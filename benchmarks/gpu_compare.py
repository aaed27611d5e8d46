"""Two runs of one path, number by number."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_unlearn.storage.records import EXAMPLES, STEPS, TRAINING, read_table

# Measures of texts that are written: a likelihood that is as good as another may end in another
# token.
WRITTEN = ("accuracy/", "truncated/", "verbatim/", "knowledge", "tofu_rouge/", "tofu_truncated/")
# Measures that jump where a likelihood passes another.
COUNTS = ("auc/", "privleak/", "overshoot/", "exact_memorization/", "extraction_strength/", "tofu/")
# What a run is judged by: the log-likelihood per token of the forget set's answers.
FORGET = "answers/safety"


@dataclass(frozen=True)
class Found:
    """What a run left.

    Attributes:
        losses: by stage and step.
        means: by step and measure.
        values: by step, measure and example.
        adapters: hash of the adapters' bytes.
    """

    losses: dict[tuple[str, int], float]
    means: dict[tuple[int, str], float]
    values: dict[tuple[int, str, int], float]
    adapters: str

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        every = (*self.losses.values(), *self.means.values(), *self.values.values())
        return all(map(math.isfinite, every))

    @property
    def start(self) -> float:
        """The forget set before unlearning, nats per token."""
        return self.means[0, FORGET]

    @property
    def end(self) -> float:
        """The forget set after unlearning, nats per token."""
        return self.means[max(step for step, _ in self.means), FORGET]


@dataclass(frozen=True)
class Gap:
    """How far two runs are apart.

    Attributes:
        keys: "the same", with counts, or what only one of them has.
        losses: largest difference of a loss, relative to 1 + its size.
        likelihoods: largest difference of a value that is no jump, likewise.
        worst: which value that is.
        written: share of the scores of written texts that are equal; 1 without any.
        counts: share of the values that jump that are equal; 1 without any.
        ranks: lowest rank correlation of the examples' log-likelihoods over the steps.
    """

    keys: str
    losses: float
    likelihoods: float
    worst: str
    written: float
    counts: float
    ranks: float


def read_run(folder: Path) -> Found:
    """Read a run's folder.

    Args:
        folder: of ``lightning-unlearn fit``.
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
        {(int(step), str(measure)): float(value) for step, measure, value in means},
        {(int(s), str(measure), int(number)): float(v) for s, measure, number, v in values},
        digest.hexdigest(),
    )


def compare(own: Found, other: Found) -> Gap:
    """How far a run is from another.

    Args:
        own: the run.
        other: the one that is taken for right.
    """
    mine = {**own.means, **own.values}
    theirs: dict[Any, float] = {**other.means, **other.values}
    both = sorted(set(mine) & set(theirs), key=str)
    smooth = [key for key in both if not key[1].startswith((*WRITTEN, *COUNTS))]
    gaps = {key: abs(mine[key] - theirs[key]) / (1 + abs(theirs[key])) for key in smooth}
    worst = max(gaps, key=lambda key: _or_inf(gaps[key]), default=None)
    steps = sorted(set(own.losses) & set(other.losses))
    losses = [abs(own.losses[s] - other.losses[s]) / (1 + abs(other.losses[s])) for s in steps]
    return Gap(
        _keys(own, other),
        max(map(_or_inf, losses), default=math.inf),
        _or_inf(gaps[worst]) if worst is not None else math.inf,
        " ".join(map(str, (worst[1], "step", worst[0]))) if worst is not None else "none",
        _equal([key for key in both if key[1].startswith(WRITTEN)], mine, theirs),
        _equal([key for key in both if key[1].startswith(COUNTS)], mine, theirs),
        _ranks(own, other),
    )


def _or_inf(value: float) -> float:
    """nan is no small difference."""
    return math.inf if math.isnan(value) else value


def _keys(own: Found, other: Found) -> str:
    only = sorted(
        {str(key) for name in ("losses", "means", "values") for key in _only(own, other, name)}
    )
    if only:
        return f"{len(only)} of one run alone, such as {only[0]}"
    return f"the same {len(own.losses)} steps, {len(own.means)} means, {len(own.values)} values"


def _only(own: Found, other: Found, name: str) -> set[Any]:
    return set(getattr(own, name)) ^ set(getattr(other, name))


def _equal(keys: list[Any], mine: Any, theirs: Any) -> float:
    same = sum(abs(mine[key] - theirs[key]) <= 1e-6 for key in keys)
    return same / len(keys) if keys else 1.0


def _ranks(own: Found, other: Found) -> float:
    found = []
    for step in sorted({step for step, measure, _ in own.values if measure == FORGET}):
        keys = [k for k in own.values if k[:2] == (step, FORGET) and k in other.values]
        found.append(
            spearman([own.values[key] for key in keys], [other.values[key] for key in keys])
        )
    return min(found, default=math.nan)


def spearman(one: list[float], two: list[float]) -> float:
    """Rank correlation of two equally long lists without equal values.

    Args:
        one: values.
        two: values of the same things.
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
